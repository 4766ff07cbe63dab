import contextlib
import functools
import http.server
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from importlib import import_module
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
# Workers of pytest -n share the cores. Torch reads OMP_NUM_THREADS when it is imported.
# It is set in the workers alone, because they inherit what is set in their parent.
if 'PYTEST_XDIST_WORKER_COUNT' in os.environ:
    workers = int(os.environ['PYTEST_XDIST_WORKER_COUNT'])
    cores = len(getattr(os, 'sched_getaffinity', lambda _: [0])(0))  # Linux has it
    threads = max(1, cores // workers)
    os.environ.setdefault('OMP_NUM_THREADS', str(threads))

from .forked import run_as_main  # noqa: E402

with contextlib.suppress(ImportError):  # a library is missing: its tests skip
    import_module('mmghostnetv2')  # provides the operators where mmcv lacks them
    if import_module('mmcv.ops').get_compiling_cuda_version() == 'not available':
        # without them a detector cannot be tested on a GPU
        os.environ['CUDA_VISIBLE_DEVICES'] = ''


@pytest.fixture(scope='module', autouse=True)
def own_default_scope():
    """Leave the default scope that a runner sets to the tests of its module."""
    yield
    if 'mmengine' in sys.modules:
        sys.modules['mmengine'].DefaultScope._instance_dict.clear()


@pytest.fixture(scope='session')
def mim():
    """Run one of mim's commands as a user does; return what it printed."""
    pytest.importorskip('mim', reason='needs openmim')

    def run(*args, cwd=ROOT, expect=0) -> str:
        command = [sys.executable, '-m', 'mim', *map(str, args)]
        done = subprocess.run(
            command,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == expect, f'{command}\n{done.stdout[-5000:]}'
        return done.stdout

    return run


@pytest.fixture(scope='session')
def run_script():
    """Run a Python script in a process of its own; return what it printed.

    ``run_script(path, *args, cwd=ROOT, expect=0, **environ)`` does what ``python PATH
    ARGS`` does, in a fraction of the time: to import torch and OpenMMLab's libraries
    takes longer than the work of most tests, and these processes are forked from one
    that has imported them. It has not imported this package.
    """
    forks = multiprocessing.get_context('forkserver')
    libraries = ['pytest', 'mmpretrain.apis', 'mmdet', 'mmseg']
    # Without compiled operators, only this package makes the rest of them importable.
    if getattr(sys.modules.get('mmcv._ext'), '__name__', '') == 'mmcv._ext':
        libraries += ['mmdet.apis', 'mmseg.apis']
    forks.set_forkserver_preload([*libraries, 'tests.forked'])

    def run(path, *args, cwd=ROOT, expect=0, **environ) -> str:
        with tempfile.NamedTemporaryFile('r', errors='replace') as log:
            process = forks.Process(
                target=run_as_main,
                args=(
                    str(path),
                    [*map(str, args)],
                    cwd,
                    os.environ | environ,
                    log.name,
                ),
            )
            process.start()
            process.join(timeout=1200)
            process.kill()
            process.join()
            printed = log.read()
        assert process.exitcode == expect, f'{path} {args}\n{printed[-5000:]}'
        return printed

    return run


@pytest.fixture(scope='session')
def shared_folder(tmp_path_factory):
    """Make a folder once for all workers of a test run (pytest -n).

    ``shared_folder(name, make)`` returns the folder of that name. The first worker that
    asks for it calls ``make(folder)``, and the others wait.
    """
    base = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        base = base.parent

    def get(name, make) -> Path:
        folder = base / 'shared' / name
        made = folder.with_suffix('.made')
        folder.parent.mkdir(exist_ok=True)
        with FileLock(folder.with_suffix('.lock')):
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)  # an attempt that failed
                folder.mkdir()
                make(folder)
                made.touch()
        return folder

    return get


@pytest.fixture(scope='session')
def coco_mini(shared_folder) -> Path:
    """A few images in COCO's layout: real ones in $COCO_MINI, else drawn digits."""
    if 'COCO_MINI' in os.environ:
        return Path(os.environ['COCO_MINI'])
    pytest.importorskip('mmdet', reason='the classes are those of its CocoDataset')
    return shared_folder('coco_mini', draw_coco) / 'detection'


def draw_coco(out) -> None:
    from mmdet.datasets import CocoDataset

    make_digits(out, train=8, val=8)
    classes = CocoDataset.METAINFO['classes']
    folder = out / 'detection'
    for split in ('train', 'val'):
        (folder / split).rename(folder / f'{split}2017')
        truth = json.loads((folder / f'annotations/instances_{split}.json').read_text())
        # the digits pass for COCO's first ten classes
        truth['categories'] = [dict(id=i, name=n) for i, n in enumerate(classes, 1)]
        path = folder / f'annotations/instances_{split}2017.json'
        path.write_text(json.dumps(truth))


def with_counters(weights):
    """Add what the authors' FLOPs counter left in their files."""
    return weights | {
        f'{key}total_{what}': next(iter(weights.values())).new_ones(1)
        for key in ('', 'conv_stem.', 'blocks.3.0.ghost1.', 'classifier.')
        for what in ('ops', 'params')
    }


@pytest.fixture(scope='session')
def released():
    """A state dict as released: the backbone and the classifier, random values."""
    torch = pytest.importorskip('torch', reason='needs torch')
    from mmghostnetv2.models import GhostNetV2

    torch.manual_seed(1)
    weights = GhostNetV2().state_dict()
    weights['conv_head.weight'] = torch.rand(1280, 960, 1, 1)
    weights['conv_head.bias'] = torch.rand(1280)
    weights['classifier.weight'] = torch.rand(1000, 1280)
    weights['classifier.bias'] = torch.rand(1000)
    return with_counters(weights)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Serve the test's folder over HTTP; return the address. Downloads go elsewhere."""
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(tmp_path)
    )
    monkeypatch.setattr(
        http.server.SimpleHTTPRequestHandler, 'log_message', lambda *args: None
    )
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}/'
        server.shutdown()


def make_digits(out, **options) -> None:
    """Write a small set by tools/datasets/make_digits.py, the crops of 32 pixels."""
    tool = ROOT / 'tools' / 'datasets' / 'make_digits.py'
    options = {'cls-size': 32, 'cls-copies': 1, **options}
    numbers = [f'--{name}={number}' for name, number in options.items()]
    subprocess.run([sys.executable, tool, '--out-dir', out, *numbers], check=True)


@pytest.fixture(scope='session')
def digits(shared_folder) -> Path:
    """A small set by tools/datasets/make_digits.py: 16 + 11 pictures of 96 pixels."""
    pytest.importorskip('sklearn', reason="the digits are scikit-learn's")
    make = functools.partial(make_digits, train=16, val=11, size=96)
    return shared_folder('digits', make)
