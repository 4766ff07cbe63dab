"""Build the project's virtual environment, or what is missing from it.

Example:
    python3 tools/setup_env.py --venv .venv

``make setup`` and ``make litert`` call this script. It installs the versions and hashes
of requirements/openmmlab-lock.txt by uv, or by pip where uv does not work. A second run
goes on where the first one stopped, and does nothing if nothing changed.

mmcv has no wheels for current versions of torch. The default is mmcv-lite, for which
this package provides the operators. With --ops compiled, tools/compile_mmcv.py compiles
mmcv's own. With --stack onedl, the libraries are the maintained forks, whose mmcv is
always compiled.

The script uses only the standard library and the syntax of Python 3.6, so that it
starts on an old Python and can say which version is needed.
"""

import argparse
import contextlib
import fcntl
import functools
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
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = 'mmghostnetv2'
SUPPORTED = ((3, 11), (3, 12), (3, 13))
UV = '0.13.9'
STAMP = '.mmghostnetv2-setup.json'  # in the environment: choices, and its fingerprint
AGAIN = ' Then run the same command again; finished steps are kept.'
# torch and what only torch brings. They leave the lock file if another torch is asked
# for.
TORCH = re.compile(r'(torch|torchvision|triton|nvidia-[\w-]+|cuda-[\w-]+)==')
say = functools.partial(print, flush=True)  # a pipe gets each line at once, too

# Runs an operator whose answer is known.
CHECK_OPS = """
import torch
from mmcv.ops import nms
boxes = torch.tensor([[0., 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]])
scores = torch.tensor([.7, .9, .8])
for device in ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']:
    _, kept = nms(boxes.to(device), scores.to(device), iou_threshold=.5)
    assert kept.tolist() == [1, 2], kept
"""


class SetupError(Exception):
    """Tells the user what went wrong and what to do about it."""


def read(path):
    """Return a file's text, empty where there is none."""
    return path.read_text(errors='replace') if path.is_file() else ''


