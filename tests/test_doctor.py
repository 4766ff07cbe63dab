"""The doctor, in the real environment and in one of stand-ins with a defect each."""

import json
import os
import re
import subprocess
import sys
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest

from mmghostnetv2 import doctor

ROOT = Path(__file__).resolve().parents[1]
DOCTOR = ROOT / 'mmghostnetv2' / 'doctor.py'

# Stand-ins for the libraries, with as much as the doctor calls
MODULES = {
    'torch': """
class Tensor(list):
    to = lambda self, device: self
    tolist = lambda self: list(self)
    sum = lambda self: self
    item = lambda self: len(self)
tensor = Tensor
ones = lambda count, device: Tensor([1] * count)
class version:
    cuda = '13.0'
class cuda:
    is_available = staticmethod(lambda: False)
    device_count = staticmethod(lambda: 1)
    get_device_name = staticmethod(lambda i: 'H100')
""",
    'torchvision': '',
    'torchvision.ops': """
import torch
nms = lambda boxes, scores, iou: torch.Tensor([1, 2])
""",
    'cv2': '',
    'mmengine': '',
    'mmcv': '',
    'mmcv._ext': '',
    'mmcv.ops': """
import torch
nms = lambda boxes, scores, iou: (boxes, torch.Tensor([1, 2]))
""",
    'timm': '',
    'pycocotools': '',
    'mmdet': '',
    'mmseg': '',
    'mmpretrain': '',
    'mim': '',
    'mim.utils': """
from pathlib import Path
get_installed_path = lambda name: str(Path(__file__).parents[1] / name)
""",
    'mmghostnetv2': '',
    'pkg_resources': '',
}
INSTALLED = {
    'torch': '2.14.1',
    'torchvision': '0.29.1',
    'opencv-python': '5.0',
    'mmengine': '0.10.7',
    'mmcv-lite': '2.1.0',
    'timm': '1.0',
    'pycocotools': '2.0',
    'mmdet': '3.3.0',
    'mmsegmentation': '1.2.2',
    'mmpretrain': '1.2.0',
    'openmim': '0.3.9',
    'mmghostnetv2': '0.1.0',
    'setuptools': '80.10.2',
    'ftfy': '6.3',
    'regex': '2026',
}
MODULE_OF = {'opencv-python': 'cv2', 'mmcv-lite': 'mmcv', 'mmsegmentation': 'mmseg'}
MODULE_OF['openmim'] = 'mim'


def add_module(folder, name, text):
    path = folder.joinpath(*name.split('.'))
    path = path.with_suffix('.py') if '.' in name else path / '__init__.py'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def add_distribution(folder, name, version, *requires):
    path = folder / f'{name.replace("-", "_")}-{version}.dist-info'
    path.mkdir(parents=True)
    lines = ['Metadata-Version: 2.1', f'Name: {name}', f'Version: {version}']
    lines += [f'Requires-Dist: {need}' for need in requires]
    (path / 'METADATA').write_text('\n'.join(lines) + '\n')


@pytest.fixture(scope='module')
def examine(tmp_path_factory):
    """Run the doctor on the stand-ins, behind other folders; return its findings."""
    packaging = find_spec('packaging')
    if packaging is None:
        pytest.skip('needs packaging')
    home = tmp_path_factory.mktemp('doctor')
    venv.create(home / 'venv', symlinks=True)
    base = home / 'base'
    versions = {MODULE_OF.get(name, name): text for name, text in INSTALLED.items()}
    for name, text in MODULES.items():
        version = versions.get(name)
        add_module(base, name, text + f'__version__ = {version!r}\n' * bool(version))
    for name, version in INSTALLED.items():
        add_distribution(base, name, version)
    (base / 'mmghostnetv2/.mim/configs').mkdir(parents=True)
    (base / 'packaging').symlink_to(Path(packaging.origin).parent)
    # Under coverage.py the doctor is measured, too, which the new environment lacks.
    measured = {key: text for key, text in os.environ.items() if 'COVERAGE' in key}
    if measured:
        (base / 'coverage').symlink_to(Path(find_spec('coverage').origin).parent)
        startup = 'import coverage\ncoverage.process_startup()\n'
        add_module(base, 'sitecustomize', startup)

    def run(*folders, command=(DOCTOR,), base=base, timeout=60, **environ):
        done = subprocess.run(
            [home / 'venv/bin/python', *command, '--json', '--timeout', str(timeout)],
            env={
                'PATH': os.environ['PATH'],
                'HOME': str(home),
                'LC_ALL': 'C.UTF-8',
                **measured,
                'PYTHONPATH': os.pathsep.join(map(str, [*folders, base])),
                **environ,
            },
            cwd=home,
            capture_output=True,
            text=True,
            timeout=60,
        )
        report = json.loads(done.stdout)
        findings = {check['name']: check for check in report['checks']}
        errors = [name for name, x in findings.items() if x['status'] == 'error']
        assert (done.stderr, done.returncode) == ('', int(bool(errors)))
        return report, findings

    return run


