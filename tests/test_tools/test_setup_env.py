"""tools/setup_env.py: what it decides and says; nothing is downloaded or compiled."""

import ast
import contextlib
import importlib.metadata
import importlib.util
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

from ..conftest import ROOT
from .conftest import load_tool

SCRIPT = ROOT / 'tools' / 'setup_env.py'
setup_env = load_tool(SCRIPT)


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    """Keep the user's cache and the machine's disk and settings out of it."""
    monkeypatch.setenv('MMGHOSTNETV2_CACHE', str(tmp_path / 'cache'))
    for name in 'CXX', 'MAX_JOBS', 'FORCE_CUDA', 'CUDA_HOME', 'CUDA_PATH':
        monkeypatch.delenv(name, raising=False)
    disk = SimpleNamespace(free=100e9)
    monkeypatch.setattr(setup_env.shutil, 'disk_usage', lambda _: disk)
    return disk


@pytest.fixture(scope='module')
def venv(tmp_path_factory):
    """Build one real environment, in place of one whose Python is gone."""
    venv = tmp_path_factory.mktemp('broken') / 'venv'
    (venv / 'bin').mkdir(parents=True)
    (venv / 'pyvenv.cfg').write_text('home = /gone\n')
    (venv / 'bin' / 'python').symlink_to('/gone/python3.11')
    assert setup_env.probe(venv) is None
    setup_env.make_venv(venv)
    return venv


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Return an environment of Python 3.11 that collects commands and runs none."""

    def run(venv, *command, **env):
        fake.commands.append(' '.join(map(str, command)))

    def choose_ops(venv, force):
        fake.forces.append(force)
        return 'cpu'

    fake = SimpleNamespace(venv=tmp_path / 'venv', commands=[], forces=[])
    fake.setup = lambda: setup_env.main(['--venv', str(fake.venv)])
    (fake.venv / 'lib/python3.11/site-packages').mkdir(parents=True)
    monkeypatch.setattr(setup_env, 'run', run)
    monkeypatch.setattr(setup_env, 'choose_ops', choose_ops)
    monkeypatch.setattr(setup_env, 'probe', lambda _: (3, 11, 7))
    return fake


def add_dist(venv, name, **files):
    """Add a distribution's metadata, with the files pip writes last."""
    folder = venv / f'lib/python3.11/site-packages/{name}.dist-info'
    folder.mkdir()
    for file, text in dict(INSTALLER='pip', RECORD='', **files).items():
        (folder / file).write_text(text)
    return folder


def keep_wheel(version=(3, 11)):
    """Put a file into the cache as the wheel of mmcv, and return it."""
    folder = setup_env.wheel_folder('cpu', version)
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / 'mmcv-2.1.0-cp311-cp311-linux_x86_64.whl'
    wheel.write_text('no archive')
    return wheel


def raiser(error):
    """Return a function that takes anything and raises ``error``."""

    def fail(*_, **__):
        raise error

    return fail


# ---- which Python


def test_syntax_is_old_enough_to_start_anywhere():
    assert ast.parse(SCRIPT.read_text(), feature_version=(3, 6)).body


def test_other_pythons_are_told_which_one_is_needed():
    pyenv = Path(os.environ.get('PYENV_ROOT') or Path.home() / '.pyenv')
    found = [shutil.which(f'python3.{minor}') for minor in (6, 7, 8, 9, 10, 13, 14)]
    found = [*filter(None, found), *pyenv.glob('versions/3*/bin/python3')]
    code = f'import sys; print(sys.version_info[:2] in {setup_env.SUPPORTED})'
    others = [x for x in found if setup_env.output_of(x, '-c', code) == 'False']
    for python in others:
        done = subprocess.run([python, SCRIPT], capture_output=True, text=True)
        assert done.returncode == 1
        assert re.fullmatch(
            r'error: this is Python 3\.\d+\.\S+; .* 3\.11 or 3\.12\. '
            r'Run: make quickstart PYTHON=/path/to/python3\.11\n',
            done.stderr,
        ), (python, done.stderr)
    if not others:
        pytest.skip('no unsupported Python on this machine')