def output_of(*command):
    """Return what a short command prints, or None if it fails."""
    try:
        said = subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True)
        return said.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def run(*command, **env):
    """Run a long command, which shows what it does; raise SetupError if it fails.

    The command gets a process group of its own, so that an interrupt also ends the
    compilers that it started.
    """
    process = subprocess.Popen(
        [*map(str, command)],
        stdin=subprocess.DEVNULL,
        env=dict(os.environ, **env),
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        process.wait()
    finally:
        if process.poll() is None:
            # First an interrupt, so that pip removes its temporary folders.
            os.killpg(process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()
    if process.returncode:
        line = shlex.join(map(str, command))
        raise SetupError(f'this command failed, see above: {line[:300]}')


def lock(folder):
    """Wait until no other set-up works in ``folder``; return its open descriptor.

    The lock lasts until the descriptor is closed or the process ends.
    """
    told, descriptor = False, os.open(str(folder), os.O_RDONLY)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if not told:
                say(f'another set-up is at work in {folder}: waiting for it')
            told = True
            # A blocking flock would miss a signal that comes right before it.
            time.sleep(0.5)


def cache():
    """Return the folder that all checkouts and environments share."""
    caches = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    root = os.environ.get('MMGHOSTNETV2_CACHE') or os.path.join(caches, PROJECT)
    return Path(root).expanduser().absolute()


# ---- what must be there before anything is downloaded


def check_python():
    """Raise on systems and Python versions that the script does not support."""
    if sys.platform != 'linux':
        raise SetupError(
            'this script is for Linux. Elsewhere, install the package by pip, see '
            'docs/get_started.md.'
        )
    if sys.version_info[:2] not in SUPPORTED:
        raise SetupError(
            f'this is Python {platform.python_version()}; the pinned packages need '
            '3.11, 3.12 or 3.13. Run: make quickstart PYTHON=/path/to/python3.11'
        )


def check_disk(folder, gigabytes):
    """Raise if too little space is free, before a download of several GB begins."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(str(folder)).free / 1e9
    if free < gigabytes:
        raise SetupError(
            f'{folder} has {free:.1f} GB free and {gigabytes} GB are needed. Free some '
            'space (or, for temporary files, set TMPDIR to another folder).' + AGAIN
        )


# ---- the environment and its packages


def probe(venv):
    """Return the Python version of ``venv``, or None if it is unusable.

    It is unusable if its interpreter is missing, fails or is not supported, or if the
    folder was moved, because its scripts then point to the old place.
    """
    code = 'import pip, sys; print(*sys.version_info[:3])'
    answer = output_of(venv / 'bin/python', '-I', '-c', code) or ''
    version = tuple(map(int, answer.split()))
    places = map(re.escape, (str(venv), os.path.realpath(str(venv))))
    # A path that is long or has a space is in the second line, for a shell.
    start = r"""(?m)^(#!|\'\'\'exec' ["']?)"""
    moved = not re.search(f'{start}({"|".join(places)})/bin/', read(venv / 'bin/pip'))
    return None if moved or version[:2] not in SUPPORTED else version


def make_venv(venv):
    """Create the environment, in place of an unusable one; return its version."""
    if importlib.util.find_spec('ensurepip') is None:
        raise SetupError(
            'this Python cannot make virtual environments (no ensurepip). Debian, '
            f'Ubuntu: sudo apt install python3.{sys.version_info[1]}-venv.{AGAIN}'
        )
    if venv.is_symlink() or venv.exists():
        if not (venv / STAMP).is_file():
            raise SetupError(f'{venv} was not made by this. Move it away.{AGAIN}')
        say('      it cannot be used as it is: rebuilding it')
        shutil.rmtree(str(venv))
    venv.mkdir(parents=True)
    (venv / STAMP).write_text('{}')  # a killed run may leave only this
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


def find_uv():
    """Return a uv program, fetched once into the cache, or None."""
    kept = cache() / f'uv-{UV}'
    own = str(kept / 'bin/uv')
    for found in shutil.which('uv'), own:
        if found and output_of(found, '--version'):
            return found
    shutil.rmtree(str(kept), ignore_errors=True)
    output_of(sys.executable, '-m', 'venv', kept)
    pip = kept / 'bin/python', '-m', 'pip', '--disable-pip-version-check'
    output_of(*pip, 'install', '-q', '--no-compile', f'uv=={UV}')
    return own if output_of(own, '--version') else None


def index_url(python):
    """Return the package index that pip is set to, which uv does not know, or None."""
    url = output_of(python, '-m', 'pip', 'config', 'get', 'global.index-url')
    return os.environ.get('PIP_INDEX_URL') or url


def install(venv, *args, **env):
    """Install by uv; by pip if uv does not work, which knows pip's own settings."""
    python, uv = venv / 'bin/python', find_uv()
    if uv:
        url = index_url(python)
        if url and 'UV_DEFAULT_INDEX' not in os.environ:
            env['UV_DEFAULT_INDEX'] = url
        with contextlib.suppress(SetupError):
            return run(uv, 'pip', 'install', '--python', python, *args, **env)
        say('      uv failed, see above; pip tries the same')
    args = ['--force-reinstall' if x == '--reinstall' else x for x in args]
    # Byte-compiling takes most of pip's time, and Python itself compiles what it
    # imports.
    pip = python, '-m', 'pip', '--disable-pip-version-check', 'install', '--no-compile'
    run(*pip, *args, **env)


def pin(name):
    """Return the version that requirements/stack.txt pins."""
    stack = read(ROOT / 'requirements/stack.txt')
    return re.search(rf'(?m)^{name}=+(\S+)', stack).group(1)


def install_locked(venv, name, leave_out, *args):
    """Install the distributions of a lock file, but those that a pattern matches."""
    text = read(ROOT / 'requirements' / (name + '.txt'))
    entries = re.split(r'\n(?=\w)', text)  # with their hashes in indented lines
    kept = [x for x in entries if not (leave_out and re.match(leave_out, x))]
    with tempfile.NamedTemporaryFile('w', suffix='.txt') as file:
        file.write('\n'.join(kept))
        file.flush()
        install(venv, '--no-deps', '--require-hashes', *args, '-r', file.name)


def remove_mmcv(venv):
    """Remove mmcv in all its variants, which own the same files, and what was added."""
    # Not by pip, which refuses what a killed run installed in part. The metadata goes
    # last: while it is there, the next run removes the rest.
    folders = list(venv.glob('lib/python3*/site-packages/mmcv'))
    for name in 'mmcv-*', 'mmcv_lite-*', 'onedl_mmcv-*':
        folders += dists(venv, name)
    for folder in folders:
        shutil.rmtree(str(folder))


# ---- the whole


def fingerprint(venv, version, choices):
    """Return a hash of the environment's sources and of what it contains."""
    files = sorted((ROOT / 'requirements').glob('*.txt'))
    files += [ROOT / 'setup.py', ROOT / PROJECT / 'version.py', Path(__file__)]
    facts = [read(path) for path in files] + [path.name for path in dists(venv)]
    facts += [str(ROOT), version, sorted(choices.items())]
    # A GPU or a toolkit that is new decides which operators are compiled.
    facts += [shutil.which('nvcc'), Path('/proc/driver/nvidia').exists()]
    toolkit = Path(choices.get('cuda_home') or '/usr/local/cuda')
    facts += [(toolkit / 'include/cusparse.h').exists()]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def setup(venv, asked):
    """Bring the environment to the pinned state, step by step."""
    stamp, version = venv / STAMP, probe(venv)
    done = json.loads(read(stamp) or '{}')
    # A choice holds for later runs, until another one is made.
    choices = dict(
        stack='openmmlab', ops='lite', torch=pin('torch'), force_cuda='', cuda_home=''
    )
    choices.update(done.get('choices', {}))
    before = choices['stack']
    choices.update({name: value for name, value in asked.items() if value is not None})
    stack, torch = choices['stack'], choices['torch']
    if stack == 'onedl' and asked['ops'] == 'lite':
        raise SetupError('onedl-mmcv has no variant without operators: leave out OPS')
    compiled = stack == 'onedl' or choices['ops'] == 'compiled'
    if stack != before:
        version = None  # the libraries of both stacks own the same files
    if version and done.get('complete') == fingerprint(venv, version, choices):
        return
    check_disk(venv, 2 if dists(venv, 'torch-*') else 10)
    say(f'[1/4] virtual environment {venv}')
    another = [f'torch==={torch}', 'torchvision'] if torch != pin('torch') else []
    # What a killed run was installing may lack files. And `==` takes 2.14.1+cpu, which
    # an earlier choice installed, for 2.14.1.
    partial = 'complete' not in done or (not another and dists(venv, 'torch*+*'))
    again = ['--reinstall'] if version and partial else []
    if version is None:
        version = make_venv(venv)
    stamp.write_text(json.dumps({'choices': choices}))
    say('[2/4] torch, OpenMMLab libraries, test tools')
    if again or dists(venv, 'mmcv_lite-*' if compiled else 'mmcv-*'):
        remove_mmcv(venv)
    if another and again:
        # It also takes new versions of what torch needs, which the lock file undoes.
        install(venv, *again, *another)
    leave_out = [TORCH.pattern] if another else []
    leave_out += ['mmcv-lite=='] if compiled else []
    install_locked(venv, stack + '-lock', '|'.join(leave_out), *again)
    if another:
        install(venv, *another)
    # mmcv imports cv2, which needs libraries of the system.
    if output_of(venv / 'bin/python', '-I', '-c', 'import cv2') is None:
        raise SetupError(
            'OpenCV does not import, it may lack libraries of the system (Debian, '
            f'Ubuntu: sudo apt install libgl1 libglib2.0-0 libxcb1).{AGAIN}'
        )
    say(f'[3/4] {PROJECT}, editable')
    install(venv, '--no-deps', '--no-build-isolation', '-e', '.')
    say(f'[4/4] operators: {"compiled" if compiled else "lite"}')
    python = venv / 'bin/python', '-I', '-W', 'ignore'
    if compiled:
        cuda = dict(FORCE_CUDA=choices['force_cuda'], CUDA_HOME=choices['cuda_home'])
        run(*python, 'tools/compile_mmcv.py', **cuda)
    else:
        run(*python, '-m', PROJECT + '.mmcv_operators')
        run(*python, '-c', CHECK_OPS)
    complete = fingerprint(venv, version, choices)
    stamp.write_text(json.dumps({'choices': choices, 'complete': complete}))


def setup_litert(venv):
    """Build the environment that converts to LiteRT, or install what is missing."""
    version = probe(venv)
    check_disk(venv, 2 if version else 8)
    say(f'[1/2] virtual environment {venv}')
    if version is None:
        make_venv(venv)
    say('[2/2] litert-torch and its torch')
    install_locked(venv, 'litert-lock', '')
    run(venv / 'bin/python', '-I', '-c', 'import litert_torch')


def main(argv=None):
    """Return the exit status: 0 complete, 1 not, 130 interrupted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--venv', help='its folder')
    parser.add_argument(
        '--stack',
        choices=['openmmlab', 'onedl'],
        help="OpenMMLab's libraries or their maintained forks",
    )
    parser.add_argument(
        '--ops',
        choices=['lite', 'compiled'],
        help="operators of detectors: this package's and torchvision's, or mmcv's own",
    )
    parser.add_argument(
        '--torch', metavar='VERSION', help=f'another version than {pin("torch")}'
    )
    parser.add_argument(
        '--litert',
        action='store_true',
        help='build the environment that converts to LiteRT, in the cache folder',
    )
    args = parser.parse_args(argv)
    usual = cache() / 'litert' if args.litert else ROOT / '.venv'
    venv = Path(os.path.abspath(str(args.venv or usual)))
    asked = dict(
        stack=args.stack,
        ops=args.ops,
        torch=args.torch,
        force_cuda=os.environ.get('FORCE_CUDA'),
        cuda_home=os.environ.get('CUDA_HOME', os.environ.get('CUDA_PATH')),
    )
    locked = []
    try:
        check_python()
        cache().mkdir(parents=True, exist_ok=True)
        # Set-ups in other checkouts use the cache, too.
        for folder in ROOT, cache():
            locked.append(lock(folder))
        setup_litert(venv) if args.litert else setup(venv, asked)
        say(f'{venv} is complete')
        return 0
    except (SetupError, OSError) as error:
        print('error:', error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say('\nInterrupted. Run the same command again to go on where it stopped.')
        return 130
    finally:
        for descriptor in locked:
            os.close(descriptor)


if __name__ == '__main__':
    # With PYTHONPATH, which ROS sets, packages from elsewhere would count as installed.
    for name in 'PYTHONPATH', 'PYTHONHOME':
        os.environ.pop(name, None)
    # A terminated run cleans up and ends its compilers, as an interrupted run does.
    for number in signal.SIGTERM, signal.SIGHUP:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, signal.default_int_handler)
    sys.exit(main())
