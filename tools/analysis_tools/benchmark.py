"""Compare the speed of networks: ours, timm's and mmpretrain's, by runtime and setting.

A NETWORK is a config of mmpretrain, mmdet or mmseg, by file or by name; timm:NAME;
TIMMBackbone:NAME, which gives features of strides 4 to 32; or mmpretrain:NAME. Options
follow a plus sign: +backbone, the backbone alone; +deploy, batch norms folded and
convolutions packed; +pad8 or +pad16, as export_onnx.py --ort-pad; +channels_last, for
torch. Models are timed from the normalised image to what the head returns.

Weights are random. Each network's outputs are first compared with torch's without
options, within 1e-4 of their largest value (on a GPU 1e-3, with --amp 5e-2); with
--train --equal losses are. Then all networks run in turn, in another order in each
round; ratios are taken within a round, to the first network.

Example:
    python tools/analysis_tools/benchmark.py --equal timm:ghostnetv2_100 \
        ghostnetv2_100_in1k ghostnetv2_100_in1k+deploy+channels_last \
        --runtime torch onnxruntime --images 1x224 8x224 1x512 --threads 1 2

writes benchmark.md and benchmark.csv and, with --plot, benchmark.png.
"""

import argparse
import csv
import re
import shlex
import sys
from copy import deepcopy
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
import yaml
from matplotlib.figure import Figure
from mmengine.config import DictAction

from mmghostnetv2.analysis import (
    RUNTIMES,
    Quartiles,
    check_runtime,
    describe_machine,
    paired_ratios,
    quartiles,
    randomize_norms,
    time_interleaved,
)
from mmghostnetv2.analysis.cuda import CUDA_RUNTIMES, build_cuda_runner
from mmghostnetv2.analysis.growth import fit_power
from mmghostnetv2.analysis.memory import peak_memory
from mmghostnetv2.analysis.networks import (
    PADS,
    apply_options,
    build_network,
    copy_weights,
    split_options,
)
from mmghostnetv2.analysis.running import random_images, start, training_step
from mmghostnetv2.arguments import at_least_one
from mmghostnetv2.deployment.runtimes import TOLERANCE, flatten, require_equal
from mmghostnetv2.errors import exit_with_message

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ('timm', 'mmpretrain', 'mmdet')
SOURCES = {'paper': "the paper's", 'timm': "timm's, of the released weights"}


class Result(NamedTuple):
    """One network in one setting; milliseconds, and ratio to the first network."""

    runtime: str
    threads: int
    images: str
    network: str
    milliseconds: Quartiles
    ratio: Quartiles
    per_second: float
    megabytes: float | None


def options_of(name, args):
    """Return the changes of a network's config, none where it has no config."""
    return args.cfg_options if ':' not in name else None


def build_networks(args):
    """Build the networks by name, on request all with the weights of the first."""
    networks = {}
    for name in args.networks:
        torch.manual_seed(0)
        with exit_with_message(name):
            network = build_network(name, options_of(name, args))
        if args.equal and networks:
            copy_weights(networks[args.networks[0]], network)
        else:
            randomize_norms(network)
        networks[name] = network
    return networks


def require_equal_to(first, name, outputs, expected, tolerance=TOLERANCE):
    """Raise a RuntimeError unless a network computes what the first one does."""
    try:
        require_equal(outputs, expected, tolerance, name)
    except RuntimeError as error:
        message = f'{name} does not compute what {first} does: {error}'
        raise RuntimeError(message) from error


def compute_expected(networks, shape, args):
    """Compute the outputs of all networks in torch, {name: arrays}."""
    images, expected = random_images(shape), {}
    for name, network in networks.items():
        with torch.no_grad(), exit_with_message(f'{name}, images of {shape}'):
            expected[name] = flatten(network(images))
    if args.equal:
        first = args.networks[0]
        for name, outputs in expected.items():
            require_equal_to(first, name, outputs, expected[first])
    return expected


def prepare_inference(networks, expected, shape, runtime, threads, args, folder):
    """Make all networks ready to run; returns {name: runner} and {name: model}."""
    runners, models = {}, {}
    images = random_images(shape)
    for number, (name, network) in enumerate(networks.items()):
        network = apply_options(deepcopy(network), name)
        if args.device == 'cuda':
            runners[name] = build_cuda_runner(
                network, images, expected[name], runtime, args.amp
            )
            continue
        model = RUNTIMES[runtime].convert(network, images, Path(folder, str(number)))
        models[name] = model if isinstance(model, Path) else name
        runners[name] = start(model, shape, runtime, threads)
        outputs = runners[name]()
        require_equal_to(f'{name} in torch', runtime, outputs, expected[name])
    return runners, models


