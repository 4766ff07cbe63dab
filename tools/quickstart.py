"""Pre-train, fine-tune, test and draw one task on real handwritten digits.

Example:
    python tools/quickstart.py --task det

It prints each public command before it runs it, so that you can repeat any of them by
hand in the root folder of the checkout. If the run is interrupted, the same command
goes on where it stopped.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from mmengine.config import Config

from mmghostnetv2.arguments import make_parser, run_tool
from mmghostnetv2.forks import mim_package
from mmghostnetv2.output import require_same_config

ROOT = Path(__file__).resolve().parents[1]
DATA, SHORT_DATA = 'data/digits', 'data/digits_short'
# The classifier is also the pre-training of the other tasks. `folder` is a task's part
# of the data, `short` what --short changes in the config. `metrics` are those that the
# library's test logs, each with the name to print and the value that `make quickstart`
# must reach on the held-out pictures.
TASKS = {
    'cls': dict(
        library='mmpretrain',
        config='configs/digits/ghostnetv2_100_digits.py',
        folder='classification',
        short={'train_cfg.max_epochs': 1, 'train_dataloader.dataset.indices': 64},
        metrics={'accuracy/top1': ('top-1, %', 97.0)},
        next_config='configs/ghostnetv2_100_in1k.py',
        next_data='ImageNet under data/imagenet',
    ),
    'det': dict(
        library='mmdet',
        config='configs/digits/yolov3_ghostnetv2_320_digits.py',
        folder='detection',
        short={'train_cfg.max_epochs': 1},
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
        folder='segmentation',
        short={'train_cfg.max_iters': 2, 'default_hooks.visualization.interval': 1},
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
    """Print and run one command; raise RuntimeError if it fails."""
    print(f'\n=== {title}\n$ {shlex.join(command)}', flush=True)
    start = time.monotonic()
    # The programs of this environment come first, even if it is not activated.
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ.get("PATH", "")}'
    env = {**os.environ, 'PATH': path}
    # Importing mmghostnetv2 has provided these operators where mmcv lacks them.
    from mmcv.ops import get_compiling_cuda_version

    if get_compiling_cuda_version() == 'not available':
        env['CUDA_VISIBLE_DEVICES'] = ''  # mmcv's operators would fail on a GPU
    process = subprocess.Popen(command, cwd=ROOT, env=env)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.wait()  # it was interrupted, too, and may still write what it did
        print('\nThe same quickstart goes on where it stopped.', flush=True)
        raise
    if code:
        raise RuntimeError(f'{title}: the command above failed with exit status {code}')
    print(f'=== {title}: done in {time.monotonic() - start:.0f} s', flush=True)


def last_checkpoint(work_dir: str) -> str:
    """Return the checkpoint that a training wrote last, '' if there is none."""
    file = ROOT / work_dir / 'last_checkpoint'
    return f'{work_dir}/{Path(file.read_text()).name}' if file.exists() else ''


def short_options(task: dict) -> dict:
    """Return the changes of a task's config for a short run on a few pictures."""
    cfg = Config.fromfile(ROOT / task['config'])
    folder = f'{SHORT_DATA}/{task["folder"]}'
    options = dict(task['short'])
    for split in ('train', 'val', 'test'):
        key = f'{split}_dataloader.dataset'
        if 'dataset' in cfg[f'{split}_dataloader'].dataset:  # inside of a RepeatDataset
            key += '.dataset'
        options[f'{key}.data_root'] = f'{folder}/'
        if 'ann_file' in (cfg.get(f'{split}_evaluator') or {}):
            truth = f'{folder}/annotations/instances_val.json'
            options[f'{split}_evaluator.ann_file'] = truth
    return options


