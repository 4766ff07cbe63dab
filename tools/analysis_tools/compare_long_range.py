"""Compare GhostNet V1 with GhostNetV2 on a task that needs long-range attention.

Example:
    python tools/analysis_tools/compare_long_range.py --seeds 0 1 2

Both networks have equal FLOPs and the same recipe. They learn the relation of two
distant digits in a picture, see tools/datasets/make_digit_pairs.py. For each seed both
are trained at the same time, each on half of the cores. The tool prints the commands
that it starts. It keeps finished trainings and resumes interrupted ones.

The result is the accuracy after the last epoch on pairs of held-out digits, in percent.
The tool writes into work_dirs/long_range

- ``table.md`` and ``table.csv``: each seed, mean, standard deviation, and the paired
  difference with its standard error and Student's 95 % interval,
- ``curves.png``: the accuracy after each epoch,
- ``task.png``: some of the pictures.

Run it in the root of the checkout.
"""

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
from mmengine.config import Config

from mmghostnetv2.analysis import build_network, count
from mmghostnetv2.analysis.latency import available_cores
from mmghostnetv2.analysis.plotting import FAMILIES, family_of
from mmghostnetv2.arguments import at_least, make_parser, run_tool
from mmghostnetv2.forks import mim_package
from mmghostnetv2.output import markdown_table, require_same_config, written

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = {  # differences are the second minus the first
    'GhostNet V1 1.1x': 'configs/digits/ghostnet_110_pairs.py',
    'GhostNetV2 1.0x': 'configs/digits/ghostnetv2_100_pairs.py',
}
COLOURS = [FAMILIES[family_of(name)][0] for name in NETWORKS]
METRIC = 'accuracy/top1'
CHANCE = 50
SIZES = {  # options of make_digit_pairs.py
    '': {},
    'short': dict(train=64, singles=32, val=40),
    'large': dict(train=19200, singles=19200, val=4000, height=96),
}


