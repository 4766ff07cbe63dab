"""What the archives hold, and that mim finds the package however it was installed."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import Parser
from importlib.metadata import distributions
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
NAME = 'mmghostnetv2'
VERSION = re.search(r"'(.+)'", (ROOT / NAME / 'version.py').read_text())[1]
MIM = f'{NAME}/.mim/'
# no network, nothing of the surrounding environment replaced; read by nested pips too
ENV = dict(
    os.environ,
    PIP_NO_INDEX='1',
    PIP_NO_DEPS='1',
    PIP_IGNORE_INSTALLED='1',
    PIP_DISABLE_PIP_VERSION_CHECK='1',
    PYTHONWARNINGS='ignore',
)
ENV.pop('PYTHONPATH', None)


def run(*command, python=sys.executable, cwd):
    done = subprocess.run(
        [python, *map(str, command)], cwd=cwd, env=ENV, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip_wheel(source, folder):
    run('-m', 'pip', 'wheel', '--no-build-isolation', source, '-w', folder, cwd=folder)
    return next(folder.glob('*.whl'))


def wheel_files(path):
    with zipfile.ZipFile(path) as archive:
        return {name for name in archive.namelist() if '.dist-info/' not in name}


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A copy of what git tracks or could track, with the litter of daily work."""
    if not (ROOT / '.git').exists() or not shutil.which('git'):
        pytest.skip('not a git checkout')
    listed = subprocess.run(
        ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split('\0')
    copy = tmp_path_factory.mktemp('source') / 'checkout'
    for file in filter(None, listed):
        if (ROOT / file).is_file():
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, copy / file)
    for litter in (
        'work_dirs/a/epoch_1.pth',
        'data/images/a.png',
        'tools/work_dirs/a.log',
        'tools/__pycache__/train.cpython-311.pyc',
        'configs/.ipynb_checkpoints/a.py',
        f'build/lib/{MIM}configs/renamed_since.py',
        f'{MIM}configs/left_over.py',
    ):
        (copy / litter).parent.mkdir(parents=True, exist_ok=True)
        (copy / litter).touch()
    return copy


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory):
    return pip_wheel(source, tmp_path_factory.mktemp('wheel'))


