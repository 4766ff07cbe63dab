"""Say what is wrong with an environment, and the command that mends it.

Example:
    python -m mmghostnetv2.doctor --json > environment.json

The exit status is 1 if there is an error. The checks run in a second process. If a
library crashes or hangs there, the first process reports it and goes on with the checks
that are left. A check is skipped if a library that it needs has failed.

The file imports only the standard library, because it must run where torch or mmengine
cannot be imported. `python -m` imports the package first, so mmghostnetv2/__init__.py
calls ``main`` before it imports a library. `python mmghostnetv2/doctor.py` does the
same, and also starts on a Python that is too old for the package.
"""

# so that an old Python can start this file and say that it is too old
from __future__ import annotations

import argparse
import faulthandler
import json
import locale
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module, metadata
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

PYTHONS = (3, 10), (3, 13)  # setup.py's python_requires, and the newest that was tried
OPENCV = 'python', 'python-headless', 'contrib-python', 'contrib-python-headless'
# Modules and the distributions that own their files. setup.py asks for the first one or
# for the fork.
LIBRARIES = {
    'torch': ['torch>=2.6'],
    'torchvision': ['torchvision'],
    'cv2': [f'opencv-{name}' for name in OPENCV],
    'mmengine': ['mmengine>=0.10.4,<1.0', 'mmengine-lite', 'onedl-mmengine>=0.10.8'],
    'mmcv': ['mmcv-lite>=2.0.0,<2.2.0', 'mmcv', 'mmcv-full', 'onedl-mmcv>=2.3'],
    'timm': ['timm'],
    'pycocotools': ['pycocotools'],
    'mmdet': ['mmdet>=3.3.0,<3.4', 'onedl-mmdetection>=3.5'],
    'mmseg': ['mmsegmentation>=1.2.2,<1.3', 'onedl-mmsegmentation>=1.4'],
    'mmpretrain': ['mmpretrain>=1.2.0,<1.3', 'onedl-mmpretrain>=1.3'],
    'mim': ['openmim', 'onedl-mim'],
}
REQUIRED = 'torch', 'torchvision', 'cv2', 'mmengine', 'mmcv'
# Libraries without which the import of another one fails
IMPORTS = {
    'torchvision': ('torch',),
    'mmengine': ('torch',),
    'mmcv': ('mmengine', 'cv2'),
    'timm': ('torchvision',),
    'mmdet': ('mmcv',),
    'mmseg': ('mmcv',),
    'mmpretrain': ('mmcv', 'torchvision'),
}
# Needed without being declared, and declared without being needed
UNDECLARED = {'mmsegmentation': ['ftfy', 'regex'], 'mmpretrain': ['torchvision']}
UNUSED = 'imaug'
# Modules of distributions with other names
DISTRIBUTIONS = {'PIL': 'pillow', 'pkg_resources': 'setuptools<81', 'yaml': 'pyyaml'}

# Commands name this Python, because another one may come first in PATH.
PYTHON = shlex.quote(sys.executable)
PIP = f'{PYTHON} -m pip'
PAIR = 'torch===2.14.1 torchvision===0.29.1'  # as in requirements/stack.txt
INSTALL_PAIR = f'{PIP} install {PAIR}'
INSTALL_SELF = f'in the checkout: {PIP} install --no-deps --no-build-isolation -e .'
REPORT = 'report it with the output of --json'

# What the JSON says beside the findings
FACTS: dict[str, Any] = {'cuda': None, 'gpus': [], 'mmcv_operators': None}


class Finding(NamedTuple):
    """What a check found; its status is ok, warning, error or skipped."""

    found: str
    status: str = 'ok'
    remedy: str = ''


class Check(NamedTuple):
    """A check, those that must not fail before, and a remedy if it raises or ends."""

    run: Callable[[], Finding]
    needs: tuple[str, ...] = ()
    remedy: str = REPORT


CHECKS: dict[str, Check] = {}


def check(name: str, *needs: str, remedy: str = REPORT) -> Callable:
    """Return a decorator that adds a function to the checks."""

    def add(run: Callable[[], Finding]) -> Callable[[], Finding]:
        CHECKS[name] = Check(run, needs, remedy)
        return run

    return add