def train(title: str, task: dict, work_dir: str, options: dict) -> None:
    """Train, or go on with a training; do nothing if it is finished."""
    cfg = Config.fromfile(ROOT / task['config'])
    cfg.merge_from_dict(options)
    unit = 'epoch' if 'max_epochs' in cfg.train_cfg else 'iter'
    last = f'{work_dir}/{unit}_{cfg.train_cfg[f"max_{unit}s"]}.pth'
    if last_checkpoint(work_dir) == last:
        print(f'\n=== {title}: already finished in {work_dir}', flush=True)
        return
    command = ['mim', 'train', mim_package(task['library']), task['config']]
    command += ['--work-dir', work_dir, '--resume']
    run(title, *command, *cfg_options(options))


def cfg_options(options: dict) -> list[str]:
    """Write changes of a config as arguments of a command."""
    changes = [f'{key}={value}' for key, value in options.items()]
    return ['--cfg-options', *changes] if changes else []


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
        value = logged.get(key, 0.0)  # mmdet logs nothing if it detected nothing
        bound = '' if expected is None else f'>= {expected:.2f}'
        # COCO's metric is -1 if there are no such objects.
        shown = f'{value:8.3f}' if value >= 0 else f'{"none":>8}'
        print(f'{name:10} {shown}  {bound}')
        if expected is not None and value < expected:
            missed.append(name)
    return missed


def main(argv=None) -> None:
    parser = make_parser(__doc__)
    text = 'classification, detection or segmentation (default: det)'
    parser.add_argument('--task', choices=TASKS, default='det', help=text)
    text = 'train on a few pictures only, to see that every step works'
    parser.add_argument('--short', action='store_true', help=text)
    args = parser.parse_args(argv)
    start = time.monotonic()

    root = Path('work_dirs/short' if args.short else 'work_dirs')
    work_dirs = {}
    for name in ('cls', args.task):
        config = Config.fromfile(ROOT / TASKS[name]['config'])
        work_dirs[name] = str(root / Path(config.filename).stem)
        require_same_config(ROOT / work_dirs[name], config)
    data = SHORT_DATA if args.short else DATA
    draw = ['python', 'tools/datasets/make_digits.py', '--out-dir', data]
    if args.short:
        draw += ['--train', '24', '--val', '16', '--cls-copies', '1']
    run('data', *draw)
    for name, work_dir in work_dirs.items():
        task = TASKS[name]
        options = short_options(task) if args.short else {}
        if args.short and name != 'cls':
            weights = last_checkpoint(work_dirs['cls'])
            options['model.backbone.init_cfg.checkpoint'] = weights
        title = 'training' if name == args.task else 'pre-training'
        train(title, task, work_dir, options)

    # The task, its folder and its options are now those of the last training.
    library = mim_package(task['library'])
    test = ['mim', 'test', library, task['config'], '--checkpoint']
    test += [last_checkpoint(work_dir), '--work-dir', f'{work_dir}/test']
    if args.task == 'det':
        predictions, drawn = f'{work_dir}/predictions', f'{work_dir}/predictions.png'
        options['test_evaluator.outfile_prefix'] = predictions
    else:
        drawn = f'{work_dir}/pictures'
        test += ['--show-dir', drawn]
    run('test', *test, *cfg_options(options))
    if args.task == 'det':
        pictures = f'{data}/detection'
        draw = [f'{pictures}/annotations/instances_val.json', f'{pictures}/val']
        draw += [f'{predictions}.bbox.json', '--out', drawn, '--force']
        run('picture', 'python', 'tools/visualization/contact_sheet.py', *draw)

    missed = report(task, read_metrics(f'{work_dir}/test'))
    minutes = (time.monotonic() - start) / 60
    print(f'\n{minutes:.1f} minutes. Predictions against truth: {drawn}')
    print(f'Next, with {task["next_data"]}:')
    print('  source .venv/bin/activate')
    print(f'  mim train {library} {task["next_config"]}')
    if missed and not args.short:
        raise RuntimeError(f'{" and ".join(missed)} below what is expected')


if __name__ == '__main__':
    run_tool(main)
