"""The main job from end to end: pre-train, fine-tune, test and draw YOLOv3-GhostNetV2.

It runs the public commands on a detection set of real handwritten digits and prints
each before it starts, so that any of them can be repeated by hand. Run it from the
checkout's root. An interrupted run goes on where it stopped.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from mmcv.ops import get_compiling_cuda_version
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[1]
PRETRAIN = 'configs/digits/ghostnetv2_100_digits.py'
DETECTOR = 'configs/digits/yolov3_ghostnetv2_320_digits.py'
# what the full run must reach on the held-out pictures, `make quickstart` fails below
EXPECTED = {'bbox_mAP': 0.70, 'bbox_mAP_50': 0.95}
NEXT = """\
  source .venv/bin/activate
  mim train mmdet configs/yolov3_ghostnetv2_320.py
  mim test mmdet configs/yolov3_ghostnetv2_320.py \\
    --checkpoint work_dirs/yolov3_ghostnetv2_320/epoch_30.pth"""
METRICS = {
    'bbox_mAP': 'AP',
    'bbox_mAP_50': 'AP50',
    'bbox_mAP_75': 'AP75',
    'bbox_mAP_s': 'AP small',
    'bbox_mAP_m': 'AP medium',
    'bbox_mAP_l': 'AP large',
}


def run(title: str, *command: str) -> None:
    """Print and run one command; stop the whole job when it fails."""
    print(f'\n=== {title}\n$ {shlex.join(command)}', flush=True)
    start = time.monotonic()
    # the tools of this interpreter's environment, whether or not it is activated
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ.get("PATH", "")}'
    env = {**os.environ, 'PATH': path}
    if get_compiling_cuda_version() == 'not available':
        env['CUDA_VISIBLE_DEVICES'] = ''  # mmcv's operators would fail on a GPU
    code = subprocess.call(command, cwd=ROOT, env=env)
    if code:
        raise SystemExit(f'\n{title}: the command above failed with exit code {code}')
    print(f'=== {title}: done in {time.monotonic() - start:.0f} s', flush=True)


def keep_apart(config: str, work_dir: str) -> None:
    """Stop where a work directory holds a training by another version of the config."""
    text = Config.fromfile(ROOT / config).pretty_text
    used = ROOT / work_dir / 'quickstart_config.py'
    if used.exists() and used.read_text() != text:
        raise SystemExit(
            f'{config} has changed since the training in {work_dir}: '
            'remove that folder, or move it away, to train anew'
        )
    used.parent.mkdir(parents=True, exist_ok=True)
    used.write_text(text)


def read_metrics(work_dir: Path) -> dict[str, float]:
    """Read what the newest test in a work directory logged."""
    logs = (ROOT / work_dir).glob('*/*.json')
    newest = max(logs, key=lambda path: path.stat().st_mtime)
    return {
        k.removeprefix('coco/'): v for k, v in json.loads(newest.read_text()).items()
    }


def print_table(metrics: dict[str, float]) -> None:
    """Print the metrics beside what is expected of them."""
    print(f'\n{"metric":10} {"held-out":>8}  expected')
    for key, name in METRICS.items():
        expected = f'>= {EXPECTED[key]:.2f}' if key in EXPECTED else ''
        # COCO's -1 stands for: no such objects
        value = f'{metrics[key]:8.3f}' if metrics[key] >= 0 else f'{"none":>8}'
        print(f'{name:10} {value}  {expected}')


def main() -> None:
    """Run the job; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        '--short',
        action='store_true',
        help='one epoch on a few pictures, to see that every step works',
    )
    short = parser.parse_args().short
    start = time.monotonic()

    work_dirs = 'work_dirs/short' if short else 'work_dirs'
    pretrain_dir = f'{work_dirs}/{Path(PRETRAIN).stem}'
    detector_dir = f'{work_dirs}/{Path(DETECTOR).stem}'
    epochs = 1 if short else Config.fromfile(ROOT / DETECTOR).max_epochs
    checkpoint = f'{detector_dir}/epoch_{epochs}.pth'
    predictions = f'{detector_dir}/predictions'
    data = 'data/digits/detection'

    pretrain = ['--work-dir', pretrain_dir, '--resume']
    train = ['--work-dir', detector_dir, '--resume']
    test = ['--checkpoint', checkpoint, '--work-dir', f'{detector_dir}/test']
    test += ['--cfg-options', f'test_evaluator.outfile_prefix={predictions}']
    draw = [f'{data}/annotations/instances_val.json', f'{data}/val']
    draw += [f'{predictions}.bbox.json', '--out', f'{detector_dir}/predictions.png']
    if short:
        one_epoch = ['--cfg-options', 'train_cfg.max_epochs=1']
        pretrain += [*one_epoch, 'train_dataloader.dataset.indices=64']
        train += [*one_epoch, 'train_dataloader.dataset.dataset.indices=24']
        train += [f'model.backbone.init_cfg.checkpoint={pretrain_dir}/epoch_1.pth']

    keep_apart(PRETRAIN, pretrain_dir)
    keep_apart(DETECTOR, detector_dir)
    run('1/5 data', 'python', 'tools/datasets/make_digits.py')
    run('2/5 pre-training', 'mim', 'train', 'mmpretrain', PRETRAIN, *pretrain)
    run('3/5 training', 'mim', 'train', 'mmdet', DETECTOR, *train)
    run('4/5 test', 'mim', 'test', 'mmdet', DETECTOR, *test)
    run('5/5 picture', 'python', 'tools/visualization/contact_sheet.py', *draw)

    # mmdet logs no metrics where nothing at all was detected
    metrics = dict.fromkeys(METRICS, 0.0) | read_metrics(Path(detector_dir, 'test'))
    print_table(metrics)
    minutes = (time.monotonic() - start) / 60
    print(f'\n{minutes:.1f} minutes. Predictions against truth: {draw[-1]}')
    print(f'Next, with COCO 2017 under data/coco:\n{NEXT}')
    missed = [METRICS[key] for key in EXPECTED if metrics[key] < EXPECTED[key]]
    if missed and not short:
        raise SystemExit(f'{" and ".join(missed)} below what is expected')


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        print('\nInterrupted. The same command goes on where it stopped.')
        sys.exit(130)
