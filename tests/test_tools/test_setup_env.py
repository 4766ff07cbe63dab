"""tools/setup_env.py: what it decides and says; nothing is downloaded."""

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mmghostnetv2.forks import mim_package

from ..conftest import ROOT
from .conftest import load_tool

SCRIPT = ROOT / 'tools' / 'setup_env.py'
setup_env = load_tool(SCRIPT)


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    """Keep the user's cache and the machine's disk and settings out of it."""
    monkeypatch.setenv('MMGHOSTNETV2_CACHE', str(tmp_path / 'cache'))
    for name in 'FORCE_CUDA', 'CUDA_HOME', 'CUDA_PATH', 'UV_DEFAULT_INDEX':
        monkeypatch.delenv(name, raising=False)
    disk = SimpleNamespace(free=100e9)
    monkeypatch.setattr(setup_env.shutil, 'disk_usage', lambda _: disk)
    return disk


@pytest.fixture(scope='module')
def venv(tmp_path_factory):
    """Build one real environment, in place of one whose Python is gone."""
    venv = tmp_path_factory.mktemp('a space') / 'venv'
    (venv / 'bin').mkdir(parents=True)
    (venv / 'pyvenv.cfg').write_text('home = /gone\n')
    (venv / setup_env.STAMP).write_text('{}')
    (venv / 'bin' / 'python').symlink_to('/gone/python3.11')
    assert setup_env.probe(venv) is None
    setup_env.make_venv(venv)
    return venv


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Return an environment of Python 3.11 that collects commands and runs none."""

    def run(*command, **env):
        line = ' '.join(map(str, command))
        for path in re.findall(r' -r (\S+)', line):
            fake.locked.append(Path(path).read_text())
        fake.commands.append(line)
        fake.environs.append(env)
        if any(re.search(pattern, line) for pattern in fake.failing):
            raise setup_env.SetupError('this command failed')

    fake = SimpleNamespace(
        venv=tmp_path / 'venv', commands=[], environs=[], locked=[], failing=[]
    )
    fake.setup = lambda *args: setup_env.main(['--venv', str(fake.venv), *args])
    (fake.venv / 'lib/python3.11/site-packages').mkdir(parents=True)
    monkeypatch.setattr(setup_env, 'run', run)
    monkeypatch.setattr(setup_env, 'find_uv', lambda: 'uv')
    monkeypatch.setattr(setup_env, 'probe', lambda _: (3, 11, 7))
    monkeypatch.setattr(setup_env, 'output_of', lambda *_: '')
    return fake


def add_dist(venv, name):
    """Add a distribution's metadata."""
    folder = venv / f'lib/python3.11/site-packages/{name}.dist-info'
    folder.mkdir()
    return folder


# ---- which Python


def test_syntax_is_old_enough_to_start_anywhere():
    assert ast.parse(SCRIPT.read_text(), feature_version=(3, 6)).body


def test_other_pythons_are_told_which_one_is_needed():
    pyenv = Path(os.environ.get('PYENV_ROOT') or Path.home() / '.pyenv')
    found = [shutil.which(f'python3.{minor}') for minor in (6, 7, 8, 9, 10, 14)]
    found = [*filter(None, found), *pyenv.glob('versions/3*/bin/python3')]
    code = f'import sys; print(sys.version_info[:2] in {setup_env.SUPPORTED})'
    others = [x for x in found if setup_env.output_of(x, '-c', code) == 'False']
    for python in others:
        done = subprocess.run([python, SCRIPT], capture_output=True, text=True)
        assert done.returncode == 1
        assert re.fullmatch(
            r'error: this is Python 3\.\d+\.\S+; .* 3\.11, 3\.12 or 3\.13\. '
            r'Run: make quickstart PYTHON=/path/to/python3\.11\n',
            done.stderr,
        ), (python, done.stderr)
    if not others:
        pytest.skip('no unsupported Python on this machine')


@pytest.mark.parametrize('version', [(3, 10, 9), (3, 14, 0)])
def test_unsupported_python_is_refused(monkeypatch, capsys, version):
    monkeypatch.setattr(setup_env.sys, 'version_info', version)
    assert setup_env.main([]) == 1
    assert 'PYTHON=/path/to/python3.11' in capsys.readouterr().err