def prepare_training(networks, shape, threads, args):
    """Make all networks ready to be trained, as :func:`prepare_inference` does."""
    runners = {
        name: training_step(
            apply_options(deepcopy(network), name),
            shape,
            threads,
            args.device,
            args.amp,
        )
        for name, network in networks.items()
    }
    if args.equal:
        # the second step's is the loss after an update
        losses = {name: np.array([run(), run()]) for name, run in runners.items()}
        first = args.networks[0]
        for name, loss in losses.items():
            tolerance = 5e-2 if args.amp else 1e-3
            require_equal_to(first, name, [loss], [losses[first]], tolerance)
    return runners, {name: name for name in networks}


def measure(networks, expected, shape, runtime, threads, args):
    """Time all networks in one setting; returns a Result each."""
    with TemporaryDirectory() as folder:
        if args.train:
            runners, models = prepare_training(networks, shape, threads, args)
        else:
            runners, models = prepare_inference(
                networks, expected, shape, runtime, threads, args, folder
            )
        seconds = time_interleaved(runners, args.rounds)
        memory = dict.fromkeys(networks)
        if args.memory:
            del runners
            for name, model in models.items():
                bytes_ = peak_memory(
                    model,
                    runtime,
                    options_of(name, args),
                    shape=shape,
                    threads=threads,
                    train=args.train,
                )
                memory[name] = bytes_ / 1e6
    ratios = paired_ratios(seconds, args.networks[0])
    batch, _, *sides = shape
    return [
        Result(
            runtime,
            threads,
            'x'.join(map(str, (batch, *sides))),
            name,
            quartiles([1e3 * value for value in values]),
            ratios[name],
            batch / quartiles(values).median,
            memory[name],
        )
        for name, values in seconds.items()
    ]


def tabulate(results):
    """Write the results as lines of Markdown."""
    header = ['runtime', 'threads', 'images', 'network', 'ms', 'ratio', 'images/s']
    with_memory = results[0].megabytes is not None
    header += ['peak memory, MB'] * with_memory
    rows = [header, ['---'] * 4 + ['---:'] * (len(header) - 4)]
    for result in results:
        row = [*map(str, result[:4]), result.milliseconds.spread(2)]
        row += [result.ratio.spread(3), f'{result.per_second:.2f}']
        if with_memory:
            row.append(f'{result.megabytes:.1f}')
        rows.append(row)
    return [f'| {" | ".join(row)} |' for row in rows]


def growth(results):
    """Fit powers of the number of pixels, where one batch has three sizes or more.

    Returns:
        list[str]: Lines of Markdown, or none.
    """
    settings, rows = {}, []
    for result in results:
        batch, height, width = map(int, result.images.split('x'))
        key = result.runtime, result.threads, batch, result.network
        settings.setdefault(key, []).append((height * width, result))
    for setting, of_pixels in settings.items():
        pixels, of_setting = zip(*of_pixels, strict=True)
        if len(set(pixels)) < 3:
            continue
        costs = [[r.milliseconds.median for r in of_setting]]
        if of_setting[0].megabytes is not None:
            costs.append([r.megabytes for r in of_setting])
        exponents = [f'{fit_power(pixels, values)[0]:.2f}' for values in costs]
        rows.append([*map(str, setting), *exponents])
    if not rows:
        return []
    header = ['runtime', 'threads', 'batch', 'network', 'exponent of ms', 'of memory']
    header = header[: len(rows[0])]
    rows = [header, ['---'] * 4 + ['---:'] * (len(header) - 4), *rows]
    return [f'| {" | ".join(row)} |' for row in rows]


def write_csv(results, path):
    """Write a line for each network in each setting, with plain numbers."""
    spreads = ('milliseconds', 'ratio')
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        header = list(Result._fields[:4])
        header += [f'{name}_{part}' for name in spreads for part in Quartiles._fields]
        writer.writerow([*header, *Result._fields[6:]])
        for result in results:
            numbers = [*result.milliseconds, *result.ratio, result.per_second]
            cells = [f'{number:.5g}' for number in numbers]
            megabytes = result.megabytes
            cells.append('' if megabytes is None else f'{megabytes:.1f}')
            writer.writerow([*result[:4], *cells])


