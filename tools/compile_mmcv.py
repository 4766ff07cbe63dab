"""Compile mmcv's operators for the torch of this environment, and install them.

Example:
    python tools/compile_mmcv.py

mmcv has no wheels for current versions of torch. The script takes the source of mmcv
that requirements/mmcv.txt pins (of onedl-mmcv, the maintained fork, if onedl-mmengine
is installed), compiles it in minutes, and keeps the wheel in
$MMGHOSTNETV2_CACHE or the user's cache folder, for every later environment with the
same Python and torch. The operators run on a GPU if there is one, unless FORCE_CUDA (1
or 0) decides, and a CUDA toolkit of the major version that torch was built with.
"""

import argparse
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import urllib.request
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urljoin

import torch

PINS = Path(__file__).resolve().parents[1] / 'requirements' / 'mmcv.txt'
PIP = sys.executable, '-m', 'pip', '--disable-pip-version-check'

# Loads the compiled operators and runs one whose answer is known.
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

# Lines of mmcv's setup.py that stop it: on Python 3.13 `exec` no longer changes
# `locals()`, and torch's headers need C++20 from 2.14 on.
MENDED = {
    "version_file, 'exec'))": "version_file, 'exec'), globals())",
    "locals()['__version__']": "globals()['__version__']",
    '-std=c++17': '-std=c++20',
}

# Compiles as {cxx} does, but reads mmcv's large common headers once for each set of
# flags only. They take most of the time of each of mmcv's 77 files.
COMPILER = """#!/bin/sh
'''exec' "{python}" "$0" "$@"
''' # a shell reads the line above, so that the path may be long and have spaces
import fcntl, hashlib, os, subprocess, sys
cxx, args = {cxx!r}, sys.argv[1:]
if '-c' in args:
    flags = [x for x in args if x not in ('-c', '-MMD') and not x.endswith('.cpp')]
    for name in '-MF', '-o':  # each has a file; without ninja there is no -MF
        if name in flags:
            del flags[flags.index(name):flags.index(name) + 2]
    key = hashlib.sha256(repr(flags).encode()).hexdigest()[:16]
    header = os.path.join({folder!r}, key + '.hpp')
    with open(header + '.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(header + '.gch'):
            with open(header, 'w') as file:
                file.write({includes!r})
            make = [*cxx, *flags, '-x', 'c++-header', header, '-o', header + '.part']
            subprocess.run(make, check=True)
            os.rename(header + '.part', header + '.gch')
    args = ['-include', header, *args]
os.execvp(cxx[0], [*cxx, *args])
"""
HEADERS = 'torch/types.h', 'pytorch_cpp_helper.hpp', 'pytorch_device_registry.hpp'


def output_of(*command: str | Path) -> str | None:
    """Return what a short command prints, or None if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def cache() -> Path:
    """Return the folder that all checkouts and environments share."""
    caches = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    root = os.environ.get('MMGHOSTNETV2_CACHE') or os.path.join(caches, 'mmghostnetv2')
    return Path(root).expanduser().absolute()


def read_pin() -> str:
    """Return the line ``NAME==VERSION --hash=...`` that this environment needs."""
    text = re.sub(r'\s*\\\s*', ' ', PINS.read_text())
    is_fork = any(distributions(name='onedl-mmengine'))
    name = 'onedl-mmcv' if is_fork else 'mmcv'
    return re.search(f'(?m)^{name}==.*', text)[0]


def wheel_folder(pin: str, ops: str) -> Path:
    """Return the folder of mmcv's wheel, named after all that its code depends on."""
    python = f'cp{sys.version_info[0]}{sys.version_info[1]}'
    mmcv = pin.split()[0].replace('==', '')
    key = f'{mmcv}-{python}-torch{torch.__version__}-{ops}'
    return cache() / f'{key}-{sys.platform}-{platform.machine()}'


def find_cuda() -> tuple[str, str] | None:
    """Return home and major version of a CUDA toolkit, or None.

    The nvcc in PATH may be a wrapper, and a toolkit may consist of nvcc alone. A
    complete toolkit has cusparse.h, which torch's headers include.
    """
    usual = '/usr/local/cuda'
    nvcc = Path(shutil.which('nvcc') or usual + '/bin/nvcc')
    named = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')
    for home in [named] if named else [str(nvcc.resolve().parents[1]), usual]:
        said = output_of(Path(home, 'bin/nvcc'), '--version') or ''
        release = re.search(r'release (\d+)', said)
        if release and Path(home, 'include/cusparse.h').exists():
            return home, release[1]
    return None