def release(version: str | None) -> tuple[int, ...]:
    """Return the numbers of a version; 2.6.0a0 of NVIDIA's containers is 2.6.0."""
    return tuple(map(int, re.findall(r'\d+', version or '')[:3]))


def version_of(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return metadata.version(distribution)
    except Exception:  # not installed, or an interrupted pip left damaged metadata
        return None


def owners(module: str) -> list[str]:
    """Return the installed distributions that own the files of a module."""
    names = [re.split('[<>]', spec)[0] for spec in LIBRARIES[module]]
    return [name for name in names if version_of(name)]


def wanted(module: str) -> str:
    """Return what setup.py asks for, of the forks if the environment is theirs."""
    names = owners(module) or owners('mmengine')
    forks = [spec for spec in LIBRARIES[module] if spec.startswith('onedl-')]
    is_fork = forks and any(name.startswith('onedl-') for name in names)
    return forks[0] if is_fork else LIBRARIES[module][0]


def install(*specs: str) -> str:
    """Return the command that installs distributions; ``specs`` may have options."""
    quoted = [f'"{spec}"' if re.search('[<>=]', spec) else spec for spec in specs]
    return ' '.join([PIP, 'install', *quoted])


def replace(module: str) -> str:
    """Return the command that puts one distribution in the place of the installed."""
    if module in ('torch', 'torchvision'):
        return INSTALL_PAIR
    spec, names = wanted(module), owners(module)
    command = (
        install('--no-build-isolation', spec) if 'onedl' in spec else install(spec)
    )
    return f'{PIP} uninstall -y {" ".join(names)} && {command}' if names else command


def reinstall(module: str) -> str:
    """Return the command that mends the files of a library."""
    if module == 'mmcv':
        return f'{replace(module)}; or in the checkout: {PYTHON} tools/compile_mmcv.py'
    specs = [f'{name}=={version_of(name)}' for name in owners(module)]
    specs = [PAIR] if module in ('torch', 'torchvision') else specs
    return f'{PIP} install --force-reinstall --no-deps {" ".join(specs) or module}'


def one_line(error: BaseException) -> str:
    """Return type and message of an error, shortened to one line."""
    return ' '.join(f'{type(error).__name__}: {error}'.split())[:300]


# ---- the libraries


@check('python')
def check_python() -> Finding:
    """Check the version of Python."""
    found, now = platform.python_version(), sys.version_info[:2]
    if PYTHONS[0] <= now <= PYTHONS[1]:
        return Finding(found)
    remedy = 'rm -r .venv; make setup PYTHON=python3.13'
    if now < PYTHONS[0]:
        return Finding(f'{found}, too old', 'error', remedy)
    return Finding(f'{found}, not tried with OpenMMLab', 'warning', remedy)


def check_library(name: str) -> Finding:
    """Import a library, and compare its version with what setup.py asks for."""
    if find_spec(name) is None:
        status = 'error' if name in REQUIRED else 'ok'
        return Finding('not installed', status, replace(name) if status != 'ok' else '')
    try:
        module = import_module(name)
    except Exception as error:
        return Finding(one_line(error), 'error', import_remedy(name, error))
    names, spec = owners(name), wanted(name)
    version = getattr(module, '__version__', None) or version_of((names or [name])[0])
    found = f'{version} ({", ".join(names) or "no metadata"})'
    low, high = (re.search(f'{sign}([0-9.]+)', spec) for sign in ('>=', '<'))
    remedy = replace(name) if name == 'mmcv' else install('--upgrade', spec)
    if low and release(version) < release(low[1]):
        return Finding(f'{found}, not {spec}', 'error', remedy)
    if high and release(version) >= release(high[1]):
        return Finding(f'{found}, not {spec}', 'warning', remedy)
    return Finding(found)


def import_remedy(name: str, error: Exception) -> str:
    """Return the command for a library whose import raises an error."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        missing = error.name.split('.')[0]
        if missing in LIBRARIES:
            return replace(missing)
        if missing != name:
            return install(DISTRIBUTIONS.get(missing, missing))
    if name == 'cv2' and '.so' in str(error):
        return 'sudo apt install libgl1 libglib2.0-0 libxcb1'
    # OpenMMLab's libraries say, for example, "MMCV==2.2.0 is used but incompatible".
    used = re.match('(MMCV|MMEngine)==', str(error))
    if used:
        return replace(used[1].lower())
    if name == 'mmpretrain' and release(version_of('transformers')) >= (5,):
        return f'{PIP} uninstall -y transformers'
    return reinstall(name)


for _name in LIBRARIES:
    CHECKS[_name] = Check(
        partial(check_library, _name), IMPORTS.get(_name, ()), reinstall(_name)
    )


def run_nms(library: str, device: str) -> None:
    """Run the operator nms of a library; raise unless its answer is the known one."""
    torch, ops = import_module('torch'), import_module(f'{library}.ops')
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]])
    scores = torch.tensor([0.7, 0.9, 0.8])
    kept = ops.nms(boxes.to(device), scores.to(device), 0.5)
    kept = kept[1] if library == 'mmcv' else kept  # mmcv also returns the boxes
    if kept.tolist() != [1, 2]:
        raise ValueError(f'nms returned {kept.tolist()}, [1, 2] is right')


@check('torchvision.ops', 'torchvision', remedy=INSTALL_PAIR)
def check_torchvision() -> Finding:
    """Run an operator, which works only with the torch that torchvision is made for."""
    run_nms('torchvision', 'cpu')
    return Finding('nms is right')


@check('distributions')
def check_distributions() -> Finding:
    """Find distributions that own the same files, and a mixture of the stacks."""
    for module in LIBRARIES:
        names = owners(module)
        if len(names) > 1:
            status = 'warning' if module == 'cv2' else 'error'
            found = f'{" and ".join(names)} own the same files'
            return Finding(found, status, replace(module))
    names = [owners(module)[0] for module in LIBRARIES if owners(module)]
    names = [name for name in names if re.match('onedl-|mm|openmim', name)]
    if len({name.startswith('onedl-') for name in names}) == 2:
        remedy = f'{PIP} uninstall -y {" ".join(names)}; in the checkout: '
        remedy += f'{PIP} install ".[all]" or ".[cls-onedl,det-onedl,seg-onedl]"'
        return Finding(f'both stacks: {", ".join(names)}', 'warning', remedy)
    return Finding('one for each module')


@check('requirements', remedy=install('packaging'))
def check_requirements() -> Finding:
    """Check what the installed libraries themselves ask for."""
    from packaging.requirements import Requirement

    wrong, specs, status = [], [], 'warning'
    # mim asks for opendatalab, which downgrades setuptools and is not needed.
    for name in [owner for module in LIBRARIES for owner in owners(module)]:
        if name in ('openmim', 'onedl-mim'):
            continue
        for line in [*(metadata.requires(name) or []), *UNDECLARED.get(name, [])]:
            need = Requirement(line)
            version = version_of(need.name)
            # All distributions of OpenCV provide what `opencv-python` stands for.
            if need.name == UNUSED or need.name.startswith('opencv') and owners('cv2'):
                continue
            if need.marker and not need.marker.evaluate({'extra': ''}):
                continue
            if version and need.specifier.contains(version, prereleases=True):
                continue
            status = status if version else 'error'
            specs.append(f'{need.name}{need.specifier}')
            wrong.append(f'{name} needs {specs[-1]}, found {version or "none"}')
    if any(re.match('torch(vision)?([^a-z]|$)', spec) for spec in specs):
        return Finding('; '.join(wrong), status, INSTALL_PAIR)
    return (
        Finding('; '.join(wrong), status, install(*specs)) if wrong else Finding('met')
    )


@check('setuptools')
def check_setuptools() -> Finding:
    """Check for pkg_resources, which mmengine and openmim import."""
    version = version_of('setuptools')
    users = [name for name in ('mmengine', 'openmim') if version_of(name)]
    if users and (release(version) >= (82,) or not find_spec('pkg_resources')):
        found = f'{version}, has no pkg_resources for {" and ".join(users)}'
        return Finding(found, 'error', install('setuptools<81'))
    return Finding(version or 'not installed')


@check('transformers')
def check_transformers() -> Finding:
    """Find transformers 5, beside which OpenMMLab's mmpretrain cannot be imported."""
    version = version_of('transformers')
    if release(version) >= (5,) and version_of('mmpretrain'):
        found = f'{version}, beside which mmpretrain cannot be imported'
        return Finding(found, 'error', f'{PIP} uninstall -y transformers')
    return Finding(version or 'not installed')


@check('gpu', 'torch', remedy=INSTALL_PAIR)
def check_gpu() -> Finding:
    """Compute on each GPU, or say why torch finds none."""
    torch = import_module('torch')
    cuda = FACTS['cuda'] = torch.version.cuda
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for i in range(count):
        FACTS['gpus'].append(torch.cuda.get_device_name(i))
        if torch.ones(4, device=f'cuda:{i}').sum().item() != 4:
            raise ValueError(f'GPU {i} computes a wrong sum')
    if count:
        return Finding(f'{", ".join(FACTS["gpus"])}, CUDA {cuda}')
    if not Path('/proc/driver/nvidia').exists() and not shutil.which('nvidia-smi'):
        return Finding('no NVIDIA driver; torch computes on the CPU')
    if cuda is None:
        why, remedy = 'torch was built without CUDA', INSTALL_PAIR
    elif os.environ.get('CUDA_VISIBLE_DEVICES') in ('', '-1'):
        why, remedy = 'CUDA_VISIBLE_DEVICES hides it', 'unset CUDA_VISIBLE_DEVICES'
    elif not any(Path('/dev').glob('nvidia[0-9]*')):
        why, remedy = '/dev/nvidia0 is missing', 'in Docker: docker run --gpus all ...'
    else:
        why = ' '.join(str(warning.message) for warning in said)[:200]
        why = f'torch, built for CUDA {cuda}, cannot use it. {why}'
        remedy = 'update the driver, or take a torch for an older CUDA: ' + install(
            'torch torchvision --index-url https://download.pytorch.org/whl/cu126'
        )
    return Finding(f'an NVIDIA driver, but {why}', 'warning', remedy)


# ---- this package and mmcv's operators


@check('mmghostnetv2', 'torch', 'mmengine', 'mmcv')
def check_package() -> Finding:
    """Import this package."""
    if find_spec('mmghostnetv2') is None:
        return Finding('not installed', 'error', INSTALL_SELF)
    package = import_module('mmghostnetv2')
    return Finding(f'{package.__version__} in {package.__path__[0]}')


def operators() -> str:
    """Return what mmcv contains: compiled operators, this package's file, or none."""
    spec = PathFinder.find_spec('mmcv._ext', import_module('mmcv').__path__)
    if spec is None:
        return 'none'
    return "this package's" if str(spec.origin).endswith('.py') else 'compiled'


@check('mmcv/_ext', 'mmcv')
def check_ext() -> Finding:
    """Check that scripts find operators that import mmcv.ops before this package."""
    if operators() != 'none':
        return Finding(operators())
    text = 'missing; scripts fail that import mmcv.ops first, such as `mim test mmdet`'
    return Finding(text, 'warning', f'{PYTHON} -m mmghostnetv2.mmcv_operators')


@check('mmcv.ops', 'mmghostnetv2', 'torchvision.ops', remedy=reinstall('mmcv'))
def check_operators() -> Finding:
    """Run an operator of mmcv, which this package provides where mmcv-lite lacks it."""
    import_module('mmghostnetv2')
    kind = 'compiled' if operators() == 'compiled' else "this package's"
    FACTS['mmcv_operators'] = kind
    run_nms('mmcv', 'cpu')
    return Finding(f'{kind}; nms is right')


@check('mmcv.ops on GPU', 'mmcv.ops', 'gpu', remedy=reinstall('mmcv'))
def check_gpu_operators() -> Finding:
    """Run the same operator on the GPU, for which mmcv may not be compiled."""
    import_module('mmghostnetv2')
    if not import_module('torch').cuda.is_available():
        return Finding('no GPU')
    run_nms('mmcv', 'cuda')
    return Finding('nms is right')


@check('.mim', 'mim', remedy=INSTALL_SELF)
def check_mim() -> Finding:
    """Check that mim finds the configs, and those of the package that is imported."""
    if find_spec('mim') is None:
        return Finding('mim is not installed')
    if version_of('mmghostnetv2') is None:
        return Finding('pip did not install this package', 'warning', INSTALL_SELF)
    root = Path(import_module('mim.utils').get_installed_path('mmghostnetv2'))
    links = root / '.mim'
    broken = [str(x) for x in links.glob('*') if not x.exists()]
    # onedl-mim searches the whole checkout of an editable install.
    if broken or not any((folder / 'configs').is_dir() for folder in (links, root)):
        found = f'no {" and ".join(broken) or links}; was the checkout moved?'
        return Finding(found, 'error', INSTALL_SELF)
    spec = find_spec('mmghostnetv2')
    used = Path(spec.origin).resolve().parent if spec and spec.origin else None
    if used and root.resolve() not in (used, used.parent):
        return Finding(f'mim uses {root}, and Python {used}', 'warning', INSTALL_SELF)
    return Finding(f'configs in {root}')


# ---- the machine


@check('threads')
def check_threads() -> Finding:
    """Compare the number of threads with the cores that this process may use."""
    linux = hasattr(os, 'sched_getaffinity')
    cores = len(os.sched_getaffinity(0)) if linux else os.cpu_count() or 1
    threads = os.environ.get('OMP_NUM_THREADS', str(cores))
    found = f'{threads} on {cores} cores'
    if not threads.isdecimal() or not 0 < int(threads) <= cores:
        found = f'OMP_NUM_THREADS={threads} on {cores} cores'
        return Finding(found, 'warning', f'export OMP_NUM_THREADS={cores}')
    if cores <= 8 and 'GOMP_SPINCOUNT' not in os.environ:
        # Processes that share cores otherwise wait for each other in a busy loop.
        remedy = 'if several processes train at once: export GOMP_SPINCOUNT=10000'
        return Finding(f'{found}, GOMP_SPINCOUNT is unset', remedy=remedy)
    return Finding(found)


def check_disk(folder: Path, remedy: str) -> Finding:
    """Check that a folder, or the one to make it in, is writable and has space."""
    folder = folder.expanduser().absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding(f'{there} cannot be written to', 'error', remedy)
    free = shutil.disk_usage(there).free / 1e9
    status = 'ok' if free >= 2 else 'warning' if free >= 0.1 else 'error'
    found = f'{free:.1f} GB free in {folder}'
    return Finding(found, status, remedy if status != 'ok' else '')


_caches = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache')
for _name, _variable, _folder, _part in (
    ('working directory', '', Path(), ''),
    ('torch hub', 'TORCH_HOME', _caches / 'torch', 'hub'),
    ('cache', 'MMGHOSTNETV2_CACHE', _caches / 'mmghostnetv2', ''),
):
    _path = Path(os.environ.get(_variable) or _folder, _part)
    _other = f'export {_variable}=FOLDER' if _variable else 'use another folder'
    CHECKS[_name] = Check(partial(check_disk, _path, f'free some space, or {_other}'))


@check('shared memory')
def check_shared_memory() -> Finding:
    """Check /dev/shm, through which the workers of a data loader send images."""
    if not Path('/dev/shm').is_dir():
        return Finding('no /dev/shm')
    free = shutil.disk_usage('/dev/shm').free / 1e9
    if free >= 1:
        return Finding(f'{free:.1f} GB free in /dev/shm')
    remedy = 'docker run --shm-size=8g ..., or --cfg-options '
    remedy += 'train_dataloader.num_workers=0 train_dataloader.persistent_workers=False'
    return Finding(f'{free:.2f} GB free in /dev/shm', 'warning', remedy)


@check('locale')
def check_locale() -> Finding:
    """Check the encoding in which Python reads and writes text files."""
    encoding = locale.getpreferredencoding(False)
    if encoding.lower().replace('-', '') == 'utf8':
        return Finding(encoding)
    return Finding(f'{encoding}, not UTF-8', 'warning', 'export PYTHONUTF8=1')


# ---- the two processes

# By -c, because running a file by its path puts the modules of its folder in sys.path.
CHILD = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def run_check(name: str, statuses: dict[str, str]) -> Finding:
    """Return what a check finds, or the error that it raises."""
    missing = name in REQUIRED and find_spec(name) is None  # reported in any case
    for need in () if missing else CHECKS[name].needs:
        if statuses[need] in ('error', 'skipped'):
            return Finding(f'not checked, because {need} fails', 'skipped')
    try:
        return CHECKS[name].run()
    except BaseException as error:  # a library may even call sys.exit
        return Finding(one_line(error), 'error', CHECKS[name].remedy)


def run_checks(timeout: float) -> None:
    """Run the checks that stdin does not list; write JSON before and after each.

    After ``timeout`` seconds in one check, a traceback is written and the process ends.
    """
    statuses = json.load(sys.stdin)
    with os.fdopen(os.dup(1), 'w') as out, open(os.devnull, 'w') as sink:
        os.dup2(sink.fileno(), 1)  # libraries print to it
        for name in [name for name in CHECKS if name not in statuses]:
            print(json.dumps([name]), file=out, flush=True)
            faulthandler.dump_traceback_later(timeout, exit=True, file=out)
            finding = run_check(name, statuses)
            statuses[name] = finding.status
            print(json.dumps([name, finding, FACTS]), file=out, flush=True)


def examine(timeout: float) -> dict[str, Finding]:
    """Return what all checks find, in as many processes as it takes."""
    done: dict[str, Finding] = {}
    command = [sys.executable, '-c', CHILD, os.path.abspath(__file__)]
    command += ['--child', '--timeout', str(timeout)]
    while len(done) < len(CHECKS):
        statuses = json.dumps({name: finding.status for name, finding in done.items()})
        process = subprocess.run(
            command,
            input=statuses.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        said = process.stdout.decode(errors='replace')
        current = next(name for name in CHECKS if name not in done)
        for line in re.findall(r'(?m)^\["[^\n]*\]$', said):
            current, *result = json.loads(line)
            if result:
                done[current] = Finding(*result[0])
                FACTS.update(result[1])
        if len(done) < len(CHECKS):  # it ended in the middle of a check
            where = re.search(r'(?m)^Timeout[^"]*"(.*)", line (\d+)', said)
            how = f'ended Python with status {process.returncode}'
            if process.returncode < 0:
                how = f'crashed: {signal.Signals(-process.returncode).name}'
            if where:
                how = f'no answer in {timeout:g} s, in {where[1]} line {where[2]}'
            done[current] = Finding(how, 'error', CHECKS[current].remedy)
    return {name: done[name] for name in CHECKS}


def as_json(findings: dict[str, Finding]) -> str:
    """Return the findings, and the facts of the environment for a bug report."""
    names = [name for module in LIBRARIES for name in owners(module)]
    facts = {
        'python': platform.python_version(),
        'os': platform.platform(),
        'torch': version_of('torch'),
        **FACTS,
        'mmcv': owners('mmcv'),
        'forks': [name for name in names if name.startswith('onedl-')],
        'versions': {name: version_of(name) for name in [*names, 'mmghostnetv2']},
        'checks': [{'name': k, **v._asdict()} for k, v in findings.items()],
    }
    return json.dumps(facts, indent=1)


def print_table(findings: dict[str, Finding]) -> None:
    """Print the findings, coloured on a terminal, and then the remedies."""
    # rich would draw this table, but it comes with mmengine, which may be missing.
    colours = {'ok': 32, 'warning': 33, 'error': 31, 'skipped': 2}
    for name, (found, status, _) in findings.items():
        word = f'{status:7}'
        if sys.stdout.isatty():
            word = f'\033[{colours[status]}m{word}\033[0m'
        print(f'{word}  {name:17}  {found}')
    for name, (found, status, remedy) in findings.items():
        if remedy:
            kind = 'note' if status == 'ok' else status
            print(f'\n{kind}: {name}: {found}\n    {remedy}')


def main() -> int:
    """Return the exit status: 1 if there is an error, otherwise 0."""
    parser = argparse.ArgumentParser(
        prog='python -m mmghostnetv2.doctor',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('--json', action='store_true', help='print JSON, for a bug report')
    text = 'after which a check counts as hanging (default: 60)'
    add('--timeout', type=float, default=60, metavar='SECONDS', help=text)
    add('--child', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        run_checks(args.timeout)
        return 0
    try:
        findings = examine(args.timeout)
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130
    except OSError as error:
        print(f'error: cannot start {PYTHON}: {error}', file=sys.stderr)
        return 1
    # A path may have characters that the encoding of the terminal lacks.
    getattr(sys.stdout, 'reconfigure', dict)(errors='backslashreplace')
    print(as_json(findings)) if args.json else print_table(findings)
    return int(any(finding.status == 'error' for finding in findings.values()))


if __name__ == '__main__':
    sys.exit(main())