def read_accuracies():
    """Read the top-1 accuracies on ImageNet of networks, {name: {source: percent}}."""
    found = {}
    tables = yaml.safe_load(
        (ROOT / 'tools' / 'analysis_tools' / 'paper_tables.yml').read_text()
    )
    for table in tables:
        for row in table['rows']:
            if {'network', 'top1'} <= row.keys() and 'options' not in row:
                # Table 2 comes before the ablations, which repeat its networks
                found.setdefault(row['network'], {}).setdefault('paper', row['top1'])
    metafile = yaml.safe_load((ROOT / 'configs' / 'metafile.yml').read_text())
    for model in metafile['Models']:
        metrics = model['Results'][0]['Metrics']
        if 'Top 1 Accuracy (timm)' in metrics:
            name = Path(model['Config']).stem
            found.setdefault(name, {})['timm'] = metrics['Top 1 Accuracy (timm)']
    for name in list(found):  # timm's code of the same networks
        if name.startswith('ghostnet'):
            found[f'timm:{name.removesuffix("_in1k")}'] = found[name]
    return found


def draw(results, accuracies, path):
    """Draw accuracy over latency, a panel for each setting."""
    settings = list(dict.fromkeys(result[:3] for result in results))
    width = len(settings)
    figure = Figure(figsize=(6.5 * width, 5.5), layout='constrained')
    panels = figure.subplots(1, width, sharey=True, squeeze=False)[0]
    for axes, setting in zip(panels, settings, strict=True):
        points = [
            (accuracies[name], result)
            for result in results
            if result[:3] == setting
            and (name := split_options(result.network)[0]) in accuracies
        ]
        points.sort(key=lambda point: max(point[0].values()))
        for side, (found, result) in enumerate(points):
            x = result.milliseconds.median
            color = '#e07b00' if 'ghostnetv2' in result.network else '#6e6e78'
            for source, y in found.items():
                face = color if source == 'paper' else 'white'
                axes.plot(x, y, 'o', color=color, markerfacecolor=face)
            axes.annotate(
                result.network,
                (x, max(found.values())),
                # names alternate between both sides, as neighbours lie close
                (-7, 0) if side % 2 else (7, 0),
                textcoords='offset points',
                ha='right' if side % 2 else 'left',
                va='center',
                fontsize=7,
            )
        runtime, threads, images = setting
        axes.set_title(f'{runtime}, {threads} thread(s), {images}', fontsize='medium')
        axes.set_xlabel('latency, ms')
        axes.margins(0.4, 0.1)  # names have room
        axes.grid(alpha=0.3)
    for source, title in SOURCES.items():
        face = 'black' if source == 'paper' else 'white'
        label = f'accuracy: {title}'
        panels[0].plot([], [], 'o', color='black', markerfacecolor=face, label=label)
    panels[0].set_ylabel('ImageNet top-1, %')
    panels[0].legend(fontsize=8, loc='upper left')
    figure.savefig(path, dpi=110)