def test_real_environment():
    if not all(find_spec(name) for name in doctor.LIBRARIES):
        pytest.skip('a library is missing')
    command = [sys.executable, '-m', 'mmghostnetv2.doctor', '--json']
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    report = json.loads(done.stdout)
    errors = [check for check in report['checks'] if check['status'] == 'error']
    assert (errors, done.returncode, done.stderr) == ([], 0, '')
    assert report['python'] == sys.version.split()[0]
    assert report['mmcv_operators'] in ('compiled', "this package's")
    assert report['torch'] and report['mmcv'] and report['os']
    assert {'cuda', 'gpus', 'forks'} <= set(report)
    assert {'torch', 'pycocotools', 'mmghostnetv2'} <= set(report['versions'])
    assert [check['name'] for check in report['checks']] == list(doctor.CHECKS)


def test_stand_ins_without_a_defect(examine):
    report, findings = examine()
    assert 'error' not in {finding['status'] for finding in findings.values()}
    assert report['mmcv'] == ['mmcv-lite']
    assert report['mmcv_operators'] == "this package's"
    assert report['cuda'] == '13.0'


def test_what_setup_py_and_the_lock_ask_for():
    asked = (ROOT / 'setup.py').read_text()
    specs = [spec for specs in doctor.LIBRARIES.values() for spec in specs]
    for spec in [spec for spec in specs if re.search('[<>]', spec)]:
        assert f"'{spec}'" in asked
    assert f"python_requires='>={'.'.join(map(str, doctor.PYTHONS[0]))}'" in asked
    stack = (ROOT / 'requirements/stack.txt').read_text().splitlines()
    assert set(doctor.PAIR.split()) <= set(stack)