# ---- the environment


def test_disk_too_small(isolated, capsys, tmp_path):
    isolated.free = 3e9
    assert setup_env.main(['--venv', str(tmp_path / 'a' / 'venv')]) == 1
    assert f'{tmp_path} has 3.0 GB free and 10 GB' in capsys.readouterr().err
    assert not (tmp_path / 'a').exists()


def test_broken_venv_is_rebuilt_and_a_moved_one_is_unusable(venv, tmp_path):
    assert setup_env.probe(venv) == sys.version_info[:3]
    shutil.copytree(venv, tmp_path / 'moved', symlinks=True)
    assert setup_env.probe(tmp_path / 'moved') is None


@pytest.mark.parametrize('name', ['thesis.tex', 'pyvenv.cfg'])
def test_what_it_did_not_make_is_not_deleted(capsys, tmp_path, name):
    (tmp_path / name).write_text('years of work')
    assert setup_env.main(['--venv', str(tmp_path)]) == 1
    assert f'{tmp_path} was not made by this. Move it away' in capsys.readouterr().err
    assert (tmp_path / name).read_text() == 'years of work'


def test_no_ensurepip(monkeypatch, tmp_path):
    monkeypatch.setattr(setup_env.importlib.util, 'find_spec', lambda _: None)
    with pytest.raises(setup_env.SetupError, match=r'apt install python3\.\d+-venv'):
        setup_env.make_venv(tmp_path / 'venv')


# ---- the steps


def test_steps(capsys, fake):
    fake.failing = ['setup.py|-e']
    assert fake.setup() == 1
    assert 'this command failed' in capsys.readouterr().err

    fake.commands.clear()
    fake.failing = []
    assert fake.setup() == 0
    libraries, project, operators, check = fake.commands
    # All is installed again, because the failed run may have left out files.
    options = '--no-deps --require-hashes --reinstall -r '
    assert f'uv pip install --python {fake.venv}/bin/python {options}' in libraries
    assert fake.locked[-1] == (ROOT / 'requirements/openmmlab-lock.txt').read_text()
    assert project.endswith(' --no-deps --no-build-isolation -e .')
    assert operators.endswith(' -m mmghostnetv2.mmcv_operators')
    assert check.endswith(setup_env.CHECK_OPS)

    assert fake.setup() == 0
    assert len(fake.commands) == 4, 'what is complete runs nothing'
    add_dist(fake.venv, 'numpy-9.9')
    assert fake.setup() == 0
    assert len(fake.commands) == 8, 'what was installed by hand is noticed'
    assert '--reinstall' not in fake.commands[4]


def test_opencv_without_libraries_of_the_system(monkeypatch, capsys, fake):
    answers = {'import cv2': None}
    monkeypatch.setattr(
        setup_env, 'output_of', lambda *command: answers.get(command[-1], '')
    )
    assert fake.setup() == 1
    assert 'apt install libgl1' in capsys.readouterr().err


@pytest.mark.parametrize('changed', ['requirements/openmmlab-lock.txt', 'setup.py'])
def test_a_change_is_noticed(monkeypatch, tmp_path, changed):
    monkeypatch.setattr(setup_env, 'ROOT', tmp_path)
    shutil.copytree(ROOT / 'requirements', tmp_path / 'requirements')
    before = setup_env.fingerprint(tmp_path, (3, 11, 7), {})
    assert setup_env.fingerprint(tmp_path, (3, 11, 7), {}) == before
    assert setup_env.fingerprint(tmp_path, (3, 11, 8), {}) != before
    assert setup_env.fingerprint(tmp_path, (3, 11, 7), {'ops': 'lite'}) != before
    (tmp_path / changed).write_text('# a comment\n')
    assert setup_env.fingerprint(tmp_path, (3, 11, 7), {}) != before


def names(locked):
    return {canonicalize_name(x) for x in re.findall(r'(?m)^([\w.-]+)==', locked)}


