"""Build the project's virtual environment, or what is missing from it.

Example:
    python3.11 tools/setup_env.py --venv .venv

``make setup`` and ``make litert`` call this script. Nobody maintains the OpenMMLab 2.x
releases against a current torch, so the script compiles mmcv's operators once, against
the torch that it has just installed. It keeps the wheel outside the checkout, in
$MMGHOSTNETV2_CACHE or the user's cache folder, and uses it for every later environment.
A second run continues where the first one stopped, and does nothing if nothing changed.

The script uses only the standard library and the syntax of Python 3.6, so that it
starts on an old Python and can say which version is needed.
"""

import argparse
import contextlib
import fcntl
import functools
import hashlib
import importlib.util
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
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = 'mmghostnetv2'
SUPPORTED = ((3, 11), (3, 12))
STAMP = '.mmghostnetv2-setup'  # in the environment: its fingerprint, then FORCE_CUDA
AGAIN = ' Then run the same command again; finished steps are kept.'
# Byte-compiling takes three quarters of an installation's time, and Python itself
# compiles what it imports.
INSTALL = 'install', '--no-compile'
say = functools.partial(print, flush=True)  # a pipe gets each line at once, too

# Patterns in the output of a failed command, and the remedies. The first match counts.
TROUBLES = {
    r'No space left on device|Disk quota exceeded': 'the disk is full. Free some space '
    '(the environment takes about 6 GB), or put temporary files and downloads on '
    'another disk with TMPDIR and PIP_CACHE_DIR.',
    r'[Nn]ame resolution|NameResolutionError|NewConnectionError|ProxyError|'
    r'ConnectTimeoutError|ReadTimeoutError|Network is unreachable|SSLError|'
    r'Connection (refused|reset)|RemoteDisconnected': 'the package index cannot be '
    'reached. Check the network and the proxy settings (HTTPS_PROXY, pip config list).',
    r'Killed signal terminated program|MemoryError|exit code: -9\b': 'the machine ran '
    'out of memory. Set MAX_JOBS=1 in front of the command.',
    # Libraries of torch and CUDA are missing for another reason: a wheel that was made
    # for another torch.
    r'\blib(?!c10|torch|cu|nv)[\w.+-]+: cannot open shared object file': 'OpenCV needs '
    'libraries of the system. Install them (Debian, Ubuntu: sudo apt install libgl1 '
    'libglib2.0-0 libxcb1).',
}

# Prints torch's CUDA version and the architectures of the GPUs that torch sees.
ASK_TORCH = """
import torch
gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
names = {'sm%d%d' % torch.cuda.get_device_capability(gpu) for gpu in gpus}
print(torch.version.cuda, *sorted(names))
"""

# Loads mmcv's compiled operators and runs one whose answer is known.
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
    """Tells the user what went wrong and what to do about it."""


class CommandFailed(SetupError):
    """A command failed for none of the known reasons."""


def read(path):
    """Return a file's text, empty where there is none."""
    return path.read_text(errors='replace') if path.is_file() else ''


def pin(name):
    """Return the version that requirements/NAME.txt pins NAME to."""
    text = read(ROOT / 'requirements' / (name + '.txt'))
    return re.search(rf'(?m)^{name}=+(\S+)', text).group(1)


def output_of(*command):
    """Return what a short command prints, or None if it fails."""
    try:
        said = subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True)
        return said.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def remedy(text):
    """Return the remedy for a problem described in ``text``, None if it is unknown."""
    for pattern, advice in TROUBLES.items():
        found = re.search(pattern, text)
        if found:
            return f'{advice}{AGAIN} ({found.group()})'
    return None


