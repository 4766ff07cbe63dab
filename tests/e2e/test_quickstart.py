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
from ..test_tools.conftest import load_tool

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
    log = (work_dirs / 'quickstart.log').read_text()
    assert re.search(r'load backbone from: \S*ghostnetv2_100_digits/epoch_1.pth', log)
    assert len(log.splitlines()) > 500
    assert (detector / 'predictions.png').stat().st_size > 10_000
    # on the screen are the steps, losses and metrics, and no bounds of the full run
    assert len(output.splitlines()) < 50
    assert 'Warning' not in output
    assert re.search(r'^  train \[1\]\[\d/\d\] loss \d+\.\d+', output, re.MULTILINE)
    assert re.search(r'^AP50 +\d\.\d{3}$', output, flags=re.MULTILINE)
    assert '>=' not in output
    package = mim_package('mmdet')
    assert f'mim train {package} configs/yolov3_ghostnetv2_320.py' in output


def test_report_of_a_full_run(capsys):
    tool = load_tool(ROOT / 'tools' / 'quickstart.py')
    logged = {'coco/bbox_mAP': 0.71, 'coco/bbox_mAP_50': 0.93, 'coco/bbox_mAP_s': -1}
    assert tool.report(tool.TASKS['det'], logged, short=False) == ['AP50']
    printed = capsys.readouterr().out
    assert 'AP            0.710  >= 0.70\n' in printed
    assert 'AP50          0.930  >= 0.94\n' in printed
    assert 'AP small       none\n' in printed


def test_summary_of_a_log(monkeypatch):
    """Losses now and then, metrics always, nothing else."""
    tool = load_tool(ROOT / 'tools' / 'quickstart.py')
    times = iter([100, 100, 102, 107, 107])
    monkeypatch.setattr(tool.time, 'monotonic', lambda: next(times))
    start = '11/28 04:44:47 - mmengine - INFO - '
    steps = [
        'Iter(train) [ 10/200]  lr: 1e-3  eta: 0:01:00  time: 0.8  loss: 2.5  acc: 1',
        'Iter(train) [ 20/200]  lr: 1e-3  eta: 0:00:50  time: 0.8  loss: 2.4  acc: 1',
        'Iter(train) [ 30/200]  lr: 1e-3  eta: 0:00:40  time: 0.8  loss: 2.3  acc: 1',
        'Saving checkpoint at 30 iterations',
        'Iter(val) [12/12]    mIoU: 80.5  data_time: 0.1  time: 1.9',
    ]
    assert [*tool.summarize(start + step for step in steps)] == [
        'train [ 10/200] loss 2.5, eta 0:01:00',
        'train [ 30/200] loss 2.3, eta 0:00:40',
        'val [12/12] mIoU 80.5',
    ]


@pytest.mark.parametrize(
    ('task', 'library', 'folder', 'metric'),
    [
        ('cls', 'mmpretrain', 'ghostnetv2_100_digits', r'top-1, % +\d+\.\d{3}$'),
        ('seg', 'mmseg', 'fpn_ghostnetv2_digits', r'mIoU, % +\d+\.\d{3}$'),
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
