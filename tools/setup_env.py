"""Build the project's virtual environment, or say what is missing from it.

    python3.11 tools/setup_env.py [--check] [--venv .venv]

``make setup`` calls this. The order of the steps matters: nobody maintains the
OpenMMLab 2.x releases against a current torch, so mmcv's operators are compiled
here, once, against the torch that was just installed. The wheel is kept outside the
checkout, in $MMGHOSTNETV2_CACHE (else the user's cache folder), and serves every
later environment. Work that is done is skipped, so a rerun goes on where the last
one stopped.

Standard library only, and syntax of Python 3.6: it has to start on an old Python to
tell its user which one is needed.
"""

import argparse
import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = 'mmghostnetv2'
SUPPORTED = ((3, 11), (3, 12))
REQUIREMENTS = ('build', 'torch', 'mmcv', 'openmim', 'stack', 'tests')
STAMP = '.mmghostnetv2-setup'
AGAIN = ' Then run the same command again; finished steps are kept.'

# What the output of a failed command says, and the remedy. The first match counts.
TROUBLES = (
    (
        r'No space left on device|\[Errno 28\]',
        'the disk is full. Free some space: the environment takes about 6 GB.',
    ),
    (
        r'[Nn]ame resolution|NameResolutionError|NewConnectionError|ProxyError|'
        r'ConnectTimeoutError|ReadTimeoutError|Network is unreachable|'
        r'Connection (refused|reset)|RemoteDisconnected|SSLError',
        'the package index cannot be reached. Check the network and the proxy '
        'settings (HTTPS_PROXY, pip config list).',
    ),
    (
        r'Killed signal terminated program|MemoryError',
        'the machine ran out of memory. Set MAX_JOBS=1 in front of the command.',
    ),
)

# Run by the environment's interpreter: which one it is, and what it has. pip writes
# RECORD last: a distribution without it was cut off while being installed.
PROBE = """
import importlib.metadata, json, pip, sys, sysconfig
from pathlib import Path
dists, torn = {}, []
for folder in Path(sysconfig.get_paths()['purelib']).glob('*.dist-info'):
    if (folder / 'RECORD').exists():
        dist = importlib.metadata.Distribution.at(folder)
        dists[dist.metadata['Name']] = dist.version
    else:
        torn.append(str(folder))
print(json.dumps(dict(version=sys.version_info[:3], dists=dists, torn=torn)))
"""

# Load mmcv's compiled operators and run one whose answer is known.
CHECK_OPS = """
import sys, torch, mmcv._ext
from mmcv.ops import get_compiling_cuda_version, nms
cuda = sys.argv[1] != 'cpu'
assert not cuda or get_compiling_cuda_version() != 'not available'
boxes = torch.tensor([[0., 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]])
scores = torch.tensor([.7, .9, .8])
for device in ['cpu', 'cuda'] if cuda and torch.cuda.is_available() else ['cpu']:
    _, kept = nms(boxes.to(device), scores.to(device), iou_threshold=.5)
    assert kept.tolist() == [1, 2], kept
"""


class SetupError(Exception):
    """What went wrong and what to do about it, in words for the user."""


def say(text, end='\n'):
    """Print at once, also into a pipe."""
    print(text, end=end, flush=True)


def read(path):
    """Return a file's text, empty where there is none."""
    return path.read_text() if path.is_file() else ''


def normalize(name):
    """Spell a distribution's name the way package indexes compare them (PEP 503)."""
    return re.sub(r'[-_.]+', '-', name).lower()


def pins(*names):
    """Return {distribution: version, or None for any} of requirements/NAME.txt."""
    found = {}
    for name in names:
        for line in (ROOT / 'requirements' / (name + '.txt')).read_text().splitlines():
            line = line.split('#')[0].strip()
            if line:
                dist, _, version = line.partition('==')
                found[normalize(dist)] = version.lstrip('=') or None
    return found


def missing(names, state):
    """Return 'NAME VERSION' of each pin that the environment does not meet."""
    have = {normalize(name): version for name, version in state['dists'].items()}
    return [
        f'{name} {version or ""}'.strip()
        for name, version in pins(*names).items()
        if name not in have or version not in (None, have[name])
    ]


def child_env(**extra):
    """Return the environment of child processes; nothing global is changed.

    With PYTHONPATH (ROS sets it), packages from elsewhere would count as installed.
    """
    env = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHONHOME')}
    return dict(env, PIP_DISABLE_PIP_VERSION_CHECK='1', **extra)


