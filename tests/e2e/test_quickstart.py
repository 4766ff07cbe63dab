"""The quickstart's tasks in short form; the numbers mean nothing, the steps do."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from ..conftest import ROOT

pytest.importorskip('mmdet', reason='needs mmdet')
pytest.importorskip('mmpretrain', reason='needs mmpretrain')
pytest.importorskip('mmseg', reason='needs mmsegmentation')
pytest.importorskip('mim', reason='needs openmim')


COMMAND = [sys.executable, ROOT / 'tools' / 'quickstart.py', '--short']


def test_quickstart(tmp_path):
    """Interrupted after the pre-training's checkpoint, it goes on from there."""
    work_dirs = ROOT / 'work_dirs' / 'short'
    shutil.rmtree(work_dirs, ignore_errors=True)
    pretrained = work_dirs / 'ghostnetv2_100_digits' / 'last_checkpoint'
    log = tmp_path / 'log'
    with log.open('w') as sink:
        process = subprocess.Popen(
            COMMAND,
            stdout=sink,
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
    assert printed.endswith('Interrupted. The same command goes on where it stopped.\n')
    checkpoint = pretrained.parent / 'epoch_1.pth'
    written = checkpoint.stat().st_mtime_ns

    done = subprocess.run(
        COMMAND, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    output = done.stdout
    assert done.returncode == 0, output[-5000:]
    assert checkpoint.stat().st_mtime_ns == written
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


@pytest.mark.parametrize(
    ('task', 'library', 'folder', 'metric'),
    [
        ('cls', 'mmpretrain', 'ghostnetv2_100_digits', r'top-1, % +\d+\.\d{3}  >= 97'),
        ('seg', 'mmseg', 'fpn_ghostnetv2_digits', r'mIoU, % +\d+\.\d{3}  >= 80'),
    ],
)
def test_other_tasks(task, library, folder, metric):
    work_dir = ROOT / 'work_dirs' / 'short' / folder
    shutil.rmtree(work_dir / 'pictures', ignore_errors=True)
    done = subprocess.run([*COMMAND, '--task', task], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert f'$ mim train {library} configs/digits/{folder}.py' in done.stdout
    assert f'$ mim test {library} configs/digits/{folder}.py' in done.stdout
    assert re.search(f'^{metric}', done.stdout, flags=re.MULTILINE)
    pictures = [*(work_dir / 'pictures').rglob('*.png')]
    assert len(pictures) >= 12


def test_changed_config():
    """What another version of a config trained is neither resumed nor lost."""
    work_dir = ROOT / 'work_dirs' / 'short' / 'yolov3_ghostnetv2_320_digits'
    work_dir.mkdir(parents=True, exist_ok=True)
    used = work_dir / 'quickstart_config.py'
    used.write_text('max_epochs = 12\n')
    done = subprocess.run(COMMAND, capture_output=True, text=True)
    used.unlink()
    assert done.returncode == 1
    assert 'has changed since the training in work_dirs/short/yolov3' in done.stderr
