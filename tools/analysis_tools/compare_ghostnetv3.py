r"""Compare trainings of GhostNetV2 and GhostNetV3, and of a student with a teacher.

Example:
    python tools/analysis_tools/compare_ghostnetv3.py --task cls --epochs 6 \
        --data data/digits_few/classification

All learn handwritten digits from random weights, by the recipes of configs/digits.
tools/datasets/make_digits.py draws the pictures of the tasks cls and det, which are
resized to 32 and 160 pixels to save time, and make_digit_pairs.py those of pairs, where
the class is the relation of two distant digits. GhostNetV2 is trained for as many
epochs as GhostNetV3, and for as many as take the same CPU time. With cls, its network
of width 0.35 is also trained without a teacher and with GhostNetV2 of the same seed as
its teacher. The result is top-1 or the AP of boxes on held-out pictures after the last
epoch, in percent.

The tool writes table.md and results.json into work_dirs/compare_ghostnetv3/TASK. It
keeps finished seeds, so that the same command goes on after an interruption.

Run it in the root of the checkout.
"""

import json
import tempfile
import time
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.runner import Runner

from mmghostnetv2.apis import read_config
from mmghostnetv2.arguments import at_least, make_parser, run_tool
from mmghostnetv2.models import GhostNetV2
from mmghostnetv2.output import markdown_table, progress, written

V2, V3 = 'GhostNetV2 1.0x', 'GhostNetV3 1.0x'
LONGER = 'GhostNetV2 1.0x, as long as V3'
STUDENT, TAUGHT = 'GhostNetV2 0.35x', 'GhostNetV2 0.35x with a teacher'
DIFFERENCES = [(V3, V2), (V3, LONGER), (TAUGHT, STUDENT)]
OUT = Path('work_dirs/compare_ghostnetv3')


class Task(NamedTuple):
    """What is trained, and how it is measured."""

    config: str
    data: str  # default folder of pictures
    title: str  # of the metric
    metric: str  # its key in the log
    percent: int = 1  # the factor that makes it percent
    size: int = 0  # of the images in pixels; with 0, that of the pictures
    batch: int = 0  # number of images in a step; with 0, that of the recipe


TOP1 = 'top-1, %', 'accuracy/top1'
AP = 'AP, %', 'coco/bbox_mAP', 100
DIGITS = 'data/digits'
TASKS = {
    'cls': Task(
        'ghostnetv2_100_digits', f'{DIGITS}/classification', *TOP1, size=32, batch=32
    ),
    'det': Task('yolov3_ghostnetv2_320_digits', f'{DIGITS}/detection', *AP, size=160),
    'pairs': Task('ghostnetv2_100_pairs', 'data/digit_pairs', *TOP1),
}


def make_config(task, seed, epochs, data):
    """Return a task's config, changed to train here in one process."""
    config = read_config(task.config)
    options = {'randomness.seed': seed, 'log_level': 'ERROR'}
    options |= {'model.backbone.init_cfg': None, 'model.backbone.frozen_stages': -1}
    options['train_cfg.max_epochs'] = options['param_scheduler.1.T_max'] = epochs
    options['train_cfg.val_interval'] = epochs  # only the last one counts
    config.merge_from_dict(options)
    config.visualizer = dict(type='Visualizer', vis_backends=[])
    for part in 'train', 'val', 'test':
        loader = config[f'{part}_dataloader']
        loader.update(num_workers=0, persistent_workers=False)
        dataset = loader.dataset
        while 'dataset' in dataset:  # inside of a RepeatDataset
            dataset = dataset.dataset
        dataset.data_root = data
        for step in dataset.pipeline if task.size else ():
            for key in {'scale', 'crop_size'} & set(step):
                pair = isinstance(step[key], (tuple, list))
                step[key] = (task.size, task.size) if pair else task.size
    if task.batch:
        config.train_dataloader.batch_size = task.batch
    for part in 'val', 'test':
        evaluator = config[f'{part}_evaluator']
        if 'ann_file' in evaluator:
            evaluator.ann_file = f'{data}/annotations/instances_val.json'
    return config


def train(task, config, folder):
    """Train; return the metric in percent, the CPU seconds and the last checkpoint."""
    config.work_dir = str(folder)
    config.experiment_name = folder.name
    runner = Runner.from_cfg(config)
    start = time.process_time()  # other programs hardly change it
    runner.train()
    seconds = time.process_time() - start
    try:
        value = runner.message_hub.get_scalar(f'val/{task.metric}').current()
    except KeyError:  # mmdet logs nothing if it detected nothing
        value = 0
    checkpoint = folder / f'epoch_{config.train_cfg.max_epochs}.pth'
    return task.percent * value, seconds, str(checkpoint)