def output_of(*command):
    """Return what a short command prints, or None if it fails."""
    try:
        return subprocess.run(
            [str(word) for word in command],
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=child_env(),
            text=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def run(command, log, **env):
    """Run a long command: its output to ``log``, its last line and time on screen.

    It gets a process group of its own, so that an interrupt also ends the compilers
    it started.
    """
    with log.open('ab') as sink:
        start = sink.tell()
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=child_env(**env),
            cwd=ROOT,
            start_new_session=True,
        )
    try:
        show_alive(process, log)
    finally:
        if process.poll() is None:
            stop(process)
    if process.returncode:
        text = log.read_bytes()[start:].decode(errors='replace')
        raise SetupError(explain(text, log))


def stop(process):
    """End a process group: politely, so that pip removes its temporary folders."""
    os.killpg(process.pid, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    process.wait()


def show_alive(process, log):
    """Wait, and show progress from the log every second (in a pipe: half minute)."""
    began, tty = time.monotonic(), sys.stdout.isatty()
    while True:
        try:
            process.wait(timeout=1 if tty else 30)
            break
        except subprocess.TimeoutExpired:
            tail = log.read_bytes()[-50000:].decode(errors='replace')
            compiled = re.findall(r'(?m)^\s*(\[\d+/\d+\]) ', tail)  # as ninja counts
            last = compiled[-1:] or tail.strip().split('\n')[-1:]
            text = f'      {time.monotonic() - began:.0f} s  {last[0].strip()}'
            text = text[: shutil.get_terminal_size().columns - 1]
            say(f'\r\033[K{text}' if tty else text, end='' if tty else '\n')
    say('\r\033[K' if tty else '', end='')


def explain(text, log):
    """Turn the output of a failed command into what helps its user."""
    for pattern, remedy in TROUBLES:
        if re.search(pattern, text[-20000:]):
            return f'{remedy}{AGAIN} (Full output: {log})'
    tail = '\n  '.join(text.strip().splitlines()[-12:])
    return f'a command failed. Its last lines:\n  {tail}\nFull output: {log}'


def check_python():
    """Refuse a Python that torch or mmcv do not build for."""
    if os.name == 'nt':
        raise SetupError('mmcv is compiled on Linux and macOS; on Windows, use WSL.')
    if sys.version_info[:2] not in SUPPORTED:
        raise SetupError(
            f'this is Python {platform.python_version()}; the pinned packages need '
            '3.11 or 3.12. Run: make quickstart PYTHON=/path/to/python3.11'
        )


def check_disk(folder, gigabytes):
    """Say so before a download of several GB and not in the midst of it."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    if free < gigabytes:
        raise SetupError(
            f'{folder} has {free:.1f} GB free and {gigabytes} GB are needed. '
            'Free some space.' + AGAIN
        )


def check_compiler(python):
    """Try what compiling mmcv takes: a C++17 compiler and Python's headers."""
    compiler = shlex.split(os.environ.get('CXX') or 'c++')
    remedy = (
        'Install one (Debian, Ubuntu: sudo apt install g++; Fedora: sudo dnf install '
        'gcc-c++; macOS: xcode-select --install).' + AGAIN
    )
    if not shutil.which(compiler[0]):
        raise SetupError(
            f"no C++ compiler ('{compiler[0]}') found; mmcv has operators to compile. "
            + remedy
        )
    code = 'import sysconfig; print(sysconfig.get_paths()["include"])'
    include = output_of(python, '-I', '-c', code)
    done = subprocess.run(
        compiler + ['-std=c++17', '-fsyntax-only', '-I', include, '-x', 'c++', '-'],
        input='#include <string_view>\n#include <Python.h>\n',
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode and 'Python.h' in done.stdout:
        raise SetupError(
            f"Python's headers (Python.h) are not in {include}. Install them (Debian, "
            'Ubuntu: sudo apt install python3-dev; Fedora: sudo dnf install '
            'python3-devel).' + AGAIN
        )
    if done.returncode:
        said = ' '.join(done.stdout.splitlines()[:1])
        raise SetupError(f"'{compiler[0]}' is no C++17 compiler ({said}). {remedy}")


def check_before(venv, state):
    """Say what is bound to fail later before anything is downloaded."""
    no_torch = state is None or bool(missing(['torch'], state))
    check_disk(venv, 10 if no_torch else 2)
    if no_torch or missing(['mmcv'], state):
        wheels = wheel_folder('*', state['version'] if state else sys.version_info)
        if not list(wheels.parent.glob(wheels.name + '/mmcv-*.whl')):
            check_compiler(venv / 'bin/python' if state else sys.executable)


def probe(venv):
    """Return version and distributions of ``venv``, or None if it is unusable.

    Unusable: its interpreter is gone or fails (Python upgraded, creation cut off) or
    is not supported, or the folder was moved and its scripts point elsewhere.
    """
    answer = output_of(venv / 'bin/python', '-I', '-c', PROBE)
    if answer is None:
        return None
    state = json.loads(answer)
    made = re.search(
        r'(?m)^command = .* -m venv [^/]*(/.*)$', read(venv / 'pyvenv.cfg')
    )
    moved = made and os.path.realpath(made.group(1)) != os.path.realpath(venv)
    return None if moved or tuple(state['version'][:2]) not in SUPPORTED else state


def make_venv(venv):
    """Create the environment, in place of an unusable one, and return its state."""
    if importlib.util.find_spec('ensurepip') is None:
        raise SetupError(
            'this Python cannot make virtual environments (no ensurepip). Install that '
            'part (Debian, Ubuntu: sudo apt install '
            f'python3.{sys.version_info[1]}-venv).' + AGAIN
        )
    if venv.is_symlink() or venv.exists():
        if not (venv / 'pyvenv.cfg').is_file():
            raise SetupError(f'{venv} is no virtual environment. Move it away.' + AGAIN)
        say(
            f'      {venv} is unusable (cut off, moved, or its Python is gone or not '
            'supported): building it anew'
        )
        shutil.rmtree(venv)
    # not sys.executable: that may lie in the very folder just removed
    base = getattr(sys, '_base_executable', sys.executable)
    output_of(base, '-m', 'venv', venv)
    state = probe(venv)
    if state is None:
        raise SetupError(f"'{base} -m venv {venv}' fails: run it to see why.")
    return state


def pip(venv, *args, **env):
    """Run the environment's pip."""
    run([venv / 'bin/python', '-m', 'pip', *args], venv / 'setup.log', **env)


def pip_install(venv, *args):
    """Install, and let no dependency replace what another step pins."""
    others = [x for x in REQUIREMENTS if f'-rrequirements/{x}.txt' not in args]
    pip(venv, 'install', *args, *[f'-crequirements/{x}.txt' for x in others])


def wheel_folder(ops, version):
    """Return where the wheel of mmcv is kept, by all its machine code depends on.

    Outside the checkout: a later clone or a new environment needs no compiler.
    """
    caches = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    root = os.environ.get('MMGHOSTNETV2_CACHE') or os.path.join(caches, PROJECT)
    mmcv, torch = pins('mmcv')['mmcv'], pins('torch')['torch']
    key = f'mmcv{mmcv}-cp{version[0]}{version[1]}-torch{torch}-{ops}'
    key += f'-{sys.platform}-{platform.machine()}'
    return Path(root).expanduser().absolute() / key


def cached_wheel(folder):
    """Return the wheel kept in ``folder``; throw away a damaged one."""
    for wheel in folder.glob('mmcv-*.whl'):
        try:
            with zipfile.ZipFile(wheel) as archive:
                if archive.testzip() is None:
                    return wheel
        except (zipfile.BadZipFile, EOFError, zlib.error):
            pass
        say(f'      the cached {wheel.name} is damaged: removing it')
        wheel.unlink()
    return None


def find_cuda():
    """Return (home, major version) of a CUDA toolkit, or (None, None).

    The one that CUDA_HOME names, else the one nvcc in PATH belongs to, else the usual
    place. An nvcc in PATH may be a mere wrapper, and a toolkit may be nvcc alone:
    cusparse.h, which torch's headers include, tells a complete one.
    """
    homes = [os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')]
    if not homes[0]:
        nvcc = os.path.realpath(shutil.which('nvcc') or '')
        homes = [os.path.dirname(os.path.dirname(nvcc)), '/usr/local/cuda']
    for home in map(Path, homes):
        said = output_of(home / 'bin/nvcc', '--version') or ''
        release = re.search(r'release (\d+)', said)
        if release and (home / 'include/cusparse.h').exists():
            return str(home), release.group(1)
    return None, None


def choose_ops(venv):
    """Return which operators to compile: 'cpu' or, for example, 'cu130'.

    CUDA's take a GPU (FORCE_CUDA, mmcv's own switch, overrules: 1 or 0) and a toolkit
    of the major version that torch was built with; torch insists on that.
    """
    code = 'import torch; print(torch.version.cuda, torch.cuda.is_available())'
    cuda, gpu = (output_of(venv / 'bin/python', '-I', '-c', code) or 'None no').split()
    wanted = {'0': False, '1': True}.get(os.environ.get('FORCE_CUDA'), gpu == 'True')
    if not wanted or cuda == 'None':
        return 'cpu'
    home, major = find_cuda()
    if major == cuda.split('.')[0]:
        return 'cu' + cuda.replace('.', '')
    found = f'CUDA {major} in {home}' if home else 'no complete toolkit'
    say(
        f"      mmcv's operators will be for the CPU only: {found} found. For GPUs, "
        f'install CUDA {cuda}, set CUDA_HOME to it, and run the same command again'
    )
    return 'cpu'


def max_jobs():
    """Return how many compilers may run at once: by cores, and 2 GB for each."""
    if os.environ.get('MAX_JOBS'):
        return os.environ['MAX_JOBS']
    cores = os.cpu_count() or 1
    if hasattr(os, 'sched_getaffinity'):
        cores = len(os.sched_getaffinity(0))
    free = re.findall(r'MemAvailable: *(\d+)', read(Path('/proc/meminfo')))
    limit = re.findall(r'^\d+', read(Path('/sys/fs/cgroup/memory.max')))
    memory = [int(x) >> 20 for x in free] + [int(x) >> 30 for x in limit]
    return str(max(1, min([cores] + [gigabytes // 2 for gigabytes in memory])))


def check_opencv(venv):
    """Tell missing libraries of the system from a broken mmcv, which imports OpenCV."""
    if output_of(venv / 'bin/python', '-I', '-c', 'import cv2') is None:
        raise SetupError(
            'OpenCV does not load, most likely for want of libraries of the system. '
            'Install them (Debian, Ubuntu: sudo apt install libgl1 libglib2.0-0 '
            f'libxcb1), or see why: {venv}/bin/python -c "import cv2".{AGAIN}'
        )


def build_wheel(venv, folder, ops):
    """Compile mmcv into a wheel in ``folder``; only a finished one gets there."""
    check_compiler(venv / 'bin/python')
    folder.mkdir(parents=True, exist_ok=True)
    check_disk(folder, 1)
    check_disk(Path(tempfile.gettempdir()), 2)
    # mmcv compiles for CUDA by itself where it sees a GPU: hide it from 'cpu'
    cuda = {'FORCE_CUDA': '0', 'CUDA_VISIBLE_DEVICES': ''}
    if ops != 'cpu':
        cuda = {'FORCE_CUDA': '1', 'CUDA_HOME': find_cuda()[0]}
    # Python's own flags ask for debug symbols, which take half of the time
    flags = {x: os.environ.get(x, '') + ' -g0 -w' for x in ('CFLAGS', 'CXXFLAGS')}
    jobs, mmcv = max_jobs(), 'mmcv==' + pins('mmcv')['mmcv']
    minutes = '5 to 10 minutes on 2 cores' if ops == 'cpu' else 'half an hour or so'
    say(f'      compiling its {ops} operators, once, {jobs} at a time: {minutes}')
    scratch = Path(tempfile.mkdtemp(prefix='.build-', dir=folder))
    options = ['--no-build-isolation', '--no-cache-dir', '--no-deps', '--no-binary']
    try:
        pip(
            *[venv, 'wheel', '-v', *options, 'mmcv', '-w', scratch, mmcv],
            **dict(cuda, **flags, MAX_JOBS=jobs, MMCV_WITH_OPS='1'),
        )
        built = next(scratch.glob('mmcv-*.whl'))
        os.replace(built, folder / built.name)
    except SetupError as error:
        hint = 'FORCE_CUDA=0 in front of the command compiles for the CPU only.'
        raise SetupError(f'{error}\n{hint}' if ops != 'cpu' else error) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder / built.name


def install_mmcv(venv, state, new_torch):
    """Install mmcv with operators that run against the torch that is there.

    ``new_torch``: an mmcv that is installed was compiled against another torch.
    """
    ops = choose_ops(venv)
    check = [venv / 'bin/python', '-I', '-c', CHECK_OPS, ops]
    if not (new_torch or missing(['mmcv'], state)) and output_of(*check) is not None:
        return
    folder = wheel_folder(ops, state['version'])
    cached = cached_wheel(folder)
    for wheel in [cached, None] if cached else [None]:
        wheel = wheel or build_wheel(venv, folder, ops)
        pip(venv, 'uninstall', '-y', 'mmcv')
        pip_install(venv, wheel)
        check_opencv(venv)
        if output_of(*check) is not None:
            return
        say(f'      {wheel.name} does not run with this torch: removing it')
        wheel.unlink()
    raise SetupError(
        'mmcv compiled, yet its operators do not run. See why with: '
        f'{venv}/bin/python -c "import mmcv.ops"'
    )


def fingerprint(state):
    """Return a hash of what a finished environment was made from."""
    files = [ROOT / 'requirements' / (name + '.txt') for name in REQUIREMENTS]
    files += [ROOT / 'setup.py', ROOT / PROJECT / 'version.py']
    facts = [read(path) for path in files + [Path(__file__)]]
    facts += [str(ROOT), state['version'], state['dists'].get('torch')]
    facts += [find_cuda(), os.environ.get('FORCE_CUDA')]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def lacks(venv, state):
    """Return what keeps the environment from being complete, in words."""
    if state is None:
        return [f'a working virtual environment in {venv}']
    absent = missing(REQUIREMENTS, state)
    if PROJECT not in state['dists']:
        absent.append(f'{PROJECT} (this project)')
    if not absent and read(venv / STAMP) != fingerprint(state):
        absent.append('the last checks: something changed since they were made')
    return absent


def step(number, names, needed=True, title=None):
    """Announce a step, and return whether it has work to do."""
    title = title or ', '.join(missing(names, {'dists': {}}))
    say(f'[{number}/6] {title}' + ('' if needed else ': there already'))
    return bool(needed)


def setup(venv):
    """Bring the environment to the pinned state, step by step."""
    state = probe(venv)
    if not lacks(venv, state):
        return
    check_before(venv, state)
    step(1, [], state is None, f'virtual environment {venv}')
    if state is None:
        state = make_venv(venv)
    (venv / STAMP).write_text('')
    (venv / 'setup.log').write_text('')
    for folder in state['torn']:  # pip would take them for installed
        shutil.rmtree(folder)
    if step(2, ['build'], missing(['build'], state)):
        pip_install(venv, '-rrequirements/build.txt')
    new_torch = step(3, ['torch'], missing(['torch'], state))
    if new_torch:
        pip_install(venv, '-rrequirements/torch.txt')
    step(4, ['mmcv'])
    install_mmcv(venv, state, new_torch)
    names = ['openmim', 'stack', 'tests']
    if step(5, names, missing(names, state), 'OpenMMLab libraries and test tools'):
        # openmim without its dependencies: see requirements/openmim.txt
        pip_install(venv, '--no-deps', '-rrequirements/openmim.txt')
        pip_install(venv, '-rrequirements/stack.txt', '-rrequirements/tests.txt')
    step(6, [], title=f'{PROJECT}, editable')
    pip(venv, 'install', '--no-deps', '--no-build-isolation', '--use-pep517', '-e', '.')
    state = probe(venv)
    (venv / STAMP).write_text(fingerprint(state))
    absent = lacks(venv, state)
    if absent:
        raise SetupError('installed, yet not there: ' + ', '.join(absent))


def main(argv=None):
    """Return the exit status: 0 complete, 1 not, 130 interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--venv', default=str(ROOT / '.venv'), help='its folder')
    parser.add_argument('--check', action='store_true', help='only say what is missing')
    args = parser.parse_args(argv)
    venv = Path(os.path.abspath(args.venv))
    try:
        check_python()
        if args.check:
            absent = lacks(venv, probe(venv))
            say('\n'.join('missing: ' + x for x in absent) or f'{venv} is complete')
            return int(bool(absent))
        setup(venv)
        say(f'{venv} is complete')
        return 0
    except SetupError as error:
        message = str(error)
    except OSError as error:
        full = error.errno == errno.ENOSPC
        message = TROUBLES[0][1] + AGAIN if full else str(error)
    except KeyboardInterrupt:
        say('\nInterrupted. Run the same command again to go on where it stopped.')
        return 130
    print('error:', message, file=sys.stderr)
    return 1


if __name__ == '__main__':
    # a terminated run cleans up and ends its compilers, as an interrupted one does
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
