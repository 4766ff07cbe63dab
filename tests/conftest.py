import json
import os
import subprocess
import sys
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