@pytest.mark.parametrize('version', [(3, 10, 9), (3, 13, 0)])
def test_unsupported_python_is_refused(monkeypatch, capsys, version):
    monkeypatch.setattr(setup_env.sys, 'version_info', version)
    assert setup_env.main([]) == 1
    assert 'PYTHON=/path/to/python3.11' in capsys.readouterr().err


# ---- what must be there before anything is downloaded


def test_no_compiler(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv('CXX', 'absent++ -O1')
    assert setup_env.main(['--venv', str(tmp_path / 'venv')]) == 1
    error = capsys.readouterr().err
    assert re.search(r'absent\+\+: (command )?not found', error)
    assert 'apt install g++ python3' in error and 'dnf install gcc-c++ python3' in error
    assert not (tmp_path / 'venv').exists()
    keep_wheel(sys.version_info)  # nothing to compile
    setup_env.check_before(tmp_path / 'venv', None)


@pytest.mark.skipif(not shutil.which('c++'), reason='needs a C++ compiler')
def test_no_python_headers(monkeypatch, tmp_path):
    monkeypatch.setattr(setup_env, 'output_of', lambda *_: f'{tmp_path}/python3.11')
    with pytest.raises(setup_env.SetupError, match=r'Python\.h.* python3\.11-dev'):
        setup_env.check_compiler(sys.executable)


def test_disk_too_small(isolated, capsys, tmp_path):
    isolated.free = 3e9
    assert setup_env.main(['--venv', str(tmp_path / 'a' / 'venv')]) == 1
    assert f'{tmp_path} has 3.0 GB free and 10 GB' in capsys.readouterr().err
    assert not (tmp_path / 'a').exists()


# ---- the environment


def test_broken_venv_is_rebuilt_and_a_moved_one_is_unusable(venv, tmp_path):
    assert setup_env.probe(venv) == sys.version_info[:3]
    shutil.copytree(venv, tmp_path / 'moved', symlinks=True)
    assert setup_env.probe(tmp_path / 'moved') is None


def test_what_is_no_venv_is_not_deleted(capsys, tmp_path):
    (tmp_path / 'thesis.tex').write_text('years of work')
    keep_wheel(sys.version_info)
    assert setup_env.main(['--venv', str(tmp_path)]) == 1
    assert 'not a virtual environment' in capsys.readouterr().err
    assert (tmp_path / 'thesis.tex').read_text() == 'years of work'


def test_no_ensurepip(monkeypatch, tmp_path):
    monkeypatch.setattr(setup_env.importlib.util, 'find_spec', lambda _: None)
    with pytest.raises(setup_env.SetupError, match=r'apt install python3\.\d+-venv'):
        setup_env.make_venv(tmp_path / 'venv')


def test_what_a_killed_pip_left_is_removed(fake):
    whole, unrecorded, cut = (add_dist(fake.venv, x) for x in ('a-1', 'b-1', 'c-1'))
    (unrecorded / 'RECORD').unlink()
    (cut / 'INSTALLER').unlink()
    (whole.parent / '~umpy').mkdir()
    setup_env.pip(fake.venv, 'list')
    assert list(whole.parent.iterdir()) == [whole]


# ---- the steps


def test_steps(monkeypatch, capsys, fake):
    wheel = keep_wheel()
    with monkeypatch.context() as patch:
        patch.setattr(setup_env, 'install_mmcv', raiser(KeyboardInterrupt))
        assert fake.setup() == 130
    assert 'Run the same command again' in capsys.readouterr().out

    fake.commands.clear()
    assert fake.setup() == 0
    libraries, opencv, mmcv, operators, project = fake.commands
    names = re.findall(r' -rrequirements/(\w+)\.txt', libraries)
    assert names == ['build', 'torch', 'stack', 'tests']
    assert opencv.endswith('import cv2')
    assert mmcv.endswith(f' --no-deps --force-reinstall {wheel}')
    assert operators.endswith(f'{setup_env.CHECK_OPS} cpu')
    assert '--no-deps' in project and project.endswith('openmim.txt -e .')

    assert fake.setup() == 0
    assert len(fake.commands) == 5, 'what is complete runs nothing'
    add_dist(fake.venv, 'numpy-9.9')
    assert fake.setup() == 0
    assert len(fake.commands) == 10, 'what was installed by hand is noticed'


@pytest.mark.parametrize('changed', ['requirements/stack.txt', 'setup.py'])
def test_a_change_is_noticed(monkeypatch, tmp_path, changed):
    monkeypatch.setattr(setup_env, 'ROOT', tmp_path)
    shutil.copytree(ROOT / 'requirements', tmp_path / 'requirements')
    before = setup_env.fingerprint(tmp_path, (3, 11, 7), '')
    assert setup_env.fingerprint(tmp_path, (3, 11, 7), '') == before
    assert setup_env.fingerprint(tmp_path, (3, 11, 8), '') != before
    (tmp_path / changed).write_text('# a comment\n')
    assert setup_env.fingerprint(tmp_path, (3, 11, 7), '') != before


def test_force_cuda_is_remembered(monkeypatch, fake):
    keep_wheel()
    monkeypatch.setenv('FORCE_CUDA', '0')
    assert fake.setup() == 0
    monkeypatch.delenv('FORCE_CUDA')
    assert fake.setup() == 0
    assert fake.forces == ['0'], 'a plain run has nothing to do'
    add_dist(fake.venv, 'numpy-9.9')
    assert fake.setup() == 0
    monkeypatch.setenv('FORCE_CUDA', '')
    assert fake.setup() == 0
    assert fake.forces == ['0', '0', '']


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP])
def test_a_second_setup_waits_and_can_be_ended(tmp_path, number):
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip('this signal is ignored here, as by nohup')
    checkout = os.open(ROOT, os.O_RDONLY)
    try:
        setup_env.lock(checkout)
        command = [sys.executable, SCRIPT, '--venv', tmp_path / 'venv']
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert 'waiting' in process.stdout.readline()
                process.send_signal(number)
                assert process.wait(timeout=30) == 130
            finally:
                process.kill()
    finally:
        os.close(checkout)


