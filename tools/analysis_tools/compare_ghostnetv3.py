r"""Compare trainings of GhostNetV2 and GhostNetV3, and of a student with a teacher.

Example:
    python tools/analysis_tools/compare_ghostnetv3.py --epochs 6 \
        --data data/digits_few/classification

All learn handwritten digits, which tools/datasets/make_digits.py draws, by the recipe
of configs/digits/ghostnetv2_100_digits.py, but from images of 32 pixels, to save time:
the original digits have only 8x8 pixels. GhostNetV2 is trained for as many epochs as
GhostNetV3, and for as many as take the same time. Its network of width 0.35 is trained
without a teacher and with GhostNetV2 of the same seed as its teacher. The result is the
accuracy on held-out digits after the last epoch, in percent.

The tool writes table.md and results.json into work_dirs/compare_ghostnetv3. It keeps
finished seeds, so that the same command goes on after an interruption.

Run it in the root of the checkout.
"""

import json
import tempfile
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
from mmengine.runner import Runner
from scipy import stats

from mmghostnetv2.apis import read_config
from mmghostnetv2.arguments import at_least, make_parser, run_tool
from mmghostnetv2.models import GhostNetV2
from mmghostnetv2.output import markdown_table, progress, written

V2, V3 = 'GhostNetV2 1.0x', 'GhostNetV3 1.0x'
LONGER = 'GhostNetV2 1.0x, as long as V3'
STUDENT, TAUGHT = 'GhostNetV2 0.35x', 'GhostNetV2 0.35x with a teacher'
DIFFERENCES = [(V3, V2), (V3, LONGER), (TAUGHT, STUDENT)]
METRIC = 'accuracy/top1'
OUT = Path('work_dirs/compare_ghostnetv3')
SIZE = 32  # of the images, in pixels


def make_config(seed, epochs, data):
    """Return the config of the digits, changed to train here in one process."""
    config = read_config('ghostnetv2_100_digits')
    options = {'randomness.seed': seed, 'log_level': 'ERROR'}
    for part in 'train', 'val', 'test':
        options |= {
            f'{part}_dataloader.dataset.data_root': data,
            f'{part}_dataloader.num_workers': 0,
            f'{part}_dataloader.persistent_workers': False,
        }
        scale = (SIZE, SIZE) if part == 'train' else SIZE
        options[f'{part}_dataloader.dataset.pipeline.1.scale'] = scale
    options['train_dataloader.dataset.pipeline.4.crop_size'] = SIZE
    options['train_cfg.max_epochs'] = options['param_scheduler.1.T_max'] = epochs
    options['train_cfg.val_interval'] = epochs  # only the last one counts
    config.merge_from_dict(options)
    return config


def train(config, folder):
    """Train; return the accuracy in percent, the seconds and the last checkpoint."""
    config.work_dir = str(folder)
    config.experiment_name = folder.name
    runner = Runner.from_cfg(config)
    start = time.monotonic()
    runner.train()
    seconds = time.monotonic() - start
    accuracy = runner.message_hub.get_scalar(f'val/{METRIC}').current()
    checkpoint = folder / f'epoch_{config.train_cfg.max_epochs}.pth'
    return accuracy, seconds, str(checkpoint)


def run_seed(seed, epochs, data):
    """Return {network: accuracy, seconds, epochs} of one seed."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:

        def run(name, config):
            path = Path(folder, f'{len(results)}_{seed}')
            accuracy, seconds, checkpoint = train(config, path)
            results[name] = accuracy, seconds, config.train_cfg.max_epochs
            return checkpoint

        config = make_config(seed, epochs, data)
        teacher = deepcopy(config.model)
        weights = run(V2, config)
        teacher.init_cfg = dict(type='Pretrained', checkpoint=weights)
        teacher.data_preprocessor = config.data_preprocessor

        config = make_config(seed, epochs, data)
        config.model.backbone.type = 'GhostNetV3'
        run(V3, config)
        longer = round(epochs * results[V3][1] / results[V2][1])
        run(LONGER, make_config(seed, max(longer, epochs), data))

        for name in STUDENT, TAUGHT:
            config = make_config(seed, epochs, data)
            config.model.backbone.widen_factor = 0.35
            config.model.head.in_channels = GhostNetV2(0.35).out_channels[0]
            if name == TAUGHT:
                config.model.update(type='DistilledClassifier', teacher=teacher)
            run(name, config)
    return results


def tabulate(results):
    """Return the lines of the table; ``results`` is {seed: {network: ...}}."""
    values = {
        name: np.array([found[name] for found in results.values()])
        for name in (V2, V3, LONGER, STUDENT, TAUGHT)
    }
    rows = [['network', 'epochs', 'seconds', 'top-1, %', 'standard deviation']]
    for name, array in values.items():
        accuracy, seconds, epochs = array.mean(0)
        deviation = array[:, 0].std(ddof=1)
        numbers = f'{epochs:.1f}', f'{seconds:.0f}', f'{accuracy:.2f}'
        rows.append([name, *numbers, f'{deviation:.2f}'])
    lines = [*markdown_table(rows, numbers=4), '']
    rows = [['difference of top-1', 'mean', '95 % interval']]
    for name, other in DIFFERENCES:
        difference = values[name][:, 0] - values[other][:, 0]
        error = stats.sem(difference)
        low, high = stats.t.interval(0.95, len(results) - 1, difference.mean(), error)
        interval = f'{low:+.2f} to {high:+.2f}'
        rows.append([f'{name} - {other}', f'{difference.mean():+.2f}', interval])
    return [*lines, *markdown_table(rows, numbers=2)]


def main(argv=None):
    parser = make_parser(__doc__)
    add = parser.add_argument
    text = 'two or more (default: 0 to 4)'
    add('--seeds', type=at_least(0), nargs='+', default=range(5), help=text)
    text = 'epochs of GhostNetV3 (default: 3)'
    add('--epochs', type=at_least(1), default=3, metavar='N', help=text)
    default = 'data/digits/classification'
    add('--data', default=default, metavar='DIR', help=f'pictures (default: {default})')
    args = parser.parse_args(argv)
    if len(set(args.seeds)) < max(2, len(args.seeds)):
        parser.error('argument --seeds: needs two or more different ones')
    if not Path(args.data, 'train').is_dir():
        parser.error(f'argument --data: {args.data} has no folder train')

    path, setting = (
        OUT / 'results.json',
        dict(epochs=args.epochs, size=SIZE, data=args.data),
    )
    saved = json.loads(path.read_text()) if path.exists() else {**setting, 'seeds': {}}
    if {key: saved[key] for key in setting} != setting:
        raise RuntimeError(f'{path} is of other options: remove it to start again')
    for seed in progress(list(args.seeds), 'seeds'):
        if str(seed) not in saved['seeds']:
            saved['seeds'][str(seed)] = run_seed(seed, args.epochs, args.data)
            with written(path) as file:
                file.write_text(json.dumps(saved, indent=2) + '\n')
    table = tabulate({seed: saved['seeds'][str(seed)] for seed in args.seeds})
    with written(OUT / 'table.md') as file:
        file.write_text('\n'.join(table) + '\n')
    print('\n'.join(table))


if __name__ == '__main__':
    run_tool(main)
