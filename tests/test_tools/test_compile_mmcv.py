"""tools/compile_mmcv.py: what it decides, fetches and keeps; mmcv is not compiled."""

import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from ..conftest import ROOT
from .conftest import load_tool

pytest.importorskip('torch', reason='the operators are compiled for it')
compile_mmcv = load_tool(ROOT / 'tools' / 'compile_mmcv.py')

# The lines of mmcv's setup.py that stop it, with a file to read the version from
SETUP = """
def get_version():
    version_file = 'version.py'
    with open(version_file, encoding='utf-8') as f:
        exec(compile(f.read(), version_file, 'exec'))
    return locals()['__version__']
flags = ['-std=c++17']
"""


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    """Keep the user's cache and the machine's settings out of it."""
    monkeypatch.setenv('MMGHOSTNETV2_CACHE', str(tmp_path / 'cache'))
    for name in 'CXX', 'MAX_JOBS', 'FORCE_CUDA', 'CUDA_HOME', 'CUDA_PATH':
        monkeypatch.delenv(name, raising=False)


# ---- which operators, and where the wheel is kept


def test_cache_key_and_place(monkeypatch, tmp_path):
    folder = compile_mmcv.wheel_folder('mmcv==2.1.0', 'cpu')
    assert folder.parent == tmp_path / 'cache'
    assert re.fullmatch(r'mmcv2\.1\.0-cp3\d+-torch[\d.]+\S*-cpu-linux-\w+', folder.name)
    assert folder != compile_mmcv.wheel_folder('mmcv==2.1.0', 'cu130-sm90')
    monkeypatch.setattr(compile_mmcv.torch, '__version__', '9.9.9')
    assert 'torch9.9.9' in compile_mmcv.wheel_folder('mmcv==2.1.0', 'cpu').name
    monkeypatch.delenv('MMGHOSTNETV2_CACHE')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert compile_mmcv.cache() == tmp_path / 'mmghostnetv2'
    monkeypatch.delenv('XDG_CACHE_HOME')
    assert compile_mmcv.cache() == Path.home() / '.cache' / 'mmghostnetv2'


@pytest.mark.parametrize(
    ('cuda', 'gpus', 'toolkit', 'force', 'ops', 'said'),
    [
        ('13.0', 1, ('/cuda', '13'), '', 'cu130-sm90', ''),
        ('13.0', 1, None, '', 'cpu', 'no complete CUDA toolkit found'),
        ('13.0', 1, ('/cuda', '12'), '', 'cpu', 'CUDA 12 in /cuda found'),
        ('13.0', 1, ('/cuda', '13'), '0', 'cpu', ''),
        ('13.0', 0, ('/cuda', '13'), '', 'cpu', ''),
        ('13.0', 0, ('/cuda', '13'), '1', 'cu130', ''),
        (None, 0, ('/cuda', '13'), '1', 'cpu', ''),
    ],
)
def test_which_operators(monkeypatch, capsys, cuda, gpus, toolkit, force, ops, said):
    torch = compile_mmcv.torch
    monkeypatch.setattr(torch.version, 'cuda', cuda)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: gpus)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda gpu: (9, 0))
    monkeypatch.setattr(compile_mmcv, 'find_cuda', lambda: toolkit)
    monkeypatch.setenv('FORCE_CUDA', force)
    assert compile_mmcv.choose_ops() == ops
    output = capsys.readouterr().out
    assert (said in output and 'for the CPU only' in output) if said else not output


def test_toolkit_without_headers_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv('CUDA_HOME', str(tmp_path))
    for folder in 'bin', 'include':
        (tmp_path / folder).mkdir()
    nvcc = tmp_path / 'bin' / 'nvcc'
    nvcc.write_text('#!/bin/sh\necho "release 13.0, V13.0.88"')
    nvcc.chmod(0o755)
    assert compile_mmcv.find_cuda() is None
    (tmp_path / 'include' / 'cusparse.h').touch()
    assert compile_mmcv.find_cuda() == (str(tmp_path), '13')


# ---- the source


@pytest.mark.parametrize('is_fork', [False, True])
def test_source_belongs_to_the_installed_mmengine(monkeypatch, is_fork):
    monkeypatch.setattr(
        compile_mmcv,
        'distributions',
        lambda name: [name] if is_fork and name == 'onedl-mmengine' else [],
    )
    name = 'onedl-mmcv' if is_fork else 'mmcv'
    assert re.fullmatch(
        rf'{name}==[\d.]+ --hash=sha256:[0-9a-f]{{64}}', compile_mmcv.read_pin()
    )


