"""Show how latency grows with resolution, for DFC attention and for self-attention.

GhostNet, GhostNetV2 (DFC attention) and GhostNetSelfAttention at 1.0x, the networks of
the paper's Table 1, are timed in turn as backbones on square images. Their latency is
fitted by a power of the number of pixels, and so is what each attention adds to
GhostNet's.

Example:
    python tools/analysis_tools/plot_resolution.py --runtime onnxruntime --threads 1 \
        --out-dir work_dirs/resolution

writes resolution.md, the tables; resolution.png, a log-log plot of them; and
resolution.csv, every run, below comments (#) on machine and command.
"""

import argparse
import csv
import shlex
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from matplotlib.figure import Figure

from mmghostnetv2.analysis import (
    RUNTIMES,
    build_runner,
    check_runtime,
    describe_machine,
    paired_ratios,
    quartiles,
    randomize_norms,
    time_interleaved,
)
from mmghostnetv2.analysis.growth import fit_power
from mmghostnetv2.arguments import at_least_one
from mmghostnetv2.models import GhostNet, GhostNetSelfAttention, GhostNetV2

BASE = 'GhostNet'
NETWORKS = {
    BASE: GhostNet,
    '+ DFC attention': GhostNetV2,
    '+ self-attention': GhostNetSelfAttention,
}
# what is a difference of two networks: that one minus GhostNet
ADDED = {
    'DFC attention alone': '+ DFC attention',
    'self-attention alone': '+ self-attention',
}
COLOURS = dict(zip(NETWORKS, ('#6e6e78', '#e07b00', '#1e6eff'), strict=True))


def measure(size, args):
    """Time the networks at one size; returns {name: seconds of each round}."""
    with TemporaryDirectory() as folder:
        runners = {
            name: build_runner(
                randomize_norms(network()),
                (1, 3, size, size),
                args.runtime,
                args.threads,
                folder,
            )
            for name, network in NETWORKS.items()
        }
        return time_interleaved(runners, args.rounds)


def medians(results):
    """Take medians over the rounds, in milliseconds.

    Args:
        results (dict): {size: {network: seconds of each round}}.

    Returns:
        dict: {curve: one value a size}, the curves being the networks and the
        differences of ADDED, taken within a round.
    """
    curves = {
        name: [1e3 * quartiles(seconds[name]).median for seconds in results.values()]
        for name in NETWORKS
    }
    for alone, name in ADDED.items():
        curves[alone] = [
            1e3 * quartiles(np.subtract(seconds[name], seconds[BASE])).median
            for seconds in results.values()
        ]
    return curves


def positive(sizes, values):
    """Keep the points that have a logarithm; a difference may be lost in noise."""
    return [(s, v) for s, v in zip(sizes, values, strict=True) if v > 0]


def fit(points):
    """Fit a power of the number of pixels to pairs of a square's side and a latency."""
    sides, latencies = np.reshape(points, (-1, 2)).T
    return fit_power(sides**2, latencies)


def tabulate(results, curves):
    """Write latencies, ratios and exponents as lines of Markdown."""
    columns = [*NETWORKS, *(f'{name}, ratio' for name in ADDED.values())]
    lines = [f'| size | {" | ".join(columns)} |', '| --- ' * (len(columns) + 1) + '|']
    for size, seconds in results.items():
        ratios = paired_ratios(seconds, BASE)
        cells = [quartiles(1e3 * np.array(s)).spread(2) for s in seconds.values()]
        cells += [ratios[name].spread(3) for name in ADDED.values()]
        lines.append(f'| {size} | {" | ".join(cells)} |')
    lines += [
        '',
        'Milliseconds at this side of a square image in pixels, and ratio to GhostNet '
        'in the same round: median (interquartile range) over the rounds.',
        '',
        '| latency | exponent of the number of pixels | from sizes |',
        '| --- | --- | --- |',
    ]
    for name, values in curves.items():
        points = positive(results, values)
        sizes = ', '.join(str(size) for size, _ in points)
        lines.append(f'| {name} | {fit(points)[0]:.2f} | {sizes} |')
    lines += [
        '',
        '*Alone*: median over the rounds of the difference to GhostNet; a size where '
        'it is not above zero is left out.',
    ]
    return lines


