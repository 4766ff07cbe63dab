"""The quickstart's tasks in short form; the numbers mean nothing, the steps do."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from mmghostnetv2.forks import mim_package

from ..conftest import ROOT

pytest.importorskip('mmdet', reason='needs mmdet')
pytest.importorskip('mmpretrain', reason='needs mmpretrain')
pytest.importorskip('mmseg', reason='needs mmsegmentation')
pytest.importorskip('mim', reason='needs openmim')


COMMAND = [ROOT / 'tools' / 'quickstart.py', '--short']


@pytest.fixture(scope='module', autouse=True)
def work_dirs():
    """Begin without what an earlier run left."""
    folder = ROOT / 'work_dirs' / 'short'
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def test_quickstart(work_dirs, run_script, tmp_path):
    """Interrupted after the pre-training's checkpoint, it goes on from there."""
    pretrained = work_dirs / 'ghostnetv2_100_digits' / 'last_checkpoint'
    log = tmp_path / 'log'
    with log.open('w') as sink:
        process = subprocess.Popen(
            [sys.executable, *COMMAND],
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # the jobs that a shell runs in the background ignore it
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while process.poll() is None and not pretrained.exists():
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
        process.wait()
    printed = log.read_text()
    assert process.returncode == 130, printed[-5000:]
    assert printed.endswith('goes on where it stopped.\ninterrupted\n')
    checkpoint = pretrained.parent / 'epoch_1.pth'
    written = checkpoint.stat().st_mtime_ns

    output = run_script(*COMMAND)
    assert checkpoint.stat().st_mtime_ns == written
    assert 'pre-training: already finished in work_dirs/short/ghostnetv2_1' in output
    commands = re.findall(r'^\$ (.*)', output, flags=re.MULTILINE)
    assert [command.split()[:3] for command in commands[1:3]] == [
        ['mim', 'train', mim_package('mmdet')],
        ['mim', 'test', mim_package('mmdet')],
    ]
    detector = work_dirs / 'yolov3_ghostnetv2_320_digits'
    # the pre-trained weights arrived in the detector
    assert re.search(
        r'load backbone from: \S*ghostnetv2_100_digits/epoch_1.pth', output
    )
    assert (detector / 'predictions.png').stat().st_size > 10_000
    assert re.search(r'^AP50 +\d\.\d{3}  >= 0\.95$', output, flags=re.MULTILINE)
    package = mim_package('mmdet')
    assert f'mim train {package} configs/yolov3_ghostnetv2_320.py' in output


@pytest.mark.parametrize(
    ('task', 'library', 'folder', 'metric'),
    [
        ('cls', 'mmpretrain', 'ghostnetv2_100_digits', r'top-1, % +\d+\.\d{3}  >= 97'),
        ('seg', 'mmseg', 'fpn_ghostnetv2_digits', r'mIoU, % +\d+\.\d{3}  >= 80'),
    ],
)
def test_other_tasks(task, library, folder, metric, work_dirs, run_script):
    output = run_script(*COMMAND, '--task', task)
    assert f'$ mim test {mim_package(library)} configs/digits/{folder}.py' in output
    assert re.search(f'^{metric}', output, flags=re.MULTILINE)
    assert (work_dirs / folder / 'last_checkpoint').exists()
    assert len([*(work_dirs / folder / 'pictures').rglob('*.png')]) >= 12


def test_changed_config(work_dirs, run_script):
    """What another version of a config trained is neither resumed nor lost."""
    work_dir = work_dirs / 'yolov3_ghostnetv2_320_digits'
    work_dir.mkdir(parents=True, exist_ok=True)
    used = work_dir / 'quickstart_config.json'
    used.write_text('{"max_epochs": 12}')
    output = run_script(*COMMAND, expect=1)
    assert 'has changed since the training in work_dirs/short/yolov3' in output