def test_compiled_operators_are_remembered(monkeypatch, fake):
    add_dist(fake.venv, 'mmcv_lite-2.1.0')
    package = fake.venv / 'lib/python3.11/site-packages/mmcv'
    package.mkdir()
    monkeypatch.setenv('FORCE_CUDA', '0')
    assert fake.setup('--ops', 'compiled') == 0
    libraries, _, compiler = fake.commands
    assert not setup_env.dists(fake.venv, 'mmcv*')
    assert not package.exists(), 'with the file that stands for the operators'
    assert 'mmcv-lite' not in names(fake.locked[0])
    assert compiler.endswith('tools/compile_mmcv.py')
    monkeypatch.delenv('FORCE_CUDA')
    assert fake.setup() == 0
    assert len(fake.commands) == 3, 'a plain run has nothing to do'
    monkeypatch.setenv('FORCE_CUDA', '')
    assert fake.setup() == 0
    monkeypatch.setenv('CUDA_HOME', '/cuda')
    assert fake.setup() == 0, 'a toolkit that is named now is noticed'
    seen = [(x['FORCE_CUDA'], x['CUDA_HOME']) for x in fake.environs if x]
    assert seen == [('0', ''), ('', ''), ('', '/cuda')]
    fake.commands.clear()
    assert fake.setup('--ops', 'lite') == 0
    assert 'mmcv-lite' in names(fake.locked[-1])
    assert fake.commands[-2].endswith(' -m mmghostnetv2.mmcv_operators')


def test_maintained_forks(monkeypatch, capsys, fake):
    """In an environment built anew: the libraries of both stacks own the same files."""
    made = []
    monkeypatch.setattr(
        setup_env, 'make_venv', lambda venv: made.append(venv) or (3, 11, 7)
    )
    assert fake.setup() == 0 and not made
    assert fake.setup('--stack', 'onedl') == 0 and made == [fake.venv]
    locked = names(fake.locked[-1])
    assert {'onedl-mmengine', 'onedl-mim', 'torch', 'timm'} <= locked
    assert not {'mmcv-lite', 'mmengine', 'mmdet', 'openmim'} & locked
    assert fake.commands[-1].endswith('tools/compile_mmcv.py')
    told = len(fake.commands)
    assert fake.setup() == 0 and len(fake.commands) == told, 'it is remembered'
    assert fake.setup('--ops', 'lite') == 1
    assert 'onedl-mmcv has no variant' in capsys.readouterr().err
    assert fake.setup('--stack', 'openmmlab') == 0 and len(made) == 2
    assert fake.commands[-2].endswith(' -m mmghostnetv2.mmcv_operators')


def test_another_torch(fake):
    assert fake.setup('--torch', '2.15.0') == 0
    everything = names((ROOT / 'requirements/openmmlab-lock.txt').read_text())
    left_out = everything - names(fake.locked[0])
    assert {'torch', 'torchvision', 'triton', 'nvidia-cudnn-cu13'} <= left_out
    assert not {'torchao', 'nvidia-ml-py', 'mmengine', 'timm'} & left_out
    *_, first, libraries, torch, _, _, _ = fake.commands
    # So is torch, of which a killed run may have left out files, too.
    assert first.endswith(' --reinstall torch===2.15.0 torchvision')
    assert torch.endswith('/bin/python torch===2.15.0 torchvision')
    add_dist(fake.venv, 'numpy-9.9')
    fake.commands.clear()
    assert fake.setup() == 0
    assert not any('--reinstall' in line for line in fake.commands)


def test_back_to_the_pinned_torch(fake):
    """The pin, by two equal signs, also takes what ends in ``+cpu``."""
    assert fake.setup('--torch', '2.14.1+cpu') == 0
    add_dist(fake.venv, 'torch-2.14.1+cpu')
    fake.commands.clear()
    assert fake.setup('--torch', setup_env.pin('torch')) == 0
    assert ' --reinstall -r ' in fake.commands[0]
    assert fake.locked[-1] == (ROOT / 'requirements/openmmlab-lock.txt').read_text()


def test_pip_where_uv_fails(monkeypatch, capsys, fake):
    fake.failing = ['^uv ']
    setup_env.install(fake.venv, '--no-deps', '--reinstall', 'x')
    uv, pip = fake.commands
    assert uv.startswith('uv pip install') and 'pip tries' in capsys.readouterr().out
    options = '--no-compile --no-deps --force-reinstall x'
    assert pip.startswith(f'{fake.venv}/bin/python -m pip ') and pip.endswith(options)
    monkeypatch.setattr(setup_env, 'find_uv', lambda: None)
    setup_env.install(fake.venv, 'x')
    assert fake.commands[2].startswith(f'{fake.venv}/bin/python -m pip ')