GPU = MODULES['torch'].replace('False', 'True')
NO_DEVICE = """
import pathlib
there, glob = pathlib.Path.exists, pathlib.Path.glob
pathlib.Path.exists = lambda p: str(p) == '/proc/driver/nvidia' or there(p)
pathlib.Path.glob = lambda p, x: {} if str(p) == '/dev' else glob(p, x)
"""
FULL = """
import shutil, types
shutil.disk_usage = lambda path: types.SimpleNamespace(free={})
"""
# Check, status, what it finds, the remedy; then modules, distributions and environment
DEFECTS = {
    'old torch': (
        'torch',
        'error',
        '2.5.1.*>=2.6',
        'install --upgrade "torch>=2.6"',
        {'torch': '__version__ = "2.5.1"'},
    ),
    'crash': (
        'pycocotools',
        'error',
        'crashed: SIGSEGV',
        'pycocotools==2.0',
        {'pycocotools': 'import os; os.kill(os.getpid(), 11)'},
    ),
    'exit': (
        'timm',
        'error',
        'SystemExit: 3',
        'timm==1.0',
        {'timm': 'raise SystemExit(3)'},
    ),
    'hard exit': (
        'timm',
        'error',
        'status 7',
        'timm==1.0',
        {'timm': 'import os; os._exit(7)'},
    ),
    'missing dependency': (
        'mmseg',
        'error',
        "No module named 'ftfy'",
        'install ftfy',
        {'mmseg': 'import ftfy'},
    ),
    'system libraries': (
        'cv2',
        'error',
        'libGL.so.1',
        'apt install libgl1',
        {'cv2': 'raise ImportError("libGL.so.1: cannot open")'},
    ),
    'mmcv 2.2': (
        'mmcv',
        'warning',
        '2.2.0',
        'uninstall -y mmcv-lite && .* "mmcv-lite>=2.0.0,<2.2.0"',
        {'mmcv': '__version__ = "2.2.0"', 'mmcv.ops': MODULES['mmcv.ops']},
    ),
    'incompatible': (
        'mmdet',
        'error',
        'MMCV==2.2.0',
        'install "mmcv-lite>=2.0.0,<2.2.0"',
        {'mmdet': 'raise AssertionError("MMCV==2.2.0 is used but incompatible.")'},
    ),
    'pair': (
        'torchvision.ops',
        'error',
        'torchvision::nms',
        'torch===',
        {
            'torchvision': '__version__ = "0.29.1+cpu"',
            'torchvision.ops': 'raise RuntimeError("no operator torchvision::nms")',
        },
    ),
    'two mmcv': (
        'distributions',
        'error',
        'mmcv-lite and mmcv own',
        'uninstall -y mmcv-lite mmcv && ',
        {},
        {'mmcv': '2.1.0'},
    ),
    'fork over the original': (
        'distributions',
        'error',
        'mmdet and onedl-mmdetection',
        'uninstall -y mmdet onedl-mmdetection',
        {},
        {'onedl-mmdetection': '3.5.1'},
    ),
    'two OpenCV': (
        'distributions',
        'warning',
        'opencv-python and opencv-python-headless',
        'uninstall -y .* install opencv-python$',
        {},
        {'opencv-python-headless': '5.0'},
    ),
    'requirement': (
        'requirements',
        'warning',
        'timm needs regex>=3000, found 2026',
        'install "regex>=3000"',
        {},
        {'timm': ('1.0', 'regex>=3000', 'never; extra == "x"')},
    ),
    'missing requirement': (
        'requirements',
        'error',
        'timm needs safetensors, found none',
        'install safetensors',
        {},
        {'timm': ('1.0', 'safetensors')},
    ),
    'requirement of torch': (
        'requirements',
        'warning',
        'torchvision needs torch==2.13.0',
        'torch===.* torchvision===',
        {},
        {'torchvision': ('0.29.1', 'torch==2.13.0')},
    ),
    'setuptools': (
        'setuptools',
        'error',
        '82.0.*mmengine and openmim',
        'install "setuptools<81"',
        {},
        {'setuptools': '82.0'},
    ),
    'transformers': (
        'transformers',
        'error',
        '5.1',
        'uninstall -y transformers',
        {},
        {'transformers': '5.1'},
    ),
    'mmpretrain beside transformers': (
        'mmpretrain',
        'error',
        'NoneType takes no arguments',
        'uninstall -y transformers',
        {'mmpretrain': 'raise TypeError("NoneType takes no arguments")'},
        {'transformers': '5.1'},
    ),
    'GPU computes wrongly': (
        'gpu',
        'error',
        'wrong sum',
        'torch===',
        {'torch': GPU.replace('len(self)', '0')},
    ),
    'GPU without a device': (
        'gpu',
        'warning',
        '/dev/nvidia0',
        'docker run --gpus all',
        {'sitecustomize': NO_DEVICE},
    ),
    'torch without CUDA': (
        'gpu',
        'warning',
        'built without CUDA',
        'torch===',
        {
            'sitecustomize': NO_DEVICE,
            'torch': MODULES['torch'].replace("'13.0'", 'None'),
        },
    ),
    'hidden GPU': (
        'gpu',
        'warning',
        'hides',
        'unset CUDA_VISIBLE_DEVICES',
        {'sitecustomize': NO_DEVICE},
        {},
        {'CUDA_VISIBLE_DEVICES': ''},
    ),
    'no operators': (
        'mmcv/_ext',
        'warning',
        'missing',
        '-m mmghostnetv2.mmcv_operators',
        {'mmcv': '__version__ = "2.1.0"', 'mmcv.ops': MODULES['mmcv.ops']},
    ),
    'wrong operators': (
        'mmcv.ops',
        'error',
        r'returned \[0\]',
        'tools/compile_mmcv.py',
        {
            'mmcv': '__version__ = "2.1.0"',
            'mmcv.ops': MODULES['mmcv.ops'].replace('[1, 2]', '[0]'),
        },
    ),
    'operators without CUDA': (
        'mmcv.ops on GPU',
        'error',
        'not compiled with GPU support',
        'tools/compile_mmcv.py',
        {
            'torch': GPU.replace(
                'self, device: self', 'self, device: self if device == "cpu" else 1 / 0'
            ).replace(
                '1 / 0', 'exec("raise RuntimeError(\'not compiled with GPU support\')")'
            )
        },
    ),
    'moved checkout': (
        '.mim',
        'error',
        'no /gone/mmghostnetv2/.mim',
        'install --no-deps --no-build-isolation -e .',
        {'mim': '', 'mim.utils': "get_installed_path = '/gone/{}'.format"},
    ),
    'threads': (
        'threads',
        'warning',
        'OMP_NUM_THREADS=9999',
        r'export OMP_NUM_THREADS=\d',
        {},
        {},
        {'OMP_NUM_THREADS': '9999'},
    ),
    'full disk': (
        'working directory',
        'error',
        '0.0 GB',
        'free some space',
        {'sitecustomize': FULL.format(10**6)},
    ),
    'little disk': (
        'cache',
        'warning',
        '1.0 GB',
        'export MMGHOSTNETV2_CACHE=',
        {'sitecustomize': FULL.format(10**9)},
    ),
    'shared memory': (
        'shared memory',
        'warning',
        '0.06 GB',
        '--shm-size',
        {'sitecustomize': FULL.format(64 * 10**6)},
    ),
    'hub that cannot be written': (
        'torch hub',
        'error',
        'os-release cannot be written',
        'export TORCH_HOME=',
        {},
        {},
        {'TORCH_HOME': '/etc/os-release'},
    ),
    'encoding': (
        'locale',
        'warning',
        'not UTF-8',
        'export PYTHONUTF8=1',
        {},
        {},
        {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'},
    ),
}


@pytest.mark.parametrize('defect', DEFECTS)
def test_defect(defect, examine, tmp_path):
    name, status, found, remedy, modules, *more = DEFECTS[defect]
    distributions, environ = [*more, {}, {}][:2]
    for module, text in modules.items():
        add_module(tmp_path, module, text)
    for distribution, version in distributions.items():
        version = (version,) if isinstance(version, str) else version
        add_distribution(tmp_path, distribution, *version)
    _, findings = examine(tmp_path, **environ)
    finding = findings[name]
    assert finding['status'] == status, finding
    assert re.search(found, finding['found']), finding
    assert re.search(remedy, finding['remedy']), finding


def test_library_that_hangs(examine, tmp_path):
    add_module(tmp_path, 'timm', 'import time\ntime.sleep(100)')
    _, findings = examine(tmp_path, timeout=1)
    place = f'{tmp_path}/timm/__init__.py line 2'
    assert findings['timm']['found'] == f'no answer in 1 s, in {place}'
    assert 'timm==1.0' in findings['timm']['remedy']
    assert findings['mmdet']['found'].startswith('3.3.0')


def test_mixed_stacks(examine, tmp_path):
    for name in ('mmengine', 'mmcv-lite', 'onedl-mmdetection'):
        add_distribution(tmp_path, name, '3.5.1')
    report, findings = examine(base=tmp_path)
    finding = findings['distributions']
    assert finding['found'] == 'both stacks: mmengine, mmcv-lite, onedl-mmdetection'
    assert 'uninstall -y mmengine mmcv-lite onedl-mmdetection; ' in finding['remedy']
    assert report['forks'] == ['onedl-mmdetection']


def test_fork(examine, tmp_path):
    for name, version in [('mmengine', '0.10.12'), ('mmdetection', '3.4')]:
        add_distribution(tmp_path, f'onedl-{name}', version)
    add_module(tmp_path, 'torch', MODULES['torch'] + '__version__ = "2.14.1"')
    add_module(tmp_path, 'mmengine', '')
    _, findings = examine(base=tmp_path)
    assert findings['mmengine']['found'] == '0.10.12 (onedl-mmengine)'
    assert '--no-build-isolation "onedl-mmcv>=2.3"' in findings['mmcv']['remedy']
    assert findings['cv2']['remedy'].endswith('install opencv-python')


@pytest.mark.parametrize('command', [('-m', 'mmghostnetv2.doctor'), (DOCTOR,)])
@pytest.mark.parametrize('torch', [None, 'import os; os.abort()', 'import gone'])
def test_starts_where_the_package_cannot_be_imported(command, torch, examine, tmp_path):
    if torch:
        add_module(tmp_path, 'torch', torch)
    _, findings = examine(tmp_path, command=command, base=ROOT)
    expected = {None: 'not installed', 'import gone': "No module named 'gone'"}
    assert expected.get(torch, 'crashed: SIGABRT') in findings['torch']['found']
    assert findings['torchvision']['found'] == 'not installed'
    assert findings['mmghostnetv2']['status'] == 'skipped'
    assert findings['mmcv.ops']['status'] == 'skipped'


def test_damaged_metadata(examine, tmp_path):
    (tmp_path / 'mmdet-3.3.0.dist-info').mkdir()
    _, findings = examine(tmp_path)
    assert findings['mmdet']['found'].startswith('3.3.0')


def test_table(monkeypatch, capsys):
    findings = {
        'torch': doctor.Finding('broken', 'error', 'pip install torch'),
        'locale': doctor.Finding('UTF-8'),
    }
    monkeypatch.setattr(doctor, 'examine', lambda timeout: findings)
    monkeypatch.setattr(sys, 'argv', ['doctor'])
    assert doctor.main() == 1
    assert capsys.readouterr().out.splitlines() == [
        'error    torch              broken',
        'ok       locale             UTF-8',
        '',
        'error: torch: broken',
        '    pip install torch',
    ]