def choose_ops() -> str:
    """Return which operators to compile: 'cpu' or, for example, 'cu130-sm90'."""
    cuda, gpus = torch.version.cuda, range(torch.cuda.device_count())
    force = {'0': False, '1': True}.get(os.environ.get('FORCE_CUDA', ''), bool(gpus))
    if not force or cuda is None:
        return 'cpu'
    home, major = find_cuda() or ('', '')
    if major == cuda.split('.')[0]:
        names = {'sm{}{}'.format(*torch.cuda.get_device_capability(i)) for i in gpus}
        return '-'.join(['cu' + cuda.replace('.', ''), *sorted(names)])
    found = f'CUDA {major} in {home}' if home else 'no complete CUDA toolkit'
    print(
        f"{found} found: mmcv's operators will be for the CPU only. For CUDA "
        f'operators, install the CUDA toolkit {cuda}, set CUDA_HOME to it, and run '
        'this again; mmcv-lite with this package needs none.',
        flush=True,
    )
    return 'cpu'


def max_jobs() -> str:
    """Return how many compilers may run at once: one a core, with 2 GB for each."""
    free = re.findall(r'MemAvailable: *(\d+)', read('/proc/meminfo'))
    limit = re.findall(r'^\d+', read('/sys/fs/cgroup/memory.max'))
    memory = [int(x) >> 20 for x in free] + [int(x) >> 30 for x in limit]
    jobs = min([len(os.sched_getaffinity(0))] + [size // 2 for size in memory])
    return os.environ.get('MAX_JOBS') or str(max(1, jobs))


def read(path: str) -> str:
    """Return a file's text, empty where there is none."""
    return Path(path).read_text() if Path(path).exists() else ''


def check_compiler() -> None:
    """Raise RuntimeError if setuptools, a C++20 compiler or Python's headers lack."""
    # Not every environment has it, and setuptools 82 no longer brings pkg_resources.
    if not (find_spec('setuptools') and find_spec('pkg_resources')):
        raise RuntimeError(
            "mmcv's setup.py needs an older setuptools. In this environment: "
            'pip install "setuptools<81" wheel ninja'
        )
    headers = sysconfig.get_paths()['include']
    compiler = shlex.split(os.environ.get('CXX') or 'c++')
    flags = ['-std=c++20', '-fsyntax-only', '-I', headers, '-x', 'c++', '-']
    text = '#include <concepts>\n#include <Python.h>\n'
    try:
        subprocess.run(
            compiler + flags, input=text, text=True, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, 'stderr', None) or str(error)
        name = Path(headers).name  # python3.11, as in the names of packages
        raise RuntimeError(
            f'mmcv cannot be compiled here ({said.splitlines()[0]}). Install a C++20 '
            f'compiler and the headers of Python (Debian, Ubuntu: sudo apt install g++ '
            f'{name}-dev; Fedora: sudo dnf install gcc-c++ {name}-devel)'
        ) from error


def fetch_source(pin: str, folder: Path) -> Path:
    """Download and unpack mmcv's source, and mend what stops it; return its folder.

    pip would run setup.py before it keeps a source, and fail.

    Args:
        pin (str): ``NAME==VERSION`` and ``--hash=sha256:...`` of the archive.
        folder (Path): Gets the archive and the source.

    Raises:
        RuntimeError: The package index does not have this archive.
    """
    project, version = pin.split()[0].split('==')
    name = f'{project.replace("-", "_")}-{version}'
    index = output_of(*PIP, 'config', 'get', 'global.index-url')
    index = os.environ.get('PIP_INDEX_URL') or index or 'https://pypi.org/simple'
    page = f'{index.rstrip("/")}/{project}/'
    with urllib.request.urlopen(page, timeout=60) as answer:
        link = rf'href="((?:[^"#]+/)?{name}\.tar\.gz)'
        links = re.findall(link, answer.read().decode())
    if not links:
        raise RuntimeError(f'{page} has no {name}.tar.gz')
    with urllib.request.urlopen(urljoin(page, links[0]), timeout=60) as answer:
        content = answer.read()
    if hashlib.sha256(content).hexdigest() not in pin:
        raise RuntimeError(f'{links[0]} is not the archive that {PINS} pins')
    archive = folder / 'mmcv.tar.gz'
    archive.write_bytes(content)
    with tarfile.open(archive) as file:
        file.extractall(folder, filter='data')
    setup = folder / name / 'setup.py'
    text = setup.read_text()
    for old, new in MENDED.items():
        text = text.replace(old, new)
    setup.write_text(text)
    return setup.parent


def build_wheel(pin: str, folder: Path, ops: str) -> Path:
    """Compile mmcv into a wheel, and move it into ``folder`` when it is finished."""
    check_compiler()
    folder.mkdir(parents=True, exist_ok=True)
    # mmcv compiles for CUDA if it sees a GPU, so hide the GPU.
    env = {'FORCE_CUDA': '0', 'CUDA_VISIBLE_DEVICES': ''}
    note = 'on 2 cores it takes 2 to 4 minutes'
    if cuda := ops != 'cpu' and find_cuda():
        env = {'FORCE_CUDA': '1', 'CUDA_HOME': cuda[0]}
        note = 'FORCE_CUDA=0 compiles for the CPU only'
    # Python's own flags ask for debug symbols, which take half of the time.
    for name in 'CFLAGS', 'CXXFLAGS':
        env[name] = os.environ.get(name, '') + ' -g0 -w'
    env['MAX_JOBS'] = max_jobs()
    jobs = f'{env["MAX_JOBS"]} at a time'
    print(f'compiling the {ops} operators, {jobs}; {note}', flush=True)
    with tempfile.TemporaryDirectory(prefix='.build-', dir=folder) as scratch:
        source = fetch_source(pin, Path(scratch))
        compiler = Path(scratch, 'c++')
        text = COMPILER.format(
            python=sys.executable,
            cxx=shlex.split(os.environ.get('CXX') or 'c++'),
            folder=scratch,
            includes=''.join(f'#include "{name}"\n' for name in HEADERS),
        )
        compiler.write_text(text)
        compiler.chmod(0o755)
        env |= {'MMCV_WITH_OPS': '1', 'CXX': str(compiler)}
        options = ['--no-build-isolation', '--no-cache-dir', '--no-deps', '-w', scratch]
        command = [*PIP, 'wheel', *options, source]
        subprocess.run(command, env=os.environ | env, check=True)
        built = next(Path(scratch).glob('*mmcv-*.whl'))
        return built.replace(folder / built.name)


def install(wheel: Path, ops: str) -> bool:
    """Install a wheel of mmcv; tell whether its operators run."""
    # All of them have the same files.
    names = 'mmcv', 'mmcv-lite', 'onedl-mmcv'
    subprocess.run([*PIP, 'uninstall', '-q', '-y', *names], check=True)
    command = [*PIP, 'install', '-q', '--no-compile', '--no-deps', wheel]
    subprocess.run(command, check=True)
    return output_of(sys.executable, '-I', '-c', CHECK_OPS, ops) is not None


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(argv)
    pin, ops = read_pin(), choose_ops()
    folder = wheel_folder(pin, ops)
    # The installer writes there which wheel it installed.
    origins = [
        unquote(found.read_text('direct_url.json') or '')
        for found in distributions(name=pin.split('==')[0])
    ]
    check = output_of(sys.executable, '-I', '-c', CHECK_OPS, ops)
    if f'/{folder.name}/' in ''.join(origins) and check is not None:
        print(f"mmcv's {ops} operators are installed")
        return
    for wheel in folder.glob('*.whl'):
        if install(wheel, ops):
            return
        print(f'the kept {wheel.name} does not run here: compiling it again')
        wheel.unlink()
    wheel = build_wheel(pin, folder, ops)
    if not install(wheel, ops):
        wheel.unlink()
        raise RuntimeError(
            'mmcv was compiled, but its operators do not run; this shows why: '
            f'{sys.executable} -c "import mmcv._ext"'
        )


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        sys.exit(130)
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f'error: {error}')
