"""Pre-train, fine-tune, test and draw one task on real handwritten digits.

Example:
    python tools/quickstart.py --task det

It prints each public command before it runs it, so that you can repeat any of them by
hand in the root folder of the checkout. All that a command prints goes to the file
work_dirs/quickstart.log; on the screen are the losses and the metrics. If the run is
interrupted, the same command goes on where it stopped.

With --short, the trainings see a few pictures only, and the whole run takes two or
three minutes, under work_dirs/short. It shows that every step works. The numbers of its
table mean nothing, and are not compared with what the full run reaches.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

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
        metrics={'accuracy/top1': ('top-1, %', 93.0)},
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
            'coco/bbox_mAP_50': ('AP50', 0.94),
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
            'mIoU': ('mIoU, %', 70.0),
            'mAcc': ('mAcc, %', None),
            'aAcc': ('aAcc, %', None),
        },
        next_config='configs/deeplabv3_ghostnetv2_ade20k.py',
        next_data='ADE20K under data/ade/ADEChallengeData2016',
    ),
}

LAST_LINES = 20  # of a failed command's output on the screen
SCREEN_SECONDS = 5  # time between two losses on the screen
# A line of mmengine's log, such as
# 11/28 04:44:47 - mmengine - INFO - Epoch(train) [1][ 9/27]  lr: 9e-05  loss: 2.3
STEP = re.compile(r' - INFO - (?:Epoch|Iter)\((\w+)\) +((?:\[[^]]*\])+) +(.*)')


def summarize(lines: Iterable[str]) -> Iterator[str]:
    """Yield the losses now and then, and all metrics, from the lines of a log."""
    last = 0.0
    for line in lines:
        match = STEP.search(line)
        if match is None:
            continue
        mode, step, text = match.groups()
        values = dict(re.findall(r'(\S+): (\S+)', text))
        if mode == 'train':
            if time.monotonic() - last < SCREEN_SECONDS:
                continue
            last = time.monotonic()
            values = {key: values[key] for key in ('loss', 'eta') if key in values}
        values.pop('time', None)
        values.pop('data_time', None)
        texts = [f'{key} {value}' for key, value in values.items()]
        yield f'{mode} {step} {", ".join(texts)}'


def copied(lines: Iterable[str], sink: TextIO) -> Iterator[str]:
    """Yield the lines after they are written to a file."""
    for line in lines:
        sink.write(line)
        yield line


def run(log: Path, title: str, *command: str) -> None:
    """Print and run one command, whose output goes to the end of a log.

    Raises:
        RuntimeError: The command failed; the end of its output is printed.
    """
    print(f'\n=== {title}\n$ {shlex.join(command)}', flush=True)
    start = time.monotonic()
    # The programs of this environment come first, even if it is not activated.
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ.get("PATH", "")}'
    env = {**os.environ, 'PATH': path}
    # Importing mmghostnetv2 has provided these operators where mmcv lacks them.
    from mmcv.ops import get_compiling_cuda_version

    if get_compiling_cuda_version() == 'not available':
        env['CUDA_VISIBLE_DEVICES'] = ''  # mmcv's operators would fail on a GPU
    env['PYTHONUNBUFFERED'] = '1'  # keeps stdout and stderr in order
    pipe = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = dict(text=True, errors='replace')
    with (
        log.open('a') as sink,
        subprocess.Popen(command, cwd=ROOT, env=env, **pipe, **text) as process,
    ):
        print(f'$ {shlex.join(command)}', file=sink, flush=True)
        lines = copied(process.stdout, sink)
        try:
            # The package's own tools print little.
            for line in lines if command[0] == 'python' else summarize(lines):
                print(f'  {line.rstrip()}', flush=True)
        except KeyboardInterrupt:
            # It was interrupted, too, and may still write what it did.
            sink.writelines(process.stdout)
            process.wait()
            print('\nThe same quickstart goes on where it stopped.', flush=True)
            raise
    if process.returncode:
        print(*log.read_text().splitlines()[-LAST_LINES:], sep='\n')
        raise RuntimeError(
            f'{title}: the command above failed with exit status {process.returncode}; '
            f'all of its output is in {log.relative_to(ROOT)}'
        )
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


def train(log: Path, title: str, task: dict, work_dir: str, options: dict) -> None:
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
    run(log, title, *command, *cfg_options(options))


def cfg_options(options: dict) -> list[str]:
    """Write changes of a config as arguments of a command."""
    changes = [f'{key}={value}' for key, value in options.items()]
    return ['--cfg-options', *changes] if changes else []


def read_metrics(work_dir: str) -> dict[str, float]:
    """Read what the newest test in a work directory logged."""
    logs = (ROOT / work_dir).glob('*/*.json')
    newest = max(logs, key=lambda path: path.stat().st_mtime)
    return json.loads(newest.read_text())


def report(task: dict, logged: dict[str, float], short: bool) -> list[str]:
    """Print the metrics, and beside them what a full run must reach.

    Returns the names of those that miss it, none after a short run.
    """
    missed = []
    print(f'\n{"metric":10} {"held-out":>8}' + ('' if short else '  expected'))
    for key, (name, expected) in task['metrics'].items():
        value = logged.get(key, 0.0)  # mmdet logs nothing if it detected nothing
        # COCO's metric is -1 if there are no such objects.
        line = f'{name:10} ' + (f'{value:8.3f}' if value >= 0 else f'{"none":>8}')
        if expected is not None and not short:
            line += f'  >= {expected:.2f}'
            if value < expected:
                missed.append(name)
        print(line)
    if short:
        print('Every step works. So short a training learns nothing.')
    return missed


def main(argv=None) -> None:
    parser = make_parser(__doc__)
    text = 'classification, detection or segmentation (default: det)'
    parser.add_argument('--task', choices=TASKS, default='det', help=text)
    text = 'train on a few pictures only, in two or three minutes, see above'
    parser.add_argument('--short', action='store_true', help=text)
    args = parser.parse_args(argv)
    start = time.monotonic()

    root = Path('work_dirs/short' if args.short else 'work_dirs')
    work_dirs = {}
    for name in ('cls', args.task):
        config = Config.fromfile(ROOT / TASKS[name]['config'])
        work_dirs[name] = str(root / Path(config.filename).stem)
        require_same_config(ROOT / work_dirs[name], config)
    log = ROOT / root / 'quickstart.log'
    data = SHORT_DATA if args.short else DATA
    draw = ['python', 'tools/datasets/make_digits.py', '--out-dir', data]
    if args.short:
        draw += ['--train', '24', '--val', '16', '--cls-copies', '1']
    run(log, 'data', *draw)
    for name, work_dir in work_dirs.items():
        task = TASKS[name]
        options = short_options(task) if args.short else {}
        if args.short and name != 'cls':
            weights = last_checkpoint(work_dirs['cls'])
            options['model.backbone.init_cfg.checkpoint'] = weights
        title = 'training' if name == args.task else 'pre-training'
        train(log, title, task, work_dir, options)

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
    run(log, 'test', *test, *cfg_options(options))
    if args.task == 'det':
        pictures = f'{data}/detection'
        draw = [f'{pictures}/annotations/instances_val.json', f'{pictures}/val']
        draw += [f'{predictions}.bbox.json', '--out', drawn, '--force']
        run(log, 'picture', 'python', 'tools/visualization/contact_sheet.py', *draw)

    missed = report(task, read_metrics(f'{work_dir}/test'), args.short)
    minutes = (time.monotonic() - start) / 60
    print(f'\n{minutes:.1f} minutes. Predictions against truth: {drawn}')
    print(f'Next, with {task["next_data"]}:')
    print('  source .venv/bin/activate')
    print(f'  mim train {library} {task["next_config"]}')
    if missed:
        raise RuntimeError(f'{" and ".join(missed)} below what is expected')


if __name__ == '__main__':
    run_tool(main)