def run_seed(task, seed, epochs, data):
    """Return {network: metric, seconds, epochs} of one seed."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:

        def run(name, config):
            path = Path(folder, f'{len(results)}_{seed}')
            value, seconds, checkpoint = train(task, config, path)
            results[name] = value, seconds, config.train_cfg.max_epochs
            return checkpoint

        config = make_config(task, seed, epochs, data)
        teacher = deepcopy(config.model)
        weights = run(V2, config)
        teacher.init_cfg = dict(type='Pretrained', checkpoint=weights)
        teacher.data_preprocessor = config.data_preprocessor

        config = make_config(task, seed, epochs, data)
        config.model.backbone.type = 'GhostNetV3'
        run(V3, config)
        longer = round(epochs * results[V3][1] / results[V2][1])
        run(LONGER, make_config(task, seed, max(longer, epochs), data))

        for name in (STUDENT, TAUGHT) if task == TASKS['cls'] else ():
            config = make_config(task, seed, epochs, data)
            config.model.backbone.widen_factor = 0.35
            config.model.head.in_channels = GhostNetV2(0.35).out_channels[0]
            if name == TAUGHT:
                config.model.update(type='DistilledClassifier', teacher=teacher)
            run(name, config)
    return results


def tabulate(results, title):
    """Return the lines of the table; ``results`` is {seed: {network: ...}}."""
    from scipy import stats

    values = {
        name: np.array([found[name] for found in results.values()])
        for name in next(iter(results.values()))
    }
    rows = [['network', 'epochs', 'CPU seconds', title, 'standard deviation']]
    for name, array in values.items():
        value, seconds, epochs = array.mean(0)
        deviation = array[:, 0].std(ddof=1)
        numbers = f'{epochs:.1f}', f'{seconds:.0f}', f'{value:.2f}'
        rows.append([name, *numbers, f'{deviation:.2f}'])
    lines = [*markdown_table(rows, numbers=4), '']
    rows = [['difference', 'mean', '95 % interval']]
    for name, other in DIFFERENCES:
        if name not in values:
            continue
        difference = values[name][:, 0] - values[other][:, 0]
        error = stats.sem(difference)
        low, high = stats.t.interval(0.95, len(results) - 1, difference.mean(), error)
        interval = f'{low:+.2f} to {high:+.2f}'
        rows.append([f'{name} - {other}', f'{difference.mean():+.2f}', interval])
    return [*lines, *markdown_table(rows, numbers=2)]


def main(argv=None):
    parser = make_parser(__doc__)
    add = parser.add_argument
    text = 'classification, detection or pairs of digits (default: cls)'
    add('--task', choices=TASKS, default='cls', help=text)
    text = 'two or more (default: 0 to 4)'
    add('--seeds', type=at_least(0), nargs='+', default=range(5), help=text)
    text = 'epochs of GhostNetV3 (default: 3)'
    add('--epochs', type=at_least(1), default=3, metavar='N', help=text)
    text = "pictures (default: where the task's tool draws them)"
    add('--data', metavar='DIR', help=text)
    args = parser.parse_args(argv)
    task = TASKS[args.task]
    data = args.data or task.data
    if len(set(args.seeds)) < max(2, len(args.seeds)):
        parser.error('argument --seeds: needs two or more different ones')
    if not Path(data, 'train').is_dir():
        parser.error(f'argument --data: {data} has no folder train')

    out = OUT / args.task
    path = out / 'results.json'
    setting = dict(epochs=args.epochs, size=task.size, data=data)
    saved = json.loads(path.read_text()) if path.exists() else {**setting, 'seeds': {}}
    if {key: saved[key] for key in setting} != setting:
        raise RuntimeError(f'{path} is of other options: remove it to start again')
    for seed in progress(list(args.seeds), 'seeds'):
        if str(seed) not in saved['seeds']:
            saved['seeds'][str(seed)] = run_seed(task, seed, args.epochs, data)
            with written(path) as file:
                file.write_text(json.dumps(saved, indent=2) + '\n')
    table = tabulate(
        {seed: saved['seeds'][str(seed)] for seed in args.seeds}, task.title
    )
    with written(out / 'table.md') as file:
        file.write_text('\n'.join(table) + '\n')
    print('\n'.join(table))


if __name__ == '__main__':
    run_tool(main)