@pytest.fixture(scope='module')
def sdist(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp('sdist')
    run('setup.py', '-q', 'sdist', '-d', folder, cwd=source)
    return next(folder.glob('*.tar.gz'))


def wanted(source, folder):
    """Files of a top folder of the checkout, without litter."""
    files = (p.relative_to(source) for p in (source / folder).rglob('*') if p.is_file())
    litter = re.compile(r'(^|/)(\.|__pycache__/|work_dirs/)')
    return {p.as_posix() for p in files if not litter.search(p.as_posix())}


def test_wheel_holds_package_and_mim_folder(source, wheel):
    assert wheel.name == f'{NAME}-{VERSION}-py3-none-any.whl'
    files = wheel_files(wheel)
    mim = {name[len(MIM) :] for name in files if name.startswith(MIM)}
    indexes = {'model-index.yml', 'dataset-index.yml'}
    assert mim - indexes == wanted(source, 'configs') | wanted(source, 'tools')
    assert 'model-index.yml' in mim
    assert {'tools/train.py', 'tools/test.py'} <= mim
    assert any(name.startswith('configs/') for name in mim)
    package = {name for name in files if not name.startswith(MIM)}
    assert package == {p for p in wanted(source, NAME) if p.endswith(('.py', '.typed'))}


def test_sdist_agrees_with_wheel(source, wheel, sdist, tmp_path):
    with tarfile.open(sdist) as archive:
        members = [m.name.split('/', 1)[1] for m in archive.getmembers() if m.isfile()]
    for file in ('setup.py', 'LICENSE', 'CHANGELOG.md', 'CITATION.cff'):
        assert file in members
    assert not [m for m in members if m.startswith(('tests/', 'data/', 'work_dirs/'))]
    assert not [m for m in members if MIM in m or m.endswith('.pyc')]
    assert wheel_files(pip_wheel(sdist, tmp_path)) == wheel_files(wheel)


def test_building_leaves_no_copies_in_the_package(source, wheel, sdist):
    left = [p.name for p in (source / NAME / '.mim').rglob('*') if p.is_file()]
    assert left == ['left_over.py']  # the litter this test's fixture put there


def make_environment(folder):
    """A virtual environment that also sees the packages of this one."""
    venv.create(folder)
    version = f'python{sys.version_info[0]}.{sys.version_info[1]}'
    packages = folder / 'lib' / version / 'site-packages'
    outer = [path for path in sys.path if path.endswith('site-packages')]
    (packages / 'outer.pth').write_text('\n'.join(outer))
    return folder / 'bin' / 'python'


INSTALL = ('-m', 'pip', 'install', '--no-build-isolation')
DEVELOP = ('setup.py', 'develop', '--no-deps')
FORK = any(distributions(name='onedl-mim'))


@pytest.mark.parametrize(
    'how',
    [
        pytest.param('wheel', id='wheel'),
        pytest.param((*INSTALL, '-e', '.'), id='editable'),
        pytest.param((*INSTALL, '--use-pep517', '-e', '.'), id='editable-pep660'),
        pytest.param(DEVELOP, id='develop'),
    ],
)
def test_mim_finds_the_package(how, source, wheel, tmp_path):
    pytest.importorskip('mim', reason='openmim is not installed')
    if FORK and how in ('wheel', DEVELOP):
        pytest.skip("onedl-mim takes the metadata's folder for the package")
    python = make_environment(tmp_path / 'env')
    checkout = tmp_path / 'checkout'
    if how == 'wheel':
        run(*INSTALL, wheel, python=python, cwd=tmp_path)
    else:
        shutil.copytree(source, checkout)
        run(*how, python=python, cwd=checkout)
    # a folder of the package's name in the working directory must not get in the way
    (tmp_path / NAME).mkdir()
    found, same, imported = run(
        '-c',
        'import importlib.util, mim.utils, mmengine.utils\n'
        f'print(mim.utils.get_installed_path("{NAME}"))\n'
        f'print(mmengine.utils.get_installed_path("{NAME}"))\n'
        f'print(importlib.util.find_spec("{NAME}").origin)',
        python=python,
        cwd=tmp_path,
    ).splitlines()[-3:]
    assert same == os.path.dirname(imported)
    if FORK and how != 'wheel':
        # Its mim takes the checkout itself, where `.mim` would hold each config again.
        assert found == str(checkout) and not Path(same, '.mim').exists()
        shutil.rmtree(checkout / 'build')
    else:
        assert found == same
        mim = Path(found, '.mim')
        assert mim.is_relative_to(tmp_path / 'env' if how == 'wheel' else checkout)
        names = {path.name for path in mim.iterdir()}
        assert {'configs', 'tools', 'model-index.yml'} <= names
        assert (mim / 'tools' / 'train.py').is_file()
        assert not (mim / 'configs' / 'left_over.py').exists()
        if how != 'wheel':  # edits of configs count at once
            (checkout / 'configs' / 'written_later.py').touch()
            assert (mim / 'configs' / 'written_later.py').is_file()
            assert os.readlink(mim / 'configs') == os.path.join('..', '..', 'configs')
    if '--use-pep517' in how:  # the same by mim itself, once, as it takes seconds
        config = next((checkout / 'configs').glob('*ghostnet*.py'))
        code = f'import mim; mim.train("{NAME}", "{config.name}", 0, other_args=["-h"])'
        told = run('-c', code, python=python, cwd=tmp_path)
        assert f'will use {config} instead' in told and '--auto-scale-lr' in told

    if 'setup.py' not in how:
        run('-m', 'pip', 'uninstall', '-y', NAME, python=python, cwd=tmp_path / 'env')
        packages = next((tmp_path / 'env' / 'lib').glob('python*/site-packages'))
        assert not list(packages.glob(f'*{NAME}*'))


def test_mim_downloads_from_an_installed_wheel(wheel, served, released, tmp_path):
    """What `mim download` brings is a config and weights that belong together."""
    pytest.importorskip('mim', reason='openmim is not installed')
    if FORK:
        pytest.skip("onedl-mim takes the metadata's folder for the package")
    models = pytest.importorskip('mmpretrain', reason='needs mmpretrain')
    python = make_environment(tmp_path / 'env')
    run(*INSTALL, wheel, python=python, cwd=tmp_path)
    (metafile,) = (tmp_path / 'env').rglob(f'{MIM}configs/metafile.yml')
    text = metafile.read_text()
    metafile.write_text(re.sub(r'https://github\.com/huawei.*/', served, text))
    torch.save({'state_dict': released}, tmp_path / 'ck_ghostnetv2_10.pth.tar')

    def mim(*args):
        return run('-m', 'mim', *args, python=python, cwd=tmp_path / 'env')

    found = mim('search', NAME)
    assert 'config id: ghostnetv2-160_3rdparty_in1k' in found
    assert re.search(r'parameters +12392698', found)
    # the tools of the installed copy, on a config that is found there by name
    config = metafile.with_name('ghostnetv2_100_in1k.py')
    call = f'test("{NAME}", "{config.name}", "a.pth", gpus=0, other_args=["-h"])'
    told = run('-c', f'import mim; mim.{call}', python=python, cwd=tmp_path / 'env')
    assert f'will use {config} instead' in told and '--cfg-options' in told
    folder = tmp_path / 'downloaded'
    mim('download', NAME, '--config', 'ghostnetv2_100_in1k', '--dest', folder)
    config, weights = sorted(folder.iterdir(), reverse=True)
    assert config.name == 'ghostnetv2_100_in1k.py'
    assert weights.name == 'ck_ghostnetv2_10.pth.tar'
    model = models.get_model(str(config), pretrained=str(weights))
    state = model.state_dict()
    own = {key: value for key, value in released.items() if f'backbone.{key}' in state}
    assert len(own) == len(state) - 4  # the classifier's two layers
    assert all(torch.equal(state[f'backbone.{k}'], v) for k, v in own.items())
    assert torch.equal(model.head.fc.fc.bias, released['classifier.bias'])


def test_extras(wheel):
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f'{NAME}-{VERSION}.dist-info/METADATA').decode()
    metadata = Parser().parsestr(text)
    extras = {name: set() for name in [None, *metadata.get_all('Provides-Extra')]}
    for line in metadata.get_all('Requires-Dist'):
        requirement, _, marker = line.partition(';')
        extra = re.search(r'extra == [\'"]([\w-]+)[\'"]', marker)
        extras[extra and extra[1]].add(requirement.strip())
    always, everything = extras.pop(None), extras.pop('all')
    # nothing that a maintained fork of mmcv or mmengine could collide with
    assert [re.match(r'\w+', name)[0] for name in always] == ['torch']
    runtimes = {'openvino', 'ncnn', 'litert', 'executorch', 'coreml'}
    libraries = {'cls', 'det', 'seg'}
    forks = {name: extras.pop(f'{name}-onedl') for name in libraries}
    assert set(extras) == {*libraries, 'deploy', *runtimes, 'docs', 'tests'}
    assert everything == set().union(*extras.values())
    for requirements in extras.values():  # pkg_resources for mmengine
        if any(name.startswith('mmengine') for name in requirements):
            assert 'setuptools<81' in requirements
    for requirements in forks.values():  # the originals own the same files
        own = {re.match(r'[\w-]+', name)[0] for name in requirements}
        assert {'onedl-mmengine', 'onedl-mmcv'} <= own
        assert not [name for name in own if re.match('mm', name)]