@pytest.mark.parametrize(
    ('project', 'folder'),
    [('mmcv', ''), ('mmcv', '../mmcv/'), ('onedl-mmcv', '')],
)
def test_source_is_fetched_and_mended(monkeypatch, tmp_path, served, project, folder):
    """From the index that pip is set to; the result runs on Python 3.13, too."""
    page = tmp_path / 'simple' / project
    page.mkdir(parents=True)
    name = project.replace('-', '_') + '-2.1.0'
    with tarfile.open(page / f'{name}.tar.gz', 'w:gz') as archive:
        for file, text in {
            'setup.py': SETUP,
            'version.py': "__version__ = '2'",
        }.items():
            info = tarfile.TarInfo(f'{name}/{file}')
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    link = f'<a href="{folder}{name}.tar.gz#sha256=0">{name}</a>'
    (page / 'index.html').write_text(link)
    monkeypatch.setenv('PIP_INDEX_URL', f'{served}simple/')
    sha256 = hashlib.sha256((page / f'{name}.tar.gz').read_bytes()).hexdigest()
    pin = f'{project}==2.1.0 --hash=sha256:{sha256}'

    source = compile_mmcv.fetch_source(pin, tmp_path)
    monkeypatch.chdir(source)
    space = {}
    exec((source / 'setup.py').read_text(), space)
    assert space['get_version']() == '2' and space['flags'] == ['-std=c++20']

    with pytest.raises(RuntimeError, match='is not the archive that .*mmcv.txt pins'):
        compile_mmcv.fetch_source(pin.replace(sha256[:9], '000000000'), tmp_path)
    with pytest.raises(RuntimeError, match=r'has no \w+-2\.2\.0\.tar\.gz'):
        compile_mmcv.fetch_source(pin.replace('2.1.0', '2.2.0'), tmp_path)


# ---- the compiler


def test_setuptools_too_new(monkeypatch):
    found = {'setuptools': True}
    monkeypatch.setattr(compile_mmcv, 'find_spec', found.get)
    with pytest.raises(RuntimeError, match=r'pip install "setuptools<81" wheel ninja'):
        compile_mmcv.check_compiler()


def test_no_compiler(monkeypatch):
    monkeypatch.setenv('CXX', 'absent++ -O1')
    with pytest.raises(RuntimeError, match=r'absent\+\+.*apt install g\+\+ python3'):
        compile_mmcv.check_compiler()


@pytest.mark.skipif(not shutil.which('c++'), reason='needs a C++ compiler')
def test_no_python_headers(monkeypatch, tmp_path):
    paths = {'include': f'{tmp_path}/python3.11'}
    monkeypatch.setattr(compile_mmcv.sysconfig, 'get_paths', lambda: paths)
    with pytest.raises(RuntimeError, match=r'Python\.h.* python3\.11-dev'):
        compile_mmcv.check_compiler()


@pytest.mark.skipif(not shutil.which('g++'), reason='needs g++')
def test_headers_are_compiled_once_for_each_set_of_flags(tmp_path):
    """What comes out is what the compiler alone makes, with or without ninja's flags.

    The environment may be in a folder whose name has a space.
    """
    python = tmp_path / 'my environment' / 'python'
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    (tmp_path / 'common.hpp').write_text('#pragma once\n#define ANSWER FLAG\n')
    compiler = tmp_path / 'c++'
    compiler.write_text(
        compile_mmcv.COMPILER.format(
            python=python,
            cxx=['g++'],
            folder=str(tmp_path),
            includes='#include "common.hpp"\n',
        )
    )
    compiler.chmod(0o755)
    objects = {}
    for name in 'a', 'b':
        (tmp_path / f'{name}.cpp').write_text(f'int {name}() {{ return ANSWER; }}\n')
        for flag in '1', '2':
            out = tmp_path / f'{name}{flag}.o'
            flags = [f'-DFLAG={flag}', '-I', tmp_path]
            if name == 'b':
                flags += ['-MMD', '-MF', f'{out}.d']
            command = [
                compiler,
                *flags,
                '-c',
                '-c',
                tmp_path / f'{name}.cpp',
                '-o',
                out,
            ]
            subprocess.run(command, check=True)
            objects[name, flag] = out
    assert len(list(tmp_path.glob('*.gch'))) == 2
    main = tmp_path / 'main.cpp'
    main.write_text('int a(); int b(); int main() { return 10 * a() + b(); }\n')
    program = tmp_path / 'program'
    parts = [main, objects['a', '2'], objects['b', '1'], '-o', program]
    subprocess.run([compiler, *parts], check=True)
    assert subprocess.run([program]).returncode == 21


def test_jobs_by_cores_and_memory(monkeypatch):
    monkeypatch.setattr(compile_mmcv.os, 'sched_getaffinity', lambda _: range(16))
    texts = {'/proc/meminfo': 'MemTotal: 9 kB\nMemAvailable:  25165824 kB\n'}
    monkeypatch.setattr(compile_mmcv, 'read', lambda path: texts.get(path, ''))
    assert compile_mmcv.max_jobs() == '12'
    texts['/sys/fs/cgroup/memory.max'] = '8589934592\n'
    assert compile_mmcv.max_jobs() == '4'
    monkeypatch.setenv('MAX_JOBS', '3')
    assert compile_mmcv.max_jobs() == '3'


