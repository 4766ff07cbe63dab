import importlib.util
import json
from pathlib import Path

import pytest

from ..conftest import ROOT


@pytest.fixture(scope='session')
def openmmlab(run_script):
    """Run a library's train.py or test.py on the arguments that mim would give it.

    ``openmmlab('train', 'mmdet', config, '--work-dir', ...)`` does what ``mim train
    mmdet config --work-dir ...`` does. It saves the time that mim takes, which starts
    the script twice. ``openmmlab('test', 'mmdet', config, checkpoint, ...)`` tests.
    """

    def run(job, package, config, *args, **options) -> str:
        if package == 'mmghostnetv2':
            tools = ROOT / 'tools'
        else:
            package = Path(importlib.util.find_spec(package).origin).parent
            tools = package / '.mim' / 'tools'
        return run_script(tools / f'{job}.py', config, *args, **options)

    return run


def scalars(work_dir) -> list[dict]:
    """Read the lines that every run in a work directory logged, in order."""
    logs = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    return [json.loads(line) for log in logs for line in log.read_text().splitlines()]
