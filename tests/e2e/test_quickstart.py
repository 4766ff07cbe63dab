"""The whole main job in its short form; its numbers mean nothing, its steps do."""

import re
import shutil
import subprocess
import sys

import pytest

from ..conftest import ROOT

pytest.importorskip('mmdet', reason='needs mmdet')
pytest.importorskip('mmpretrain', reason='needs mmpretrain')
pytest.importorskip('mim', reason='needs openmim')


def quickstart() -> str:
    done = subprocess.run(
        [sys.executable, ROOT / 'tools' / 'quickstart.py', '--short'],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


def test_quickstart():
    work_dirs = ROOT / 'work_dirs' / 'short'
    shutil.rmtree(work_dirs, ignore_errors=True)
    output = quickstart()
    commands = re.findall(r'^\$ (.*)', output, flags=re.MULTILINE)
    assert [command.split()[:3] for command in commands[1:4]] == [
        ['mim', 'train', 'mmpretrain'],
        ['mim', 'train', 'mmdet'],
        ['mim', 'test', 'mmdet'],
    ]
    detector = work_dirs / 'yolov3_ghostnetv2_320_digits'
    # the pre-trained weights arrived in the detector
    assert re.search(
        r'load backbone from: \S*ghostnetv2_100_digits/epoch_1.pth', output
    )
    assert (detector / 'predictions.png').stat().st_size > 10_000
    assert re.search(r'^AP50 +\d\.\d{3}  >= 0\.95$', output, flags=re.MULTILINE)
    assert 'mim train mmdet configs/yolov3_ghostnetv2_320.py' in output

    # once more: nothing is trained again
    written = (detector / 'epoch_1.pth').stat().st_mtime_ns
    quickstart()
    assert (detector / 'epoch_1.pth').stat().st_mtime_ns == written