def draw(sizes, curves, title, path):
    """Draw medians as points and fits as lines; the attentions alone are dashed."""
    figure = Figure(figsize=(8, 5.5), layout='constrained')
    axes = figure.add_subplot(
        xscale='log',
        yscale='log',
        xlabel='side of the image, pixels',
        ylabel='latency, ms',
    )
    for name, values in curves.items():
        points = positive(sizes, values)
        exponent, factor = fit(points)
        color = COLOURS[ADDED.get(name, name)]
        line, face = ('--', 'white') if name in ADDED else ('-', color)
        x, y = np.reshape(points, (-1, 2)).T
        axes.plot(x, y, 'o', color=color, markerfacecolor=face)
        axes.plot(
            sizes,
            [factor * size ** (2 * exponent) for size in sizes],
            line,
            color=color,
            label=f'{name}: pixels$^{{{exponent:.2f}}}$',
        )
    axes.set_xticks(sizes, map(str, sizes))
    axes.tick_params(axis='x', which='minor', bottom=False, labelbottom=False)
    axes.yaxis.set_major_formatter('{x:g}')
    axes.grid(alpha=0.3)
    axes.legend()
    axes.set_title(title, fontsize='medium')
    figure.savefig(path, dpi=150)


def write_csv(results, head, path):
    """Write every run, a line each, below the comments of ``head``."""
    with path.open('w', newline='') as file:
        file.writelines(f'# {line}\n' for line in head)
        writer = csv.writer(file)
        writer.writerow(['size', 'network', 'round', 'milliseconds'])
        for size, seconds in results.items():
            for name, values in seconds.items():
                writer.writerows(
                    [size, name, number, f'{1e3 * value:.4f}']
                    for number, value in enumerate(values)
                )


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n')[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        '--sizes',
        type=at_least_one,
        nargs='+',
        default=[224, 320, 448, 640, 800, 1024],
        help='sides of the square images, pixels; two at least',
    )
    add('--runtime', choices=RUNTIMES, default='onnxruntime', help='what runs them')
    add('--threads', type=at_least_one, default=1, help='threads of an operator')
    add('--rounds', type=at_least_one, default=20, help='timed runs of each network')
    add(
        '--out-dir',
        type=Path,
        default=Path('work_dirs/resolution'),
        help='folder for resolution.md, .png and .csv',
    )
    args = parser.parse_args(argv)
    args.sizes = sorted(set(args.sizes))
    if len(args.sizes) < 2:
        parser.error('argument --sizes: a fit takes two different ones at least')
    try:
        check_runtime(args.runtime)
    except ImportError as error:
        parser.error(f'argument --runtime: {error}')
    try:
        args.out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f'argument --out-dir: {error}')
    return args


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    results = {}
    for size in args.sizes:
        results[size] = measure(size, args)
        print(f'{size} pixels: {args.rounds} rounds', flush=True)
    curves = medians(results)
    command = ['python', 'tools/analysis_tools/plot_resolution.py', *argv]
    setting = f'{args.runtime}, {args.threads} thread(s), batch of one'
    head = [
        shlex.join(command),
        f'{setting}, {args.rounds} rounds',
        *(f'{key}: {value}' for key, value in describe_machine().items()),
    ]
    table = tabulate(results, curves)
    path = args.out_dir / 'resolution.md'
    lines = ['# Latency by resolution', '', *(f'- {line}' for line in head), '', *table]
    path.write_text('\n'.join(lines) + '\n')
    write_csv(results, head, path.with_suffix('.csv'))
    draw(args.sizes, curves, setting, path.with_suffix('.png'))
    print('\n'.join(table))
    print(f'written: {path}, .csv and .png')


if __name__ == '__main__':
    main()