def environment():
    """Return variables that give a training this Python and half of the cores.

    With more threads than cores, OpenMP's threads wait for each other in busy loops.
    """
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ.get("PATH", "")}'
    threads = str(max(1, available_cores() // 2))
    defaults = {'OMP_NUM_THREADS': threads, 'GOMP_SPINCOUNT': '10000'}
    return {**defaults, **os.environ, 'PATH': path}


def run_all(jobs):
    """Print pairs of a command and its log file, and run them at the same time."""
    before, started = os.times(), []
    for command, log in jobs:
        print(f'$ {shlex.join(command)} >> {log.relative_to(ROOT)}', flush=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open('a') as sink:
            options = dict(cwd=ROOT, env=environment(), stdout=sink, stderr=sink)
            process = subprocess.Popen(command, start_new_session=True, **options)
            started.append((process, log))
    try:
        failed = [str(log) for process, log in started if process.wait()]
    except BaseException:
        # If mim alone ended, the trainer would go on.
        for process, _ in started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        raise
    if failed:
        raise RuntimeError(f'a command above failed, see {" and ".join(failed)}')
    after = os.times()
    cpu = sum(after[2:4]) - sum(before[2:4])  # user and system time of the children
    print(
        f'{after.elapsed - before.elapsed:.0f} s, {cpu:.0f} s of CPU time', flush=True
    )


def read_curve(work_dir):
    """Return {epoch: accuracy in percent} from all of a training's logs."""
    curve = {}
    # Each start of the training has a folder, whose name is the time.
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        records = map(json.loads, path.read_text().splitlines())
        curve |= {item['step']: item[METRIC] for item in records if METRIC in item}
    return curve


def train(configs, seed, options, out):
    """Train both networks unless they are trained already, and return their curves."""
    work_dirs = [out / Path(name).stem / f'seed_{seed}' for name in NETWORKS.values()]
    last = configs[0].train_cfg.max_epochs
    settings = {**options, 'randomness.seed': seed}
    jobs = []
    for name, config, work_dir in zip(
        NETWORKS.values(), configs, work_dirs, strict=True
    ):
        require_same_config(work_dir, Config.fromfile(config.filename))
        if last not in read_curve(work_dir):
            command = ['mim', 'train', mim_package('mmpretrain'), name, '--resume']
            command += ['--work-dir', str(work_dir.relative_to(ROOT)), '--cfg-options']
            command += [f'{key}={value}' for key, value in settings.items()]
            jobs.append((command, work_dir / 'train.log'))
    if jobs:
        run_all(jobs)
    curves = list(map(read_curve, work_dirs))
    for work_dir, curve in zip(work_dirs, curves, strict=True):
        if last not in curve:  # the last checkpoint exists, but was not validated
            raise RuntimeError(
                f'{work_dir} lacks the last validation: remove it to train again'
            )
    return curves


def cost(config, height):
    """Return parameters and multiply-accumulates for one picture, in millions."""
    numbers = count(build_network(config.filename), (height, 3 * height))
    return [number / 1e6 for number in numbers]


def tabulate(finals, costs, height):
    """Return the rows of the table, each a label and three strings.

    Args:
        finals (dict): {seed: accuracies of both networks}.
        costs (list): Parameters and FLOPs of each network in millions.
        height (int): Height of the pictures in pixels.
    """
    from scipy import stats

    values = np.array(list(finals.values()))
    differences = values[:, 1] - values[:, 0]
    error = stats.sem(differences)
    low, high = stats.t.interval(0.95, len(values) - 1, differences.mean(), error)
    parameters, flops = zip(*costs, strict=True)
    pairs = {
        'parameters, millions': parameters,
        f'FLOPs at {height}x{3 * height}, millions': flops,
        **{f'seed {seed}': pair for seed, pair in finals.items()},
        'mean': values.mean(0),
    }
    deviations = [np.std(x, ddof=1) for x in (*values.T, differences)]
    return [
        ('', *NETWORKS, 'difference'),
        *((k, f'{a:.2f}', f'{b:.2f}', f'{b - a:+.2f}') for k, (a, b) in pairs.items()),
        ('standard deviation', *(f'{deviation:.2f}' for deviation in deviations)),
        ('standard error', '', '', f'{error:.2f}'),
        ('95 % interval, lower end', '', '', f'{low:+.2f}'),
        ('95 % interval, upper end', '', '', f'{high:+.2f}'),
    ]


def write_table(rows, out):
    """Print the table and write it as Markdown and CSV."""
    text = '\n'.join(markdown_table(rows, numbers=3)) + '\n'
    print(f'\n{text}')
    (out / 'table.md').write_text(text)
    with (out / 'table.csv').open('w', newline='') as file:
        csv.writer(file).writerows(rows)


def draw_curves(curves, last, path):
    """Draw the mean, the range and all seeds of each network.

    ``curves`` is {seed: pair of curves}, each as read_curve returns it.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 5), layout='constrained')
    epochs = np.arange(1, last + 1)
    for i, (name, colour) in enumerate(zip(NETWORKS, COLOURS, strict=True)):
        # A validation that was interrupted leaves a gap.
        values = [[pair[i].get(e, np.nan) for e in epochs] for pair in curves.values()]
        mean = np.mean(values, 0)
        label = f'{name}: mean, range and each of {len(values)} seeds'
        axes.plot(epochs, mean, 'o-', color=colour, linewidth=2.5, label=label)
        low, high = np.min(values, 0), np.max(values, 0)
        axes.fill_between(epochs, low, high, color=colour, alpha=0.15)
        axes.plot(epochs, np.transpose(values), color=colour, linewidth=0.7)
    axes.axhline(CHANCE, color='grey', linestyle=':', label='chance')
    axes.set(xlabel='epoch', ylabel='accuracy on pairs of held-out digits, %')
    axes.set_title('Which of two distant digits comes first?')
    axes.set_xticks(epochs)
    figure.legend(loc='outside upper center')
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_task(data, path):
    """Draw examples of both classes of pairs and of single digits."""
    import matplotlib.pyplot as plt

    train = data / 'train'
    rows = [sorted(folder.iterdir())[:4] for folder in sorted(train.glob('pair_*'))]
    rows.append([min(train.glob(f'single_{digit}/*')) for digit in range(4)])
    figure, axes = plt.subplots(3, 4, figsize=(9, 3.2), layout='constrained')
    for axis, picture in zip(axes.flat, sum(rows, []), strict=True):
        axis.imshow(plt.imread(picture))
        kind, _, digit = picture.parent.name.partition('_')
        title = f'a single {digit}' if kind == 'single' else f'right comes {digit} left'
        axis.set_title(title, fontsize=11)
        axis.axis('off')
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(argv=None):
    parser = make_parser(__doc__)
    text = 'two or more (default: 0 to 4; with --short 0 and 1)'
    parser.add_argument('--seeds', type=at_least(0), nargs='+', help=text)
    add = parser.add_mutually_exclusive_group().add_argument
    size = dict(dest='size', action='store_const', default='')
    add('--short', const='short', **size, help='one epoch, few pictures, two seeds')
    add('--large', const='large', **size, help='more and larger pictures, for a GPU')
    args = parser.parse_args(argv)
    seeds = args.seeds or range(2 if args.size == 'short' else 5)
    if len(set(seeds)) < max(2, len(seeds)):
        parser.error(f'argument --seeds: needs two or more different ones, got {seeds}')

    suffix = f'_{args.size}' if args.size else ''
    data, out = f'data/digit_pairs{suffix}', ROOT / f'work_dirs/long_range{suffix}'
    draw = ['python', 'tools/datasets/make_digit_pairs.py', '--out-dir', data]
    draw += [f'--{name}={value}' for name, value in SIZES[args.size].items()]
    run_all([(draw, out / 'data.log')])

    parts = 'train', 'val', 'test'
    options = {f'{part}_dataloader.dataset.data_root': data for part in parts}
    if args.size == 'short':
        options['train_cfg.max_epochs'] = 1
    configs = [Config.fromfile(ROOT / name) for name in NETWORKS.values()]
    for config in configs:
        config.merge_from_dict(options)
    curves = {seed: train(configs, seed, options, out) for seed in seeds}

    manifest = json.loads((ROOT / data / 'digits.json').read_text())
    height = manifest['parameters']['height']
    costs = [cost(config, height) for config in configs]
    last = configs[0].train_cfg.max_epochs
    finals = {seed: [curve[last] for curve in pair] for seed, pair in curves.items()}
    with written(out / 'table.md') as path:
        write_table(tabulate(finals, costs, height), path.parent)
        draw_curves(curves, last, path.with_name('curves.png'))
        draw_task(ROOT / data, path.with_name('task.png'))
    print(f'{out.relative_to(ROOT)}: table.md, table.csv, curves.png, task.png')


if __name__ == '__main__':
    run_tool(main)
