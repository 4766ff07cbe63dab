"""tools/setup_env.py: what it decides and says; nothing is downloaded or compiled."""

import ast
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / 'tools' / 'setup_env.py'
spec = importlib.util.spec_from_file_location('setup_env', SCRIPT)
setup_env = importlib.util.module_from_spec(spec)
spec.loader.exec_module(setup_env)

Usage = namedtuple('Usage', 'total used free')


def complete():
    """Return the state of an environment that meets every pin."""
    dists = {k: v or '1.0' for k, v in setup_env.pins(*setup_env.REQUIREMENTS).items()}
    return dict(version=[3, 11, 7], dists=dict(dists, mmghostnetv2='0.1'), torn=[])


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    """Keep the user's cache and the machine's disk, GPU and settings out of it."""
    monkeypatch.setenv('MMGHOSTNETV2_CACHE', str(tmp_path / 'cache'))
    for name in 'CXX', 'MAX_JOBS', 'FORCE_CUDA', 'CUDA_HOME', 'CUDA_PATH':
        monkeypatch.delenv(name, raising=False)
    disk = Usage(100 * 10**9, 0, 100 * 10**9)
    monkeypatch.setattr(setup_env.shutil, 'disk_usage', lambda _: disk)


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


def other_pythons():
    """Yield interpreters of this machine that are not supported, yet run."""
    shims = [shutil.which(f'python3.{minor}') for minor in (6, 7, 8, 9, 10, 13, 14)]
    pyenv = Path(os.environ.get('PYENV_ROOT') or Path.home() / '.pyenv')
    code = 'import sys; print((3, 6) <= sys.version_info[:2] not in %r)'
    for python in [*filter(None, shims), *pyenv.glob('versions/3*/bin/python3')]:
        if setup_env.output_of(python, '-c', code % (setup_env.SUPPORTED,)) == 'True':
            yield str(python)


# ---- which Python


def test_syntax_is_old_enough_to_start_anywhere():
    ast.parse(SCRIPT.read_text(), feature_version=(3, 6))


def test_other_pythons_are_told_which_one_is_needed():
    pythons = list(other_pythons())
    if not pythons:
        pytest.skip('no unsupported Python on this machine')
    for python in pythons:
        done = subprocess.run([python, SCRIPT], capture_output=True, text=True)
        assert done.returncode == 1
        assert re.fullmatch(
            r'error: this is Python 3\.\d+\.\S+; .* 3\.11 or 3\.12\. '
            r'Run: make quickstart PYTHON=/path/to/python3\.11\n',
            done.stderr,
        ), (python, done.stderr)


@pytest.mark.parametrize('version, status', [((3, 10, 9), 1), ((3, 13, 0), 1)])
def test_unsupported_python_is_refused(monkeypatch, capsys, version, status):
    monkeypatch.setattr(setup_env.sys, 'version_info', version)
    assert setup_env.main(['--check']) == status
    assert 'PYTHON=/path/to/python3.11' in capsys.readouterr().err


# ---- what must be there before anything is downloaded