# ---- the wheel


@pytest.mark.parametrize('fails', [False, True])
@pytest.mark.parametrize(
    ('ops', 'seen'),
    [
        # a build for the CPU must not see a GPU: mmcv would compile for it
        ('cpu', {'FORCE_CUDA': '0', 'CUDA_VISIBLE_DEVICES': ''}),
        ('cu130', {'FORCE_CUDA': '1', 'CUDA_HOME': '/cuda'}),
    ],
)
def test_only_a_finished_build_is_kept(monkeypatch, tmp_path, fails, ops, seen):
    def build(command, env, check):
        assert {name: env[name] for name in seen} == seen
        assert env['MMCV_WITH_OPS'] == '1' and Path(env['CXX']).is_file()
        Path(command[command.index('-w') + 1], 'mmcv-2.1.0-any.whl').touch()
        if fails:
            raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(compile_mmcv, 'check_compiler', lambda: None)
    monkeypatch.setattr(compile_mmcv, 'fetch_source', lambda *_: 'source')
    monkeypatch.setattr(compile_mmcv, 'find_cuda', lambda: ('/cuda', '13'))
    monkeypatch.setattr(compile_mmcv.subprocess, 'run', build)
    folder = tmp_path / 'key'
    if fails:
        with pytest.raises(subprocess.CalledProcessError):
            compile_mmcv.build_wheel('mmcv==2.1.0', folder, ops)
    else:
        wheel = compile_mmcv.build_wheel('mmcv==2.1.0', folder, ops)
        assert wheel == folder / 'mmcv-2.1.0-any.whl'
    assert len(list(folder.iterdir())) == (0 if fails else 1)


@pytest.fixture
def kept(monkeypatch):
    """A wheel in the cache, and an installer that notes what it installs."""
    monkeypatch.setattr(compile_mmcv, 'choose_ops', lambda: 'cpu')
    monkeypatch.setattr(compile_mmcv, 'read_pin', lambda: 'mmcv==2.1.0 --hash=...')
    folder = compile_mmcv.wheel_folder('mmcv==2.1.0', 'cpu')
    folder.mkdir(parents=True)
    wheel = folder / 'mmcv-2.1.0-any.whl'
    wheel.write_text('kept')

    def build(requirement, folder, ops):
        wheel.write_text('new')
        return wheel

    monkeypatch.setattr(compile_mmcv, 'build_wheel', build)
    return wheel


@pytest.mark.parametrize(
    ('running', 'installed'), [({'kept'}, ['kept']), ({'new'}, ['kept', 'new'])]
)
def test_a_kept_wheel_that_does_not_run_is_compiled_again(
    monkeypatch, capsys, kept, running, installed
):
    tried = []

    def install(wheel, ops):
        tried.append(wheel.read_text())
        return tried[-1] in running

    monkeypatch.setattr(compile_mmcv, 'install', install)
    compile_mmcv.main([])
    assert tried == installed and kept.exists()
    assert ('does not run here' in capsys.readouterr().out) == (len(tried) == 2)


def test_what_is_installed_already_stays(monkeypatch, capsys, kept):
    """The installer writes the wheel's path as a URL, without the plus of a torch."""
    monkeypatch.setattr(compile_mmcv.torch, '__version__', '2.14.1+cu130')
    wheel = compile_mmcv.wheel_folder('mmcv==2.1.0', 'cpu') / 'mmcv-2.1.0-any.whl'
    assert '%2B' in wheel.as_uri()
    origin = SimpleNamespace(read_text=lambda _: f'{{"url": "{wheel.as_uri()}"}}')
    monkeypatch.setattr(
        compile_mmcv,
        'distributions',
        lambda name: [origin] if name == 'mmcv' else [],
    )
    monkeypatch.setattr(compile_mmcv, 'output_of', lambda *_: '')
    compile_mmcv.main([])
    assert "mmcv's cpu operators are installed" in capsys.readouterr().out


def test_a_wheel_that_never_runs_is_not_kept(monkeypatch, kept):
    monkeypatch.setattr(compile_mmcv, 'install', lambda *_: False)
    with pytest.raises(RuntimeError, match='its operators do not run.*import mmcv'):
        compile_mmcv.main([])
    assert not kept.exists()


@pytest.mark.parametrize('right', [True, False])
def test_right_operators_are_told_from_wrong_ones(right):
    wrong = 'lambda boxes, scores, iou_threshold: (boxes, scores.argsort())'
    patch = '' if right else f'import mmcv.ops\nmmcv.ops.nms = {wrong}\n'
    command = [sys.executable, '-I', '-c', patch + compile_mmcv.CHECK_OPS, 'cpu']
    done = subprocess.run(command, capture_output=True, text=True)
    if "No module named 'mmcv" in done.stderr:
        pytest.skip('needs mmcv with operators')
    assert (done.returncode == 0) == right, done.stderr
    assert right or 'AssertionError: tensor([0, 2, 1])' in done.stderr