def test_uv_uses_the_index_that_pip_is_set_to(monkeypatch, fake):
    monkeypatch.setenv('PIP_INDEX_URL', 'https://mirror.example/simple')
    setup_env.install(fake.venv, 'x')
    assert fake.environs == [{'UV_DEFAULT_INDEX': 'https://mirror.example/simple'}]
    monkeypatch.setenv('UV_DEFAULT_INDEX', 'https://uv.example/simple')
    setup_env.install(fake.venv, 'x')
    assert fake.environs[1] == {}, "uv's own setting stays"


def test_no_uv(monkeypatch, tmp_path):
    """It is fetched into the cache; without a network there is none."""
    monkeypatch.setattr(setup_env.shutil, 'which', lambda _: None)
    monkeypatch.setenv('PIP_NO_INDEX', '1')
    monkeypatch.delenv('PIP_FIND_LINKS', raising=False)
    assert setup_env.find_uv() is None
    program = tmp_path / 'cache' / f'uv-{setup_env.UV}' / 'bin' / 'uv'
    program.write_text('#!/bin/sh\necho uv 0')
    program.chmod(0o755)
    assert setup_env.find_uv() == str(program)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize('shared', ['checkout', 'cache'])
def test_a_second_setup_waits_and_can_be_ended(tmp_path, number, shared):
    """In the same checkout, and in any other one with the same cache."""
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip('this signal is ignored here, as by nohup')
    folder = ROOT if shared == 'checkout' else setup_env.cache()
    folder.mkdir(exist_ok=True)
    descriptor = setup_env.lock(folder)
    try:
        command = [sys.executable, SCRIPT, '--venv', tmp_path / 'venv']
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert f'work in {folder}: waiting' in process.stdout.readline()
                process.send_signal(number)
                assert process.wait(timeout=30) == 130
            finally:
                process.kill()
    finally:
        os.close(descriptor)


def test_litert(monkeypatch, fake):
    """In an environment of its own, in the cache folder."""
    venv = setup_env.cache() / 'litert'
    assert setup_env.main(['--litert']) == 0
    libraries, check = fake.commands
    assert f' --python {venv}/bin/python ' in libraries
    assert fake.locked == [(ROOT / 'requirements/litert-lock.txt').read_text()]
    assert check.startswith(f'{venv}/bin/python ') and check.endswith('litert_torch')
    monkeypatch.setattr(setup_env, 'probe', lambda venv: None)
    made = []
    monkeypatch.setattr(setup_env, 'make_venv', made.append)
    assert setup_env.main(['--litert', '--venv', str(fake.venv)]) == 0
    assert made == [fake.venv]


@pytest.mark.parametrize('there, needed', [(True, 2), (False, 8)])
def test_litert_on_a_full_disk(monkeypatch, capsys, isolated, fake, there, needed):
    monkeypatch.setattr(setup_env, 'probe', lambda _: (3, 11, 7) if there else None)
    isolated.free = (needed - 0.1) * 1e9
    assert setup_env.main(['--litert', '--venv', str(fake.venv)]) == 1
    assert f'{needed} GB are needed' in capsys.readouterr().err
    assert not fake.commands


# ---- failing and interrupted commands


def test_a_failing_command_is_named():
    with pytest.raises(
        setup_env.SetupError, match=r"failed, see above: sh -c 'exit 3'"
    ):
        setup_env.run('sh', '-c', 'exit 3')


def test_interrupt_ends_the_whole_process_group(tmp_path):
    """In a process of its own, because a signal could reach another thread here."""
    pid = tmp_path / 'pid'
    code = (
        'import runpy, signal\n'
        'signal.signal(signal.SIGTERM, signal.default_int_handler)\n'
        f'run = runpy.run_path({str(SCRIPT)!r})["run"]\n'
        f'run("sh", "-c", "sleep 60 & echo $! >{pid}; wait")'
    )
    with subprocess.Popen(
        [sys.executable, '-c', code], stderr=-1, text=True
    ) as process:
        ended = time.monotonic() + 60
        while not pid.exists() or not pid.read_text().endswith('\n'):
            assert process.poll() is None and time.monotonic() < ended
            time.sleep(0.05)
        process.terminate()
        assert process.stderr.read().endswith('KeyboardInterrupt\n')
    status = Path('/proc', pid.read_text().strip(), 'status')
    while 'sleeping' in setup_env.read(status):
        assert time.monotonic() < ended, 'a process outlived the interrupt'
        time.sleep(0.05)