def run(venv, *command, **env):
    """Run a long command, write its output to the log, and show its last line and time.

    The command gets a process group of its own, so that an interrupt also ends the
    compilers that it started.
    """
    log, began = venv / 'setup.log', time.monotonic()
    start = len(read(log))
    seconds, clear, end = (1, '\r\033[K', '') if sys.stdout.isatty() else (30, '', '\n')
    with log.open('a') as sink:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=dict(os.environ, **env),
            cwd=ROOT,
            start_new_session=True,
        )
    try:
        while process.returncode is None:
            try:
                process.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                last = read(log)[start:].strip().rpartition('\n')[2].strip()
                text = f'{time.monotonic() - began:9.0f} s  {last}'
                say(clear + text[: shutil.get_terminal_size().columns - 1], end=end)
    finally:
        if process.poll() is None:
            # First an interrupt, so that pip removes its temporary folders.
            os.killpg(process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()
    say(clear, end='')
    if process.returncode:
        text = read(log)[start:][-100000:].strip()
        text += f'\nexit code: {process.returncode}'
        if remedy(text):
            raise SetupError(f'{remedy(text)} Full output: {log}')
        lines = '\n  '.join(text.splitlines()[-12:])
        raise CommandFailed(f'a command failed:\n  {lines}\nFull output: {log}')


def lock(folder):
    """Wait until no other set-up works in ``folder``, given as a descriptor."""
    told = False
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not told:
                say('another set-up is at work in this checkout: waiting for it')
            told = True
            # A blocking flock would miss a signal that comes right before it.
            time.sleep(0.5)


def check_python():
    """Raise on systems and Python versions that torch or mmcv do not support."""
    if sys.platform != 'linux':
        raise SetupError('the environment can be built on Linux only.')
    if sys.version_info[:2] not in SUPPORTED:
        raise SetupError(
            f'this is Python {platform.python_version()}; the pinned packages need '
            '3.11 or 3.12. Run: make quickstart PYTHON=/path/to/python3.11'
        )


def check_disk(folder, gigabytes):
    """Raise if too little space is free, before a download of several GB begins."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    if free < gigabytes:
        raise SetupError(
            f'{folder} has {free:.1f} GB free and {gigabytes} GB are needed. Free some '
            'space (or, for temporary files, set TMPDIR to another folder).' + AGAIN
        )


def check_compiler(python):
    """Raise if mmcv cannot be compiled: it needs C++17 and Python's headers."""
    code = 'import sysconfig; print(sysconfig.get_paths()["include"])'
    headers = output_of(python, '-I', '-c', code)
    compiler = os.environ.get('CXX') or 'c++'
    done = subprocess.run(
        f'{compiler} -std=c++17 -fsyntax-only -I {shlex.quote(headers)} -x c++ -',
        shell=True,
        input='#include <string_view>\n#include <Python.h>\n',
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        said = ' '.join(done.stdout.splitlines()[:1])
        name = Path(headers).name  # python3.11, as in the names of packages
        raise SetupError(
            f'mmcv cannot be compiled here ({said}). Install a C++17 compiler and the '
            f'headers of Python (Debian, Ubuntu: sudo apt install g++ {name}-dev; '
            f'Fedora: sudo dnf install gcc-c++ {name}-devel).{AGAIN}'
        )


def check_before(venv, version):
    """Raise before the download if a later step is bound to fail."""
    if dists(venv, 'torch-' + pin('torch')):
        check_disk(venv, 2)
    else:
        check_disk(venv, 10)
        check_disk(Path(tempfile.gettempdir()), 3)
        wheels = wheel_folder('*', version or sys.version_info)
        if not list(wheels.parent.glob(wheels.name + '/mmcv-*.whl')):
            check_compiler(venv / 'bin/python' if version else sys.executable)


def probe(venv):
    """Return the Python version of ``venv``, or None if it is unusable.

    It is unusable if its interpreter is missing, fails or is not supported, or if the
    folder was moved, because its scripts then point to the old place.
    """
    code = 'import pip, sys; print(*sys.version_info[:3])'
    answer = output_of(venv / 'bin/python', '-I', '-c', code) or ''
    version = tuple(map(int, answer.split()))
    made = re.search(r'\ncommand = .* -m venv [^/]*(/.*)', read(venv / 'pyvenv.cfg'))
    moved = made and os.path.realpath(made.group(1)) != os.path.realpath(venv)
    return None if moved or version[:2] not in SUPPORTED else version


def make_venv(venv):
    """Create the environment, in place of an unusable one; return its version."""
    if importlib.util.find_spec('ensurepip') is None:
        raise SetupError(
            'this Python cannot make virtual environments (no ensurepip). Debian, '
            f'Ubuntu: sudo apt install python3.{sys.version_info[1]}-venv.{AGAIN}'
        )
    if venv.is_symlink() or venv.exists():
        if not (venv / 'pyvenv.cfg').is_file():
            raise SetupError(
                f'{venv} is not a virtual environment. Move it away.{AGAIN}'
            )
        say('      it is incomplete or was moved, or its Python is gone: rebuilding it')
        shutil.rmtree(venv)
    # sys.executable may lie in the folder that was just removed.
    base = getattr(sys, '_base_executable', sys.executable)
    output_of(base, '-m', 'venv', venv)
    version = probe(venv)
    if version is None:
        raise SetupError(f"'{base} -m venv {venv}' fails: run it to see why.")
    return version


def dists(venv, name='*'):
    """Return the metadata folders (NAME-VERSION.dist-info) of what is installed."""
    return sorted(venv.glob(f'lib/python3*/site-packages/{name}.dist-info'))


def pip(venv, *args, **env):
    """Run the environment's pip, after removing what a killed pip left behind.

    pip renames to ~* what it is about to remove, and writes INSTALLER and RECORD last.
    It would take a distribution without these files for installed.
    """
    torn = set(venv.glob('lib/python3*/site-packages/~*'))
    for name in 'INSTALLER', 'RECORD':
        torn.update(x for x in dists(venv) if not (x / name).exists())
    for folder in torn:
        shutil.rmtree(folder, ignore_errors=True)
    command = [venv / 'bin/python', '-m', 'pip', '--disable-pip-version-check']
    run(venv, *command, *args, **env)


def cache():
    """Return the folder that all checkouts and environments share."""
    caches = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    root = os.environ.get('MMGHOSTNETV2_CACHE') or os.path.join(caches, PROJECT)
    return Path(root).expanduser().absolute()


def wheel_folder(ops, version):
    """Return the folder of mmcv's wheel, named after all that its code depends on.

    It is outside the checkout, so that a later clone needs no compiler.
    """
    key = f'mmcv{pin("mmcv")}-cp{version[0]}{version[1]}-torch{pin("torch")}-{ops}'
    key += f'-{sys.platform}-{platform.machine()}'
    return cache() / key


def find_cuda():
    """Return (home, major version) of a CUDA toolkit, or (None, None).

    The nvcc in PATH may be a wrapper, and a toolkit may consist of nvcc alone. A
    complete toolkit has cusparse.h, which torch's headers include.
    """
    usual = '/usr/local/cuda'
    nvcc = Path(shutil.which('nvcc') or usual + '/bin/nvcc')
    named = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')
    for home in [named] if named else [nvcc.resolve().parents[1], usual]:
        said = output_of(Path(home, 'bin/nvcc'), '--version') or ''
        release = re.search(r'release (\d+)', said)
        if release and Path(home, 'include/cusparse.h').exists():
            return str(home), release.group(1)
    return None, None


def choose_ops(venv, force):
    """Return which operators to compile: 'cpu' or, for example, 'cu130-sm90'.

    CUDA operators need a GPU, unless FORCE_CUDA (mmcv's own switch, 1 or 0) decides,
    and a toolkit of the major version that torch was built with.
    """
    answer = output_of(venv / 'bin/python', '-I', '-c', ASK_TORCH)
    if answer is None:
        raise SetupError(
            f'torch does not import: {venv}/bin/python -c "import torch" tells why. '
            f'If nothing else helps, remove {venv} and run the same command again.'
        )
    cuda, *gpus = answer.split()
    wanted = {'0': False, '1': True}.get(force, bool(gpus))
    if not wanted or cuda == 'None':
        return 'cpu'
    home, major = find_cuda()
    if major == cuda.split('.')[0]:
        return '-'.join(['cu' + cuda.replace('.', '')] + gpus)
    found = f'CUDA {major} in {home}' if home else 'no complete CUDA toolkit'
    say(
        f"      {found} found: mmcv's operators will be for the CPU only, and training "
        'or testing detectors on a GPU will fail. For CUDA operators, install the CUDA '
        f'toolkit {cuda}, set CUDA_HOME to it, and run the same command again.'
    )
    return 'cpu'


def max_jobs():
    """Return how many compilers may run at once: one a core, with 2 GB for each."""
    free = re.findall(r'MemAvailable: *(\d+)', read(Path('/proc/meminfo')))
    limit = re.findall(r'^\d+', read(Path('/sys/fs/cgroup/memory.max')))
    memory = [int(x) >> 20 for x in free] + [int(x) >> 30 for x in limit]
    jobs = min([len(os.sched_getaffinity(0))] + [size // 2 for size in memory])
    return os.environ.get('MAX_JOBS') or str(max(1, jobs))


def build_wheel(venv, folder, ops):
    """Compile mmcv into a wheel, and move it into ``folder`` when it is finished."""
    check_compiler(venv / 'bin/python')
    folder.mkdir(parents=True, exist_ok=True)
    check_disk(folder, 1)
    check_disk(Path(tempfile.gettempdir()), 2)
    jobs = max_jobs()
    # mmcv compiles for CUDA if it sees a GPU, so hide the GPU.
    env = {'FORCE_CUDA': '0', 'CUDA_VISIBLE_DEVICES': ''}
    note = 'on 2 cores it takes 5 to 10 minutes'
    if ops != 'cpu':
        env = {'FORCE_CUDA': '1', 'CUDA_HOME': find_cuda()[0]}
        note = 'if it fails, put FORCE_CUDA=0 in front of the command once, for the CPU'
    # Python's own flags ask for debug symbols, which take half of the time.
    for name in 'CFLAGS', 'CXXFLAGS':
        env[name] = os.environ.get(name, '') + ' -g0 -w'
    say(f'      compiling the {ops} operators, once, {jobs} at a time; {note}')
    options = ['--no-build-isolation', '--no-cache-dir', '--no-deps']
    source = ['--no-binary', 'mmcv', '-rrequirements/mmcv.txt']
    with tempfile.TemporaryDirectory(prefix='.build-', dir=folder) as scratch:
        env.update(MAX_JOBS=jobs, MMCV_WITH_OPS='1')
        pip(venv, 'wheel', '-v', *options, '-w', scratch, *source, **env)
        built = next(Path(scratch).glob('mmcv-*.whl'))
        return built.replace(folder / built.name)


def install_mmcv(venv, version, force):
    """Install mmcv with operators that run with the installed torch."""
    ops = choose_ops(venv, force)
    folder = wheel_folder(ops, version)
    check = [venv / 'bin/python', '-I', '-c', CHECK_OPS, ops]
    # pip writes into direct_url.json which wheel it installed.
    sources = [read(x / 'direct_url.json') for x in dists(venv, 'mmcv-*')]
    if f'/{folder.name}/' in ''.join(sources) and output_of(*check) is not None:
        return
    for kept in [*folder.glob('mmcv-*.whl'), None]:
        wheel = kept or build_wheel(venv, folder, ops)
        try:
            pip(venv, *INSTALL, '--no-deps', '--force-reinstall', wheel)
            run(venv, *check)
            return
        except CommandFailed as error:
            wheel.unlink()
            if not kept:
                raise SetupError(f'mmcv was compiled but fails: {error}') from None
            say(f'      the kept {wheel.name} does not run here: compiling it again')


def fingerprint(venv, version, force):
    """Return a hash of the environment's sources and of what it contains."""
    files = sorted((ROOT / 'requirements').glob('*.txt'))
    files += [ROOT / 'setup.py', ROOT / PROJECT / 'version.py', Path(__file__)]
    facts = [read(path) for path in files] + [path.name for path in dists(venv)]
    facts += [str(ROOT), version, force]
    facts += [find_cuda(), Path('/proc/driver/nvidia').exists()]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def setup(venv):
    """Bring the environment to the pinned state, step by step."""
    version = probe(venv)
    done, _, force = read(venv / STAMP).partition('\n')
    # A choice holds for later runs without FORCE_CUDA; an empty FORCE_CUDA ends it.
    force = os.environ.get('FORCE_CUDA', force)
    if version and done == fingerprint(venv, version, force):
        return
    check_before(venv, version)
    say(f'[1/4] virtual environment {venv}')
    if version is None:
        version = make_venv(venv)
    (venv / STAMP).write_text('\n' + force)
    (venv / 'setup.log').write_text('')
    say('[2/4] torch, OpenMMLab libraries, test tools')
    names = 'build', 'torch', 'stack', 'tests'
    pip(venv, *INSTALL, *[f'-rrequirements/{name}.txt' for name in names])
    # mmcv imports cv2. If system libraries are missing, say so before compiling.
    run(venv, venv / 'bin/python', '-I', '-c', 'import cv2')
    say(f'[3/4] mmcv {pin("mmcv")}')
    install_mmcv(venv, version, force)
    say(f'[4/4] openmim; {PROJECT}, editable')
    # Without dependencies, see requirements/openmim.txt.
    options = ['--no-deps', '--no-build-isolation', '--use-pep517']
    pip(venv, *INSTALL, *options, '-rrequirements/openmim.txt', '-e', '.')
    (venv / STAMP).write_text(fingerprint(venv, version, force) + '\n' + force)


def setup_litert(venv):
    """Build the environment that converts to LiteRT, or install what is missing."""
    version = probe(venv)
    check_disk(venv, 2 if version else 8)
    say(f'[1/2] virtual environment {venv}')
    if version is None:
        make_venv(venv)
    say('[2/2] litert-torch and its torch')
    pip(venv, *INSTALL, '-rrequirements/litert.txt')
    run(venv, venv / 'bin/python', '-I', '-c', 'import litert_torch')


def main(argv=None):
    """Return the exit status: 0 complete, 1 not, 130 interrupted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--venv', help='its folder')
    parser.add_argument(
        '--litert',
        action='store_true',
        help='build the environment that converts to LiteRT, in the cache folder',
    )
    args = parser.parse_args(argv)
    usual, build = ROOT / '.venv', setup
    if args.litert:
        usual, build = cache() / 'litert', setup_litert
    venv = Path(os.path.abspath(str(args.venv or usual)))
    checkout = os.open(str(ROOT), os.O_RDONLY)
    try:
        check_python()
        lock(checkout)
        build(venv)
        say(f'{venv} is complete')
        return 0
    except (SetupError, OSError) as error:
        known = remedy(str(error)) if isinstance(error, OSError) else None
        print('error:', known or error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say('\nInterrupted. Run the same command again to go on where it stopped.')
        return 130
    finally:
        os.close(checkout)


if __name__ == '__main__':
    # With PYTHONPATH, which ROS sets, packages from elsewhere would count as installed.
    for name in 'PYTHONPATH', 'PYTHONHOME':
        os.environ.pop(name, None)
    # A terminated run cleans up and ends its compilers, as an interrupted run does.
    for number in signal.SIGTERM, signal.SIGHUP:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, signal.default_int_handler)
    sys.exit(main())
