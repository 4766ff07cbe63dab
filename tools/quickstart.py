"""One task from end to end: pre-train, fine-tune, test and draw.

It runs the public commands on real handwritten digits and prints each before it starts,
so that any of them can be repeated by hand. Run it from the checkout's root. An
interrupted run goes on where it stopped.
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

from mmghostnetv2.output import require_same_config

ROOT = Path(__file__).resolve().parents[1]
PRETRAIN = 'configs/digits/ghostnetv2_100_digits.py'
# For each task: the library, the config to run and the one to go on with, and what the
# library's test logs, with the name to print and what the full run must reach on the
# held-out pictures, `make quickstart` fails below.
TASKS = {
    'cls': dict(
        library='mmpretrain',
        config=PRETRAIN,
        metrics={'accuracy/top1': ('top-1, %', 97.0)},
        next_config='configs/ghostnetv2_100_in1k.py',
        next_data='ImageNet under data/imagenet',
    ),
    'det': dict(
        library='mmdet',
        config='configs/digits/yolov3_ghostnetv2_320_digits.py',
        metrics={
            'coco/bbox_mAP': ('AP', 0.70),
            'coco/bbox_mAP_50': ('AP50', 0.95),
            'coco/bbox_mAP_75': ('AP75', None),
            'coco/bbox_mAP_s': ('AP small', None),
            'coco/bbox_mAP_m': ('AP medium', None),
            'coco/bbox_mAP_l': ('AP large', None),
        },
        next_config='configs/yolov3_ghostnetv2_320.py',
        next_data='COCO 2017 under data/coco',
    ),
    'seg': dict(
        library='mmseg',
        config='configs/digits/fpn_ghostnetv2_digits.py',
        metrics={
            'mIoU': ('mIoU, %', 80.0),
            'mAcc': ('mAcc, %', None),
            'aAcc': ('aAcc, %', None),
        },
        next_config='configs/deeplabv3_ghostnetv2_ade20k.py',
        next_data='ADE20K under data/ade/ADEChallengeData2016',
    ),
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


def last_checkpoint(work_dir: str) -> str:
    """Return the checkpoint that a training in the work directory wrote last."""
    name = (ROOT / work_dir / 'last_checkpoint').read_text()
    return f'{work_dir}/{Path(name).name}'


def read_metrics(work_dir: str) -> dict[str, float]:
    """Read what the newest test in a work directory logged."""
    logs = (ROOT / work_dir).glob('*/*.json')
    newest = max(logs, key=lambda path: path.stat().st_mtime)
    return json.loads(newest.read_text())


def report(task: dict, logged: dict[str, float]) -> list[str]:
    """Print the metrics beside what is expected of them; return those that miss it."""
    missed = []
    print(f'\n{"metric":10} {"held-out":>8}  expected')
    for key, (name, expected) in task['metrics'].items():
        # mmdet logs none where nothing at all was detected
        value = logged.get(key, 0.0)
        bound = '' if expected is None else f'>= {expected:.2f}'
        # COCO's -1 stands for: no such objects
        shown = f'{value:8.3f}' if value >= 0 else f'{"none":>8}'
        print(f'{name:10} {shown}  {bound}')
        if expected is not None and value < expected:
            missed.append(name)
    return missed


def main() -> None:
    """Run the job; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        '--task',
        choices=TASKS,
        default='det',
        help='classification, detection or segmentation (default: det)',
    )
    parser.add_argument(
        '--short',
        action='store_true',
        help='one epoch on a few pictures, to see that every step works',
    )
    args = parser.parse_args()
    task = TASKS[args.task]
    start = time.monotonic()

    work_dirs = 'work_dirs/short' if args.short else 'work_dirs'
    pretrain_dir = f'{work_dirs}/{Path(PRETRAIN).stem}'
    work_dir = f'{work_dirs}/{Path(task["config"]).stem}'
    pretrain = ['--work-dir', pretrain_dir, '--resume']
    train = ['--work-dir', work_dir, '--resume']
    if args.short:
        one_epoch = ['--cfg-options', 'train_cfg.max_epochs=1']
        pretrain += [*one_epoch, 'train_dataloader.dataset.indices=64']
        weights = [f'model.backbone.init_cfg.checkpoint={pretrain_dir}/epoch_1.pth']
        train += {
            'cls': pretrain[3:],
            'det': [
                *one_epoch,
                'train_dataloader.dataset.dataset.indices=24',
                *weights,
            ],
            'seg': ['--cfg-options', 'train_cfg.max_iters=2', *weights],
        }[args.task]

    for config, folder in ((PRETRAIN, pretrain_dir), (task['config'], work_dir)):
        require_same_config(ROOT / folder, Config.fromfile(ROOT / config))
    mim = 'mim', 'train', task['library'], task['config']
    run('data', 'python', 'tools/datasets/make_digits.py')
    if args.task != 'cls':
        run('pre-training', 'mim', 'train', 'mmpretrain', PRETRAIN, *pretrain)
    run('training', *mim, *train)
    test = ['--checkpoint', last_checkpoint(work_dir), '--work-dir', f'{work_dir}/test']
    if args.task == 'det':
        predictions, drawn = f'{work_dir}/predictions', f'{work_dir}/predictions.png'
        test += ['--cfg-options', f'test_evaluator.outfile_prefix={predictions}']
    else:
        drawn = f'{work_dir}/pictures'
        test += ['--show-dir', drawn]
    run('test', 'mim', 'test', *mim[2:], *test)
    if args.task == 'det':
        data = 'data/digits/detection'
        draw = [f'{data}/annotations/instances_val.json', f'{data}/val']
        draw += [f'{predictions}.bbox.json', '--out', drawn, '--force']
        run('picture', 'python', 'tools/visualization/contact_sheet.py', *draw)

    missed = report(task, read_metrics(f'{work_dir}/test'))
    minutes = (time.monotonic() - start) / 60
    print(f'\n{minutes:.1f} minutes. Predictions against truth: {drawn}')
    library, config = task['library'], task['next_config']
    print(f'Next, with {task["next_data"]}:')
    print(f'  source .venv/bin/activate\n  mim train {library} {config}')
    if missed and not args.short:
        raise SystemExit(f'{" and ".join(missed)} below what is expected')


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        print('\nInterrupted. The same command goes on where it stopped.')
        sys.exit(130)