def read_shape(text):
    """Read the shape of a batch of images, BATCHxSIDE or BATCHxHEIGHTxWIDTH."""
    if not re.fullmatch(r'[1-9]\d*(x[1-9]\d*){1,2}', text):
        raise argparse.ArgumentTypeError(
            f'must be BATCHxSIDE or BATCHxHEIGHTxWIDTH, such as 1x224, got {text!r}'
        )
    batch, *sides = map(int, text.split('x'))
    return batch, 3, sides[0], sides[-1]


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('networks', metavar='NETWORK', nargs='+', help='config or LIBRARY:NAME')
    add(
        '--runtime',
        nargs='+',
        default=['torch'],
        help=f'what runs them: {", ".join(RUNTIMES)}, and on a GPU '
        f'{", ".join(CUDA_RUNTIMES)} (default: torch)',
        metavar='RUNTIME',
    )
    add(
        '--images',
        nargs='+',
        type=read_shape,
        default=[(1, 3, 224, 224)],
        help='batch and side in pixels, or height and width (default: 1x224)',
        metavar='BATCHxSIDE',
    )
    add(
        '--threads',
        nargs='+',
        type=at_least_one,
        default=[1],
        help='threads of an operator (default: 1)',
        metavar='N',
    )
    add(
        '--rounds',
        type=at_least_one,
        default=30,
        help='timed runs of each network (default: 30)',
        metavar='N',
    )
    add(
        '--equal',
        action='store_true',
        help='all get the same weights, and must compute the same',
    )
    add(
        '--train',
        action='store_true',
        help='time a training step: forward, loss, backward, SGD',
    )
    add(
        '--memory',
        action='store_true',
        help='measure the peak memory of each, in a process of its own',
    )
    add('--device', choices=('cpu', 'cuda'), default='cpu', help='default: cpu')
    add('--amp', action='store_true', help='mixed precision, on cuda')
    add(
        '--plot',
        action='store_true',
        help='draw accuracy over latency, of networks whose accuracy is known',
    )
    add(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='changes of all configs',
    )
    add(
        '--out-dir',
        type=Path,
        default=Path('work_dirs/benchmark'),
        help='folder for what is written (default: work_dirs/benchmark)',
        metavar='DIR',
    )
    args = parser.parse_args(argv)
    if len(set(args.networks)) < len(args.networks):
        parser.error('a NETWORK is there twice')
    if args.train and args.runtime != ['torch']:
        parser.error('--train takes --runtime torch alone')
    runtimes = CUDA_RUNTIMES if args.device == 'cuda' else RUNTIMES
    for runtime in args.runtime:
        if runtime not in runtimes:
            allowed = ', '.join(runtimes)
            parser.error(
                f'--device {args.device} takes --runtime {allowed}, got {runtime!r}'
            )
    if args.device == 'cpu' and args.amp:
        parser.error('--amp takes --device cuda')
    if args.device == 'cuda' and args.memory:
        parser.error('--memory measures on the CPU alone')
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: torch finds no GPU')
    try:
        for name in args.networks:
            folded = {'deploy', *PADS} & set(split_options(name)[1])
            if folded and args.train:
                parser.error(f'{name}: what is folded cannot be trained')
        if args.device == 'cpu':
            for runtime in args.runtime:
                check_runtime(runtime)
        args.out_dir.mkdir(parents=True, exist_ok=True)
    except (ImportError, OSError, ValueError) as error:
        parser.error(str(error))
    return args


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    results = []
    with exit_with_message():
        machine = describe_machine()
        networks = build_networks(args)
        settings = list(product(args.runtime, args.threads))
        for number, shape in enumerate(args.images, 1):
            expected = None if args.train else compute_expected(networks, shape, args)
            for runtime, threads in settings:
                results += measure(networks, expected, shape, runtime, threads, args)
            done = f'{number} of {len(args.images)} shapes of images'
            print(done, file=sys.stderr, flush=True)
    results.sort(key=lambda result: args.runtime.index(result.runtime))

    what = 'a training step' if args.train else 'inference'
    command = shlex.join(['python', 'tools/analysis_tools/benchmark.py', *argv])
    machine |= {p: version(p) for p in LIBRARIES if find_spec(p)}
    if args.device == 'cuda':
        machine = {'GPU': torch.cuda.get_device_name()} | machine
    table = tabulate(results)
    lines = [
        '# Benchmark',
        '',
        f'- `{command}`',
        f'- {what} on {args.device}, {args.rounds} rounds',
        *(f'- {key}: {value}' for key, value in machine.items()),
        '',
        *table,
        '',
        f'Milliseconds, and ratio to {args.networks[0]} in the same round: median '
        '(interquartile range) over the rounds.',
    ]
    if args.memory:
        lines[-1] += (
            ' Peak memory: weights and all that a process takes beyond while it runs, '
            'without Python and libraries.'
        )
    exponents = growth(results)
    if exponents:
        lines += ['', 'Growth as a power of the number of pixels:', '', *exponents]
    path = args.out_dir / 'benchmark.md'
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8')
    write_csv(results, path.with_suffix('.csv'))
    written = f'{path} and .csv'
    if args.plot:
        draw(results, read_accuracies(), path.with_suffix('.png'))
        written += ' and .png'
    print('\n'.join([*table, *exponents]))
    print(f'written: {written}')


if __name__ == '__main__':
    main()
