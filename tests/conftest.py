import functools
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

try:
    from mmcv.ops import get_compiling_cuda_version
except ImportError:  # mmcv-lite: the tests that need operators skip
    pass
else:
    if get_compiling_cuda_version() == 'not available':
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
def coco_mini(tmp_path_factory) -> Path:
    """A few images in COCO's layout: real ones in $COCO_MINI, else drawn digits."""
    if 'COCO_MINI' in os.environ:
        return Path(os.environ['COCO_MINI'])
    classes = pytest.importorskip('mmdet.datasets').CocoDataset.METAINFO['classes']
    out = tmp_path_factory.mktemp('coco') / 'digits'
    tool = ROOT / 'tools' / 'datasets' / 'make_digits.py'
    numbers = ['--train', '8', '--val', '8', '--cls-size', '32', '--cls-copies', '1']
    subprocess.run([sys.executable, tool, '--out', out, *numbers], check=True)
    folder = out / 'detection'
    for split in ('train', 'val'):
        (folder / split).rename(folder / f'{split}2017')
        truth = json.loads((folder / f'annotations/instances_{split}.json').read_text())
        # the digits pass for COCO's first ten classes
        truth['categories'] = [dict(id=i, name=n) for i, n in enumerate(classes, 1)]
        path = folder / f'annotations/instances_{split}2017.json'
        path.write_text(json.dumps(truth))
    return folder


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


@pytest.fixture(scope='session')
def digits(tmp_path_factory) -> Path:
    """A small set by tools/datasets/make_digits.py: 16 + 11 pictures of 96 pixels."""
    pytest.importorskip('sklearn', reason="the digits are scikit-learn's")
    out = tmp_path_factory.mktemp('digits') / 'digits'
    tool = ROOT / 'tools' / 'datasets' / 'make_digits.py'
    numbers = ['--train', '16', '--val', '11', '--size', '96']
    numbers += ['--cls-size', '32', '--cls-copies', '1']
    subprocess.run([sys.executable, tool, '--out', out, *numbers], check=True)
    return out
