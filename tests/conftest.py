import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


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
def coco_mini() -> Path:
    """A few real images of COCO in COCO's layout; not part of the project."""
    default = ROOT.parent / 'shared' / 'data' / 'coco_mini'
    folder = Path(os.environ.get('COCO_MINI', default))
    if not (folder / 'annotations' / 'instances_val2017.json').is_file():
        pytest.skip(f'no images in COCO layout at {folder}; set COCO_MINI to some')
    return folder