# ---- the pins


def pins(name, python=sys.version_info[:3]):
    """Return {distribution: version} of a requirement file on one version of Python."""
    environment = {
        'python_version': '{}.{}'.format(*python[:2]),
        'python_full_version': '{}.{}.{}'.format(*python, 0),
    }
    found = {}
    for line in re.findall(
        r'(?m)^[A-Za-z][^\\\n]*', (ROOT / f'requirements/{name}.txt').read_text()
    ):
        requirement = Requirement(line)
        if not requirement.marker or requirement.marker.evaluate(environment):
            (pin,) = requirement.specifier
            dist = canonicalize_name(requirement.name)
            assert pin.operator in ('==', '===') and dist not in found
            found[dist] = pin.version
    return found


def numbers(version):
    return tuple(map(int, re.findall(r'\d+', version)[:3]))


@pytest.mark.parametrize('python', setup_env.SUPPORTED)
@pytest.mark.parametrize(
    ('name', 'lock'),
    [
        ('stack', 'openmmlab-lock'),
        ('openmmlab', 'openmmlab-lock'),
        ('stack', 'onedl-lock'),
        ('onedl', 'onedl-lock'),
        ('litert', 'litert-lock'),
    ],
)
def test_locks_have_what_is_pinned(name, lock, python):
    locked = pins(lock, python)
    assert pins(name, python).items() <= locked.items()
    text = (ROOT / f'requirements/{lock}.txt').read_text()
    entries = [x for x in re.split(r'\n(?=\w)', text) if re.match(r'\w', x)]
    assert len(entries) >= len(locked) and all('--hash=sha256:' in x for x in entries)


def test_litert_reads_what_torch_writes_and_writes_what_litert_runs():
    for name in 'torch', 'ai-edge-litert':
        assert pins('litert')[name] == pins('stack')[name]


def test_documentation_goes_back_to_the_pinned_torch():
    page = (ROOT / 'docs/get_started.md').read_text()
    assert f'TORCH={setup_env.pin("torch")}`' in page


def test_compiled_and_lite_are_one_version():
    assert pins('mmcv')['mmcv'] == pins('openmmlab')['mmcv-lite']


@pytest.mark.parametrize('library', ['mmdet', 'mmseg', 'mmpretrain'])
def test_pins_meet_what_the_libraries_demand(library):
    found = importlib.util.find_spec(library)
    if found is None:
        pytest.skip(f'needs {library}')
    text = Path(found.origin).read_text()  # importing takes seconds
    if mim_package(library) != library:
        pytest.skip('the maintained fork is installed')
    for name, dist in ('mmcv', 'mmcv-lite'), ('mmengine', 'mmengine'):
        bounds = rf"(?mi)^{name}_%s(?:imum_version)? = '(.+)'"
        low, high = (re.search(bounds % x, text)[1] for x in ('min', 'max'))
        assert numbers(low) <= numbers(pins('openmmlab')[dist]) < numbers(high)


def test_running_environment_has_the_pinned_versions():
    prefix = Path(sys.prefix)
    stamp = prefix / setup_env.STAMP
    if prefix.resolve() != (ROOT / '.venv').resolve():
        pytest.skip("not run in the checkout's own environment")
    choices = json.loads(stamp.read_text())['choices']
    if choices['torch'] != setup_env.pin('torch'):
        pytest.skip('another torch was asked for')
    expected = pins(choices['stack'] + '-lock')
    if choices['ops'] == 'compiled':
        expected.pop('mmcv-lite', None)
    dists = {}
    for dist in importlib.metadata.distributions():
        # the first counts: setuptools appends copies of its own to the path
        dists.setdefault(canonicalize_name(dist.metadata['Name']), dist.version)
    assert expected == {name: dists.get(name) for name in expected}