def test_no_compiler(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    assert setup_env.main(['--venv', str(tmp_path / 'venv')]) == 1
    error = capsys.readouterr().err
    assert "no C++ compiler ('c++')" in error
    assert 'apt install g++' in error and 'dnf install gcc-c++' in error
    assert not (tmp_path / 'venv').exists()


def test_a_cached_wheel_needs_no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    folder = setup_env.wheel_folder('cpu', sys.version_info)
    folder.mkdir(parents=True)
    (folder / 'mmcv-2.1.0-any.whl').touch()
    setup_env.check_before(tmp_path / 'venv', None)
    shutil.rmtree(folder)
    with pytest.raises(setup_env.SetupError, match='compiler'):
        setup_env.check_before(tmp_path / 'venv', None)


@pytest.mark.skipif(not shutil.which('c++'), reason='needs a C++ compiler')
def test_no_python_headers(monkeypatch, tmp_path):
    monkeypatch.setattr(setup_env, 'output_of', lambda *_: str(tmp_path))
    with pytest.raises(setup_env.SetupError, match='apt install python3-dev'):
        setup_env.check_compiler(sys.executable)


def test_compiler_that_fails(monkeypatch, tmp_path):
    (tmp_path / 'old++').write_text(
        '#!/bin/sh\necho "unknown option -std=c++17"\nexit 1'
    )
    (tmp_path / 'old++').chmod(0o755)
    monkeypatch.setenv('CXX', f'{tmp_path}/old++ -O1')
    with pytest.raises(setup_env.SetupError, match='unknown option .*apt install g'):
        setup_env.check_compiler(sys.executable)


def test_disk_too_small(monkeypatch, capsys, tmp_path):
    small = Usage(10**10, 10**10 - 3 * 10**9, 3 * 10**9)
    monkeypatch.setattr(setup_env.shutil, 'disk_usage', lambda _: small)
    assert setup_env.main(['--venv', str(tmp_path / 'a' / 'venv')]) == 1
    assert f'{tmp_path} has 3.0 GB free and 10 GB' in capsys.readouterr().err
    assert not (tmp_path / 'a').exists()


# ---- the environment


def test_broken_venv_is_rebuilt(venv):
    state = setup_env.probe(venv)
    assert state['version'] == list(sys.version_info[:3])
    assert list(state['dists'])  # pip, and setuptools before Python 3.12
    assert state['torn'] == []


def test_moved_venv_is_unusable(venv, tmp_path):
    moved = tmp_path / 'moved'
    shutil.copytree(venv, moved, symlinks=True)
    assert setup_env.probe(venv) is not None
    assert setup_env.probe(moved) is None


def test_what_is_no_venv_is_not_deleted(capsys, tmp_path):
    (tmp_path / 'thesis.tex').write_text('years of work')
    folder = setup_env.wheel_folder('cpu', sys.version_info)
    folder.mkdir(parents=True)
    (folder / 'mmcv-2.1.0-any.whl').touch()
    assert setup_env.main(['--venv', str(tmp_path)]) == 1
    assert 'no virtual environment' in capsys.readouterr().err
    assert (tmp_path / 'thesis.tex').read_text() == 'years of work'


def test_distribution_cut_off_while_installing_does_not_count(venv):
    site = next(venv.glob('lib/python3*/site-packages'))
    torn = site / 'torch-2.13.0.dist-info'
    torn.mkdir()
    (torn / 'METADATA').write_text('Name: torch\nVersion: 2.13.0\n')
    state = setup_env.probe(venv)
    assert state['torn'] == [str(torn)]
    assert 'torch 2.13.0' in setup_env.missing(['torch'], state)
    (torn / 'RECORD').touch()
    assert 'torch 2.13.0' not in setup_env.missing(['torch'], setup_env.probe(venv))
    shutil.rmtree(torn)


def test_no_ensurepip(monkeypatch, tmp_path):
    monkeypatch.setattr(setup_env.importlib.util, 'find_spec', lambda _: None)
    with pytest.raises(setup_env.SetupError, match=r'apt install python3\.\d+-venv'):
        setup_env.make_venv(tmp_path / 'venv')


# ---- the steps


class Recorder:
    """Stands for ``run``; after its last command the environment is complete."""

    def __init__(self, monkeypatch, state):
        self.commands, self.state = [], state
        monkeypatch.setattr(setup_env, 'run', self.run)
        monkeypatch.setattr(setup_env, 'probe', lambda _: self.state)

    def run(self, command, log, **env):
        self.commands.append(' '.join(map(str, command)))
        if '-e .' in self.commands[-1]:
            self.state = complete()


def test_done_steps_are_skipped(monkeypatch, capsys, tmp_path):
    state = complete()
    state['dists']['ruff'] = '0.0.1'
    recorder = Recorder(monkeypatch, state)
    monkeypatch.setattr(setup_env, 'output_of', lambda *_: '')
    monkeypatch.setattr(setup_env, 'choose_ops', lambda _: 'cpu')
    assert setup_env.main(['--venv', str(tmp_path)]) == 0
    installs = [re.findall(r' -r\S+| -e \.', x) for x in recorder.commands]
    assert installs == [
        [' -rrequirements/openmim.txt'],
        [' -rrequirements/stack.txt', ' -rrequirements/tests.txt'],
        [' -e .'],
    ]
    assert capsys.readouterr().out.count('there already') == 3

    recorder.commands.clear()
    assert setup_env.main(['--venv', str(tmp_path)]) == 0
    assert recorder.commands == []


def test_check_names_what_is_missing_and_changes_nothing(monkeypatch, capsys, tmp_path):
    state = complete()
    del state['dists']['torchvision']
    recorder = Recorder(monkeypatch, state)
    assert setup_env.main(['--check', '--venv', str(tmp_path)]) == 1
    assert capsys.readouterr().out == 'missing: torchvision 0.28.0\n'
    assert recorder.commands == [] and not list(tmp_path.iterdir())


@pytest.mark.parametrize('changed', ['requirements/stack.txt', 'setup.py', 'python'])
def test_a_change_is_noticed(monkeypatch, tmp_path, changed):
    monkeypatch.setattr(setup_env, 'ROOT', tmp_path)
    shutil.copytree(ROOT / 'requirements', tmp_path / 'requirements')
    (tmp_path / 'setup.py').write_text('')
    state = complete()
    (tmp_path / setup_env.STAMP).write_text(setup_env.fingerprint(state))
    assert setup_env.lacks(tmp_path, state) == []
    if changed == 'python':
        state['version'] = [3, 11, 8]
    else:
        with open(tmp_path / changed, 'a') as file:
            file.write('\n# a comment\n')
    assert len(setup_env.lacks(tmp_path, state)) == 1


# ---- failing and interrupted commands


def test_unreachable_index_is_recognised(monkeypatch, tmp_path):
    for name in [x for x in os.environ if x.lower().endswith('_proxy')]:
        monkeypatch.delenv(name)
    monkeypatch.setenv('PIP_CONFIG_FILE', os.devnull)
    monkeypatch.setenv('PIP_INDEX_URL', 'http://127.0.0.1:9/simple')
    monkeypatch.delenv('PIP_EXTRA_INDEX_URL', raising=False)
    command = [sys.executable, '-m', 'pip', 'download', '--retries=1', '-d', tmp_path]
    with pytest.raises(setup_env.SetupError, match='index cannot be reached.*proxy'):
        setup_env.run([*command, 'mmghostnetv2-absent'], tmp_path / 'log')


@pytest.mark.parametrize(
    'output, remedy',
    [
        (
            "WARNING: Retrying (Retry(total=4)) after connection broken by '"
            'NewConnectionError(<HTTPSConnection>: Failed to establish a connection: '
            "[Errno -3] Temporary failure in name resolution')': /simple/torch/\n"
            'ERROR: No matching distribution found for torch===2.13.0',
            'proxy',
        ),
        (
            'ERROR: Could not install packages due to an OSError: [Errno 28] No space '
            'left on device',
            'Free some space',
        ),
        (
            'c++: fatal error: Killed signal terminated program cc1plus',
            'MAX_JOBS=1',
        ),
    ],
)
def test_remedies(output, remedy):
    message = setup_env.explain(output, 'setup.log')
    assert remedy in message and 'run the same command again' in message
    assert '\n' not in message


def test_unknown_failure_shows_the_last_lines(tmp_path):
    command = ['sh', '-c', 'seq 1 50; echo "nms.cpp: error: oh"; exit 3']
    with pytest.raises(setup_env.SetupError) as caught:
        setup_env.run(command, tmp_path / 'setup.log')
    assert 'nms.cpp: error: oh' in str(caught.value)
    assert str(tmp_path / 'setup.log') in str(caught.value)
    assert '\n  20\n' not in str(caught.value)


@pytest.mark.skipif(not Path('/proc/self').exists(), reason='needs /proc')
def test_interrupt_ends_the_whole_process_group(monkeypatch, tmp_path):
    pid = tmp_path / 'pid'

    def interrupt(process, log):
        while not setup_env.read(pid):
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(setup_env, 'show_alive', interrupt)
    with pytest.raises(KeyboardInterrupt):
        setup_env.run(
            ['sh', '-c', f'sleep 60 & echo $! > {pid}; wait'], tmp_path / 'log'
        )
    status = Path('/proc', pid.read_text().strip(), 'status')
    for _ in range(100):
        if 'sleeping' not in setup_env.read(status):
            return
        time.sleep(0.05)
    pytest.fail('a process outlived the interrupt')


def test_interrupt_has_its_own_exit_status(monkeypatch, capsys):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(setup_env, 'setup', interrupt)
    assert setup_env.main([]) == 130
    assert 'Run the same command again' in capsys.readouterr().out


# ---- the wheel of mmcv


@pytest.mark.parametrize('changed', ['ops', 'python', 'mmcv', 'torch', 'os', 'machine'])
def test_cache_key(monkeypatch, changed):
    before = setup_env.wheel_folder('cpu', (3, 11, 7))
    assert before == setup_env.wheel_folder('cpu', (3, 11, 8))
    ops, version = 'cpu', (3, 11, 7)
    if changed == 'ops':
        ops = 'cu130'
    elif changed == 'python':
        version = (3, 12, 7)
    elif changed == 'os':
        monkeypatch.setattr(setup_env.sys, 'platform', 'darwin')
    elif changed == 'machine':
        monkeypatch.setattr(setup_env.platform, 'machine', lambda: 'riscv64')
    else:
        pins = setup_env.pins
        monkeypatch.setattr(
            setup_env, 'pins', lambda *names: dict(pins(*names), **{changed: '9.9'})
        )
    after = setup_env.wheel_folder(ops, version)
    assert after != before and after.parent == before.parent


def test_cache_lies_outside_the_checkout(monkeypatch, tmp_path):
    version = sys.version_info
    assert setup_env.wheel_folder('cpu', version).parent == tmp_path / 'cache'
    monkeypatch.delenv('MMGHOSTNETV2_CACHE')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
    folder = setup_env.wheel_folder('cpu', version)
    assert folder.parent == tmp_path / 'xdg' / 'mmghostnetv2'
    monkeypatch.delenv('XDG_CACHE_HOME')
    folder = setup_env.wheel_folder('cpu', version)
    assert folder.parent == Path.home() / '.cache' / 'mmghostnetv2'


def make_wheel(folder):
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / 'mmcv-2.1.0-cp311-cp311-linux_x86_64.whl'
    with zipfile.ZipFile(wheel, 'w') as archive:
        archive.writestr('mmcv/_ext.so', b'machine code' * 100)
    return wheel


@pytest.mark.parametrize('damage', ['cut', 'flipped', 'empty'])
def test_damaged_cached_wheel_is_thrown_away(capsys, tmp_path, damage):
    wheel = make_wheel(tmp_path)
    assert setup_env.cached_wheel(tmp_path) == wheel
    data = wheel.read_bytes()
    flipped = data.replace(b'machine code', b'machine c0de', 1)
    wheel.write_bytes({'cut': data[:400], 'flipped': flipped, 'empty': b''}[damage])
    assert setup_env.cached_wheel(tmp_path) is None
    assert not wheel.exists()
    assert 'damaged' in capsys.readouterr().out


def test_cached_wheel_that_does_not_run_is_built_anew(monkeypatch, tmp_path):
    folder = setup_env.wheel_folder('cpu', (3, 11, 7))
    stale, installed, state = make_wheel(folder), [], complete()
    del state['dists']['mmcv']

    def build(venv, where, ops):
        assert not stale.exists() and (where, ops) == (folder, 'cpu')
        return make_wheel(where).rename(folder / 'mmcv-2.1.0-new.whl')

    answers = iter(['', None, '', ''])  # OpenCV, then operators, which fail once
    monkeypatch.setattr(setup_env, 'choose_ops', lambda _: 'cpu')
    monkeypatch.setattr(setup_env, 'output_of', lambda *_: next(answers))
    monkeypatch.setattr(setup_env, 'pip', lambda *_, **__: None)
    monkeypatch.setattr(setup_env, 'pip_install', lambda _, x: installed.append(x.name))
    monkeypatch.setattr(setup_env, 'build_wheel', build)
    setup_env.install_mmcv(tmp_path, state, False)
    assert installed == [stale.name, 'mmcv-2.1.0-new.whl']
    assert setup_env.cached_wheel(folder).name == 'mmcv-2.1.0-new.whl'


def test_missing_system_libraries_are_not_blamed_on_the_wheel(monkeypatch, tmp_path):
    """The cached wheel stays, and nothing is compiled again."""
    state = {'version': [3, 11, 7], 'dists': {}}
    folder = setup_env.wheel_folder('cpu', state['version'])
    folder.mkdir(parents=True)
    wheel = make_wheel(folder)
    monkeypatch.setattr(setup_env, 'choose_ops', lambda _: 'cpu')
    monkeypatch.setattr(setup_env, 'pip', lambda *args, **env: None)
    monkeypatch.setattr(setup_env, 'output_of', lambda *command: None)
    with pytest.raises(setup_env.SetupError, match='OpenCV .*libgl1'):
        setup_env.install_mmcv(tmp_path, state, False)
    assert setup_env.cached_wheel(folder) == wheel


@pytest.mark.parametrize('failure', [KeyboardInterrupt, setup_env.SetupError, None])
def test_only_a_finished_build_gets_into_the_cache(monkeypatch, tmp_path, failure):
    seen = {}

    def build(venv, *args, **env):
        make_wheel(args[args.index('-w') + 1])
        seen.update(env)
        if failure:
            raise failure

    monkeypatch.setattr(setup_env, 'pip', build)
    monkeypatch.setattr(setup_env, 'check_compiler', lambda _: None)
    try:
        wheel = setup_env.build_wheel(tmp_path, tmp_path / 'key', 'cpu')
    except (KeyboardInterrupt, setup_env.SetupError):
        assert list((tmp_path / 'key').iterdir()) == []
    else:
        assert failure is None and list((tmp_path / 'key').iterdir()) == [wheel]
    # a build for the CPU must not see a GPU: mmcv would compile for it
    assert seen['CUDA_VISIBLE_DEVICES'] == '' and seen['FORCE_CUDA'] == '0'


def test_failing_cuda_build_names_the_way_out(monkeypatch, tmp_path):
    def build(*_, **env):
        assert env['FORCE_CUDA'] == '1' and env['CUDA_HOME'] == '/cuda'
        raise setup_env.SetupError('nvcc: error')

    monkeypatch.setattr(setup_env, 'pip', build)
    monkeypatch.setattr(setup_env, 'check_compiler', lambda _: None)
    monkeypatch.setattr(setup_env, 'find_cuda', lambda: ('/cuda', '13'))
    with pytest.raises(setup_env.SetupError, match='nvcc: error\nFORCE_CUDA=0'):
        setup_env.build_wheel(tmp_path, tmp_path / 'key', 'cu130')


@pytest.mark.parametrize('headers', [True, False])
def test_toolkit_without_headers_is_none(monkeypatch, tmp_path, headers):
    for folder in 'bin', 'include':
        (tmp_path / folder).mkdir()
    (tmp_path / 'bin' / 'nvcc').write_text('#!/bin/sh\necho "release 13.0, V13.0.88"')
    (tmp_path / 'bin' / 'nvcc').chmod(0o755)
    if headers:
        (tmp_path / 'include' / 'cusparse.h').touch()
    monkeypatch.setenv('CUDA_HOME', str(tmp_path))
    expected = (str(tmp_path), '13') if headers else (None, None)
    assert setup_env.find_cuda() == expected


def test_jobs_by_cores_and_memory(monkeypatch):
    monkeypatch.setattr(setup_env.os, 'sched_getaffinity', lambda _: range(16), False)
    texts = {'/proc/meminfo': 'MemTotal: 9 kB\nMemAvailable:  25165824 kB\n'}
    monkeypatch.setattr(setup_env, 'read', lambda path: texts.get(str(path), ''))
    assert setup_env.max_jobs() == '12'
    texts['/sys/fs/cgroup/memory.max'] = 'max\n'
    assert setup_env.max_jobs() == '12'
    texts['/sys/fs/cgroup/memory.max'] = str(5 << 30)
    assert setup_env.max_jobs() == '2'
    texts['/proc/meminfo'] = 'MemAvailable: 900000 kB'
    assert setup_env.max_jobs() == '1'
    monkeypatch.setenv('MAX_JOBS', '7')
    assert setup_env.max_jobs() == '7'


@pytest.mark.parametrize(
    'torch, toolkit, force, ops, said',
    [
        ('13.0 True', ('/cuda', '13'), None, 'cu130', ''),
        ('13.0 True', (None, None), None, 'cpu', 'no complete toolkit found'),
        ('13.0 True', ('/cuda', '12'), None, 'cpu', 'CUDA 12 in /cuda found'),
        ('13.0 True', ('/cuda', '13'), '0', 'cpu', ''),
        ('13.0 False', ('/cuda', '13'), None, 'cpu', ''),
        ('13.0 False', ('/cuda', '13'), '1', 'cu130', ''),
        ('None False', ('/cuda', '13'), '1', 'cpu', ''),
    ],
)
def test_which_operators(monkeypatch, capsys, torch, toolkit, force, ops, said):
    monkeypatch.setattr(setup_env, 'output_of', lambda *_: torch)
    monkeypatch.setattr(setup_env, 'find_cuda', lambda: toolkit)
    if force:
        monkeypatch.setenv('FORCE_CUDA', force)
    assert setup_env.choose_ops(Path('venv')) == ops
    output = capsys.readouterr().out
    assert said in output if said else not output


# ---- the pins


def numbers(version):
    return tuple(map(int, re.findall(r'\d+', version)[:3]))


def test_no_name_is_pinned_twice():
    single = [setup_env.pins(name) for name in setup_env.REQUIREMENTS]
    together = setup_env.pins(*setup_env.REQUIREMENTS)
    assert sum(map(len, single)) == len(together)
    assert None not in together.values(), 'everything is pinned'


def test_pins_meet_what_the_libraries_demand():
    pins = setup_env.pins(*setup_env.REQUIREMENTS)
    assert numbers(pins['setuptools']) < (81,)  # the last with pkg_resources
    for library in 'mmdet', 'mmseg', 'mmpretrain':
        # read, not imported: importing takes seconds
        text = Path(importlib.util.find_spec(library).origin).read_text()
        for dist in 'mmcv', 'mmengine':
            bounds = rf"(?mi)^{dist}_%s(?:imum_version)? = '(.+)'"
            low, high = (re.search(bounds % x, text)[1] for x in ('min', 'max'))
            assert numbers(low) <= numbers(pins[dist]) < numbers(high), library


def test_torch_and_torchvision_are_one_pair():
    text = (ROOT / 'requirements' / 'torch.txt').read_text()
    assert re.findall(r'(?m)^(\w+)===\d', text) == ['torch', 'torchvision']
    demanded = ' '.join(importlib.metadata.requires('torchvision'))
    version = re.search(r'\btorch ?\(?==([\d.]+)', demanded)
    assert version[1] == setup_env.pins('torch')['torch']


def test_running_environment_has_the_pinned_versions():
    dists = {}
    for dist in importlib.metadata.distributions():
        # the first counts: setuptools appends copies of its own to the path
        dists.setdefault(dist.metadata['Name'], dist.version)
    assert setup_env.missing(setup_env.REQUIREMENTS, dict(dists=dists)) == []