def test_litert(monkeypatch, fake):
    """In an environment of its own, in the cache folder; pip sees what is missing."""
    venv = setup_env.cache() / 'litert'
    assert setup_env.main(['--litert']) == 0
    libraries, check = fake.commands
    assert libraries.startswith(f'{venv}/bin/python -m pip ')
    assert libraries.endswith(' install --no-compile -rrequirements/litert.txt')
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


def test_unreachable_index_is_recognised(monkeypatch, tmp_path):
    for name in [x for x in os.environ if x.lower().endswith('_proxy')]:
        monkeypatch.delenv(name)
    monkeypatch.setenv('PIP_CONFIG_FILE', os.devnull)
    monkeypatch.setenv('PIP_INDEX_URL', 'http://127.0.0.1:9/simple')
    monkeypatch.delenv('PIP_EXTRA_INDEX_URL', raising=False)
    command = [sys.executable, '-m', 'pip', 'download', '--retries=1', '-d', tmp_path]
    with pytest.raises(setup_env.SetupError, match='index cannot be reached.*proxy'):
        setup_env.run(tmp_path, *command, 'mmghostnetv2-absent')


@pytest.mark.parametrize(
    'output, advice',
    [
        ('[Errno -3] Temporary failure in name resolution', 'proxy'),
        ('ERROR: OSError: [Errno 28] No space left on device', 'PIP_CACHE_DIR'),
        ('OSError: [Errno 122] Disk quota exceeded', 'TMPDIR'),
        ('c++: fatal error: Killed signal terminated program cc1plus', 'MAX_JOBS=1'),
        ('exit code: -9', 'MAX_JOBS=1'),
        ('ImportError: libGL.so.1: cannot open shared object file: No', 'libgl1'),
        ('ImportError: libc10.so: cannot open shared object file: No', None),
        ('ImportError: libcudart.so.12: cannot open shared object file', None),
    ],
)
def test_remedies(output, advice):
    found = setup_env.remedy('first line\n' + output) or 'no advice'
    assert (advice or 'no advice') in found and '\n' not in found