@pytest.mark.parametrize('library', ['torch', 'mmengine', 'mmcv'])
def test_floors_are_those_checked_at_import(library):
    floor = re.search(rf"'{library}(?:-lite)?>=([\d.]+)", read('setup.py'))[1]
    checked = re.search(rf"'{library}': '([\d.]+)'", read(f'{NAME}/__init__.py'))[1]
    assert checked in (floor, f'{floor}.0')


def test_config_names_are_unique():
    """mim looks for the base name alone, in the whole package."""
    names = [p.name for p in (ROOT / 'configs').rglob('*.py')]
    names += {p.name for folder in (NAME, 'tools') for p in (ROOT / folder).rglob('*')}
    configs = {p.name for p in (ROOT / 'configs').rglob('*.py')}
    assert not [name for name in sorted(configs) if names.count(name) > 1]


def test_tools_that_are_written_about_exist():
    files = [ROOT / 'Makefile', *ROOT.glob('*.md'), *(ROOT / 'docs').rglob('*.md')]
    files += [*(ROOT / '.github').rglob('*.yml'), *(ROOT / '.ci').glob('*')]
    tools = {
        tool
        for file in files
        if file.is_file()
        for tool in re.findall(r'(?<![\w/])tools/[\w/]+\.(?:py|sh)', file.read_text())
    }
    assert not [tool for tool in sorted(tools) if not (ROOT / tool).is_file()]


def read(name):
    return (ROOT / name).read_text(encoding='utf-8')


def test_versions_agree():
    assert f'\nversion: {VERSION}\n' in read('CITATION.cff')
    assert f'## {VERSION}' in read('CHANGELOG.md')


def test_documented_pins_are_the_pins(monkeypatch, tmp_path):
    shutil.copytree(ROOT / 'docs', tmp_path / 'docs')
    shutil.copytree(ROOT / 'requirements', tmp_path / 'requirements')
    run('docs/make_versions.py', cwd=tmp_path)
    assert (tmp_path / 'docs/versions.md').read_text() == read('docs/versions.md')


def test_one_ruff():
    if not (ROOT / 'requirements' / 'stack.txt').exists():
        pytest.skip('no requirements/stack.txt')
    pin = r'ruff==([\d.]+\d)'
    hooks = set(re.findall(pin, read('.pre-commit-config.yaml')))
    assert hooks == set(re.findall(pin, read('requirements/stack.txt')))