def test_unknown_failure_shows_the_last_lines(tmp_path):
    (tmp_path / 'setup.log').write_text('SSLError of an earlier command\n')
    command = ['sh', '-c', 'seq 1 50; echo "nms.cpp: error: oh"; exit 3']
    with pytest.raises(setup_env.CommandFailed) as caught:
        setup_env.run(tmp_path, *command)
    assert 'nms.cpp: error: oh\n  exit code: 3\n' in str(caught.value)
    assert str(tmp_path / 'setup.log') in str(caught.value)
    assert '\n  20\n' not in str(caught.value)


def test_a_silent_command_shows_its_last_line_and_time(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(setup_env.sys.stdout, 'isatty', lambda: True)
    setup_env.run(tmp_path, 'sh', '-c', 'echo compiling; sleep 1.5')
    assert re.search(r'\r\S+ +1 s  compiling\r', capsys.readouterr().out)


def test_interrupt_ends_the_whole_process_group(tmp_path):
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(2)
    try:
        with pytest.raises(KeyboardInterrupt):
            setup_env.run(tmp_path, 'sh', '-c', 'sleep 60 & echo $!; wait')
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    pid = (tmp_path / 'setup.log').read_text().strip()
    ended = time.monotonic() + 5
    while 'sleeping' in setup_env.read(Path('/proc', pid, 'status')):
        assert time.monotonic() < ended, 'a process outlived the interrupt'
        time.sleep(0.05)


# ---- the wheel of mmcv


def test_cache_key_and_place(monkeypatch, tmp_path):
    folder = setup_env.wheel_folder('cpu', (3, 11, 7))
    assert folder.parent == tmp_path / 'cache'
    machine = f'linux-{setup_env.platform.machine()}'
    assert re.fullmatch(rf'mmcv[\d.]+-cp311-torch[\d.]+-cpu-{machine}', folder.name)
    assert folder == setup_env.wheel_folder('cpu', (3, 11, 8))
    assert folder != setup_env.wheel_folder('cu130-sm90', (3, 11, 7))
    assert folder != setup_env.wheel_folder('cpu', (3, 12, 7))
    monkeypatch.delenv('MMGHOSTNETV2_CACHE')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert setup_env.wheel_folder('cpu', (3, 11)).parent == tmp_path / 'mmghostnetv2'
    monkeypatch.delenv('XDG_CACHE_HOME')
    usual = Path.home() / '.cache' / 'mmghostnetv2'
    assert setup_env.wheel_folder('cpu', (3, 11)).parent == usual


@pytest.mark.parametrize('key, run', [('KEY', ''), ('KEY', None), ('other', '')])
def test_installed_operators_are_kept_while_they_run(monkeypatch, fake, key, run):
    key = key.replace('KEY', keep_wheel().parent.name)
    url = {'direct_url.json': f'{{"url": "file:///elsewhere/{key}/mmcv-2.1.0.whl"}}'}
    add_dist(fake.venv, 'mmcv-2.1.0', **url)
    monkeypatch.setattr(setup_env, 'output_of', lambda *_: run)
    setup_env.install_mmcv(fake.venv, (3, 11), '')
    assert (fake.commands == []) == (key != 'other' and run is not None)


def test_damaged_wheel_is_built_anew(monkeypatch, capsys, venv):
    monkeypatch.setattr(setup_env, 'choose_ops', lambda *_: 'cpu')
    monkeypatch.setattr(setup_env, 'build_wheel', raiser(EOFError('building')))
    wheel = keep_wheel()
    with pytest.raises(EOFError, match='building'):
        setup_env.install_mmcv(venv, (3, 11), '')
    assert 'does not run here' in capsys.readouterr().out
    assert not wheel.exists()


@pytest.mark.parametrize(
    'new, failure, stays',
    [
        (False, KeyboardInterrupt('by the user'), True),
        (False, setup_env.SetupError('the disk is full'), True),
        (True, setup_env.CommandFailed('undefined symbol'), False),
    ],
)
def test_wheel_is_blamed_for_nothing_else(monkeypatch, fake, new, failure, stays):
    wheel = keep_wheel()
    if new:
        wheel.unlink()
    monkeypatch.setattr(setup_env, 'build_wheel', lambda *_: keep_wheel())
    monkeypatch.setattr(setup_env, 'run', raiser(failure))
    with pytest.raises((KeyboardInterrupt, setup_env.SetupError), match=str(failure)):
        setup_env.install_mmcv(fake.venv, (3, 11), '')
    assert wheel.exists() == stays


@pytest.mark.parametrize('failure', [KeyboardInterrupt, setup_env.CommandFailed, None])
@pytest.mark.parametrize(
    'ops, seen',
    [
        # a build for the CPU must not see a GPU: mmcv would compile for it
        ('cpu', {'FORCE_CUDA': '0', 'CUDA_VISIBLE_DEVICES': ''}),
        ('cu130', {'FORCE_CUDA': '1', 'CUDA_HOME': '/cuda'}),
    ],
)
def test_only_a_finished_build_is_kept(
    monkeypatch, capsys, tmp_path, failure, ops, seen
):
    def build(venv, *args, **env):
        assert {name: env[name] for name in env if 'CUDA' in name} == seen
        Path(args[args.index('-w') + 1], 'mmcv-2.1.0-any.whl').touch()
        if failure:
            raise failure

    monkeypatch.setattr(setup_env, 'pip', build)
    monkeypatch.setattr(setup_env, 'check_compiler', lambda _: None)
    monkeypatch.setattr(setup_env, 'find_cuda', lambda: ('/cuda', '13'))
    with pytest.raises(failure) if failure else contextlib.nullcontext():
        setup_env.build_wheel(tmp_path, tmp_path / 'key', ops)
    assert len(list((tmp_path / 'key').iterdir())) == (0 if failure else 1)
    assert ('FORCE_CUDA=0' in capsys.readouterr().out) == (ops != 'cpu')


@pytest.mark.parametrize('right', [True, False])
def test_right_operators_are_told_from_wrong_ones(right):
    wrong = 'lambda boxes, scores, iou_threshold: (boxes, scores.argsort())'
    patch = '' if right else f'import mmcv.ops\nmmcv.ops.nms = {wrong}\n'
    command = [sys.executable, '-I', '-c', patch + setup_env.CHECK_OPS, 'cpu']
    done = subprocess.run(command, capture_output=True, text=True)
    if "No module named 'mmcv" in done.stderr:
        pytest.skip('needs mmcv with its operators')
    assert (done.returncode == 0) == right, done.stderr
    assert right or 'AssertionError: tensor([0, 2, 1])' in done.stderr


def test_toolkit_without_headers_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv('CUDA_HOME', str(tmp_path))
    for folder in 'bin', 'include':
        (tmp_path / folder).mkdir()
    (tmp_path / 'bin' / 'nvcc').write_text('#!/bin/sh\necho "release 13.0, V13.0.88"')
    (tmp_path / 'bin' / 'nvcc').chmod(0o755)
    assert setup_env.find_cuda() == (None, None)
    (tmp_path / 'include' / 'cusparse.h').touch()
    assert setup_env.find_cuda() == (str(tmp_path), '13')


def test_jobs_by_cores_and_memory(monkeypatch):
    monkeypatch.setattr(setup_env.os, 'sched_getaffinity', lambda _: range(16))
    texts = {'/proc/meminfo': 'MemTotal: 9 kB\nMemAvailable:  25165824 kB\n'}
    monkeypatch.setattr(setup_env, 'read', lambda path: texts.get(str(path), ''))
    assert setup_env.max_jobs() == '12'
    texts['/sys/fs/cgroup/memory.max'] = '8589934592\n'
    assert setup_env.max_jobs() == '4'
    monkeypatch.setenv('MAX_JOBS', '3')
    assert setup_env.max_jobs() == '3'


@pytest.mark.parametrize(
    'torch, toolkit, force, ops, said',
    [
        ('13.0 sm90', ('/cuda', '13'), '', 'cu130-sm90', ''),
        ('13.0 sm90', (None, None), '', 'cpu', 'no complete CUDA toolkit found'),
        ('13.0 sm90', ('/cuda', '12'), '', 'cpu', 'CUDA 12 in /cuda found'),
        ('13.0 sm90', ('/cuda', '13'), '0', 'cpu', ''),
        ('13.0', ('/cuda', '13'), '', 'cpu', ''),
        ('13.0', ('/cuda', '13'), '1', 'cu130', ''),
        ('None', ('/cuda', '13'), '1', 'cpu', ''),
    ],
)
def test_which_operators(monkeypatch, capsys, torch, toolkit, force, ops, said):
    monkeypatch.setattr(setup_env, 'output_of', lambda *_: torch)
    monkeypatch.setattr(setup_env, 'find_cuda', lambda: toolkit)
    assert setup_env.choose_ops(Path('venv'), force) == ops
    output = capsys.readouterr().out
    assert (said in output and 'on a GPU will fail' in output) if said else not output


def test_torch_that_does_not_import(tmp_path):
    with pytest.raises(setup_env.SetupError, match='torch does not import: .*remove'):
        setup_env.choose_ops(tmp_path, '')


# ---- the pins


def pins(litert=False):
    """Return {distribution: version}, names spelled as package indexes compare them."""
    paths = (ROOT / 'requirements').glob('*.txt')
    texts = [x.read_text() for x in paths if (x.stem == 'litert') == litert]
    lines = re.findall(r'(?m)^[^#\n].*', '\n'.join(texts))
    pairs = [re.fullmatch(r'([\w.-]+)={2,3}([\w.]+)', line).groups() for line in lines]
    found = {normalize(name): version for name, version in pairs}
    assert len(found) == len(pairs), 'a name is pinned twice'
    return found


def normalize(name):
    return re.sub(r'[-_.]+', '-', name).lower()


def numbers(version):
    return tuple(map(int, re.findall(r'\d+', version)[:3]))


def test_all_is_pinned_and_no_name_twice():
    assert numbers(pins()['setuptools']) < (81,)  # the last with pkg_resources


def test_litert_reads_what_torch_writes_and_writes_what_litert_runs():
    for name in 'torch', 'ai-edge-litert':
        assert pins(litert=True)[name] == pins()[name]


@pytest.mark.parametrize('library', ['mmdet', 'mmseg', 'mmpretrain'])
def test_pins_meet_what_the_libraries_demand(library):
    found = importlib.util.find_spec(library)
    if found is None:
        pytest.skip(f'needs {library}')
    text = Path(found.origin).read_text()  # importing takes seconds
    for dist in 'mmcv', 'mmengine':
        bounds = rf"(?mi)^{dist}_%s(?:imum_version)? = '(.+)'"
        low, high = (re.search(bounds % x, text)[1] for x in ('min', 'max'))
        assert numbers(low) <= numbers(pins()[dist]) < numbers(high)


def test_torch_and_torchvision_are_one_pair():
    text = (ROOT / 'requirements' / 'torch.txt').read_text()
    assert re.findall(r'(?m)^(\w+)===\d', text) == ['torch', 'torchvision']
    try:
        demanded = ' '.join(importlib.metadata.requires('torchvision'))
    except importlib.metadata.PackageNotFoundError:
        pytest.skip('needs torchvision')
    assert re.search(r'\btorch ?\(?==([\d.]+)', demanded)[1] == pins()['torch']


def test_running_environment_has_the_pinned_versions():
    if Path(sys.prefix).resolve() != (ROOT / '.venv').resolve():
        pytest.skip("not run in the checkout's own environment")
    dists = {}
    for dist in importlib.metadata.distributions():
        # the first counts: setuptools appends copies of its own to the path
        dists.setdefault(normalize(dist.metadata['Name']), dist.version)
    assert pins() == {name: dists.get(name) for name in pins()}
