r"""Compare the speed of our networks with that of timm's and mmpretrain's.

Example:
    python tools/analysis_tools/benchmark.py --equal timm:ghostnetv2_100 \
        ghostnetv2_100_in1k ghostnetv2_100_in1k+deploy+channels_last \
        --runtime torch onnxruntime --images 1x224 8x224 1x512 --threads 1 2

A NETWORK is the file of a config, the name of one of this package's, or LIBRARY::FILE
for one of mmpretrain, mmdet or mmseg; timm:NAME; TIMMBackbone:NAME, which returns
features of strides 4 to 32; or mmpretrain:NAME. Options follow a plus sign: +backbone
takes the backbone alone, +deploy merges branches and folds the batch norms,
+reparameterized merges the branches of a network of timm as timm does, +channels_last
sets torch's memory format, and +int8 quantises the file to 8-bit integers after it was
compared, where the runtime has them. A network is timed from the normalised image
to the outputs of its head, or with +predictions to the boxes that non-maximum
suppression leaves, the labels of pixels or the scores.

The weights are random. Before the timing, the outputs of each network must equal those
of the same network in torch without options, within 1e-4 of their largest value (1e-3
on a GPU, 5e-2 with --amp). Of the boxes after suppression, 99 of 100 must be equal.
Then each round runs all networks once, in random order, and ratios to the first network
are taken within a round.

For inference on a CPU, the tool first measures the rates of matrix products and copies.
From these it computes how long the convolutions and linear layers of each network take
at least in float32. This is *limit* in the table, and *times limit* is the measured
time over it. *FLOPs* are the multiply-accumulates of these layers for one image.

The tool writes benchmark.md and benchmark.csv. With --plot it also draws accuracy over
latency into benchmark.png, for networks whose accuracy is known, and latency over
resolution into resolution.png, for three or more sizes of images.
"""

import argparse
import re
import shlex
import sys
from collections import Counter
from copy import deepcopy
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import yaml

from mmghostnetv2.analysis import (
    Quartiles,
    build_cuda_runner,
    build_network,
    build_runner,
    describe_machine,
    fit_power,
    layer_costs,
    measure_peaks,
    paired_ratios,
    quartiles,
    randomize_norms,
    time_interleaved,
    training_step,
)
from mmghostnetv2.analysis.memory import peak_memory
from mmghostnetv2.analysis.networks import (
    apply_options,
    copy_weights,
    has_config,
    split_options,
)
from mmghostnetv2.analysis.plotting import FAMILIES, family_of, place_names
from mmghostnetv2.analysis.running import CUDA_RUNTIMES, random_images
from mmghostnetv2.arguments import (
    add_cfg_options,
    add_out_dir,
    make_parser,
    named_errors,
    positive_int,
    run_tool,
)
from mmghostnetv2.deployment.runtimes import (
    RUNTIMES,
    TOLERANCE,
    check_runtime,
    flatten,
    require_equal,
)
from mmghostnetv2.output import markdown_table, progress, require_free, written

ROOT = Path(__file__).resolve().parents[2]
# Core ML is not among them, because its files do not run on Linux.
CPU_RUNTIMES = [name for name, runtime in RUNTIMES.items() if runtime.runs]
LIBRARIES = ('timm', 'mmpretrain', 'mmdet')
SETTING = ['runtime', 'threads', 'images', 'network']


def options_of(name, args):
    """Return --cfg-options for a network that has a config, and None for others."""
    return args.cfg_options if has_config(name) else None


def build_networks(args):
    """Build {name: network}; with --equal all have the weights of the first."""
    networks = {}
    for name in args.networks:
        torch.manual_seed(0)
        with named_errors(name):
            network = build_network(name, options_of(name, args))
        if args.equal and networks:
            copy_weights(networks[args.networks[0]], network)
        else:
            randomize_norms(network)
        networks[name] = network
    return networks


def require_same(outputs, tolerance):
    """Require that all networks return what the first does; {name: arrays}."""
    first = next(iter(outputs))
    for name, arrays in outputs.items():
        with named_errors(f'{name} does not compute what {first} does'):
            require_equal(arrays, outputs[first], tolerance, name)


def compute_expected(networks, shape, args):
    """Return the outputs of all networks in torch, {name: arrays}."""
    expected = {}
    for name, network in networks.items():
        with torch.no_grad(), named_errors(f'{name}, images of {shape}'):
            expected[name] = flatten(network(random_images(shape)))
    if args.equal:
        require_same(expected, TOLERANCE)
    return expected


def prepare(networks, expected, shape, runtime, threads, args, folder):
    """Return {name: function to time} and {name: exported file or network's name}."""
    runners, models = {}, {name: name for name in networks}
    torch.compiler.reset()  # it stops compiling a network after a few other shapes
    for number, (name, network) in enumerate(networks.items()):
        network = apply_options(deepcopy(network), name)
        with named_errors(name):
            if args.train:
                compiled = runtime == 'compiled'
                setting = shape, threads, args.device, args.amp, compiled
                run = training_step(network, *setting)
            elif args.device == 'cuda':
                run = build_cuda_runner(
                    network, shape, runtime, expected[name], args.amp
                )
            else:
                path = Path(folder, str(number))
                int8 = 'int8' in split_options(name)[1]
                run, model = build_runner(
                    network, shape, runtime, threads, path, expected[name], int8
                )
                models[name] = model if isinstance(model, Path) else name
        runners[name] = run
    if args.train and args.equal:
        # The second loss shows that the first update was equal, too.
        losses = {name: [np.array([run(), run()])] for name, run in runners.items()}
        require_same(losses, 5e-2 if args.amp else 1e-3)
    return runners, models


def compute_costs(networks, shape):
    """Return {name: (parameters, costs of the layers)} of all networks."""
    images, found = random_images(shape), {}
    for name, network in networks.items():
        network = apply_options(deepcopy(network), name)
        number = sum(p.numel() for p in network.parameters())
        found[name] = number, layer_costs(network, images)
    return found


def measure(networks, expected, shape, runtime, threads, costs, peaks, args):
    """Time all networks in one setting and return a row of results for each.

    A ratio is the time divided by that of the first network in the same round,
    ``added`` is the median difference from it in milliseconds, ``flops`` are
    multiply-accumulates of one image, and ``limit`` is in milliseconds. The last two
    and ``parameters`` are left out without ``peaks``.
    """
    with TemporaryDirectory() as folder:
        runners, models = prepare(
            networks, expected, shape, runtime, threads, args, folder
        )
        seconds = time_interleaved(runners, args.rounds)
        memory = dict.fromkeys(networks)
        if args.memory:
            del runners
            for name, model in models.items():
                options = options_of(name, args)
                setting = runtime, shape, threads, args.train, options
                memory[name] = peak_memory(model, *setting) / 1e6
    first, (batch, _, height, width) = args.networks[0], shape
    images, ratios = f'{batch}x{height}x{width}', paired_ratios(seconds, first)
    rows = []
    for name, values in seconds.items():
        row = dict(runtime=runtime, threads=threads, images=images, network=name)
        milliseconds = 1e3 * np.array(values)
        for what, spread in (
            ('milliseconds', quartiles(milliseconds)),
            ('ratio', ratios[name]),
        ):
            row |= {f'{what}_{end}': n for end, n in spread._asdict().items()}
        row['added'] = np.median(milliseconds - 1e3 * np.array(seconds[first]))
        row['per_second'] = batch / np.median(values)
        row |= dict(megabytes=memory[name], limit=None, parameters=None, flops=None)
        if peaks:
            row['parameters'], layers = costs[name]
            row['limit'] = 1e3 * peaks.lower_bound(layers)
            row['flops'] = sum(macs for macs, _ in layers) / batch
        rows.append(row)
    return rows


def measure_all(args, peaks):
    """Measure all networks in all settings; return the columns of benchmark.csv.

    ``peaks`` are those of the machine by the number of threads.
    """
    import pandas as pd

    networks, rows, expected, costs = build_networks(args), [], {}, {}
    settings = list(product(args.images, args.runtime, args.threads))
    for shape, runtime, threads in progress(settings, 'settings'):
        if not args.train and shape not in expected:
            expected = {shape: compute_expected(networks, shape, args)}
        if peaks and shape not in costs:
            costs[shape] = compute_costs(networks, shape)
        setting = shape, runtime, threads, costs.get(shape), peaks.get(threads)
        rows += measure(networks, expected.get(shape), *setting, args)
    rows.sort(key=lambda row: args.runtime.index(row['runtime']))
    return pd.DataFrame(rows)


def tabulate(results):
    """Return the results as the lines of a Markdown table."""
    table = results[SETTING].copy()
    if results.flops.notna().all():
        for what, title in (('parameters', 'parameters, M'), ('flops', 'FLOPs, M')):
            table[title] = (results[what] / 1e6).map('{:.2f}'.format)
    for what, title, digits in (('milliseconds', 'ms', 2), ('ratio', 'ratio', 3)):
        spreads = results[[f'{what}_{end}' for end in Quartiles._fields]].to_numpy()
        table[title] = [Quartiles(*spread).spread(digits) for spread in spreads]
    if results.limit.notna().all():
        over = results.milliseconds_median / results.limit
        table['limit, ms'] = results.limit.map('{:.2f}'.format)
        table['times limit'] = over.map('{:.2f}'.format)
    table['images/s'] = results.per_second.map('{:.2f}'.format)
    if results.megabytes.notna().all():
        table['peak memory, MB'] = results.megabytes.map('{:.1f}'.format)
    return markdown_table([table.columns, *table.to_numpy()], len(table.columns) - 4)


def curves_of(results):
    """Return {setting: results} where images have three or more different sizes."""
    sizes = results.images.str.split('x', expand=True).astype(int)
    results = results.assign(batch=sizes[0], pixels=sizes[1] * sizes[2])
    curves = results.groupby(['runtime', 'threads', 'batch', 'network'], sort=False)
    return {setting: curve for setting, curve in curves if curve.pixels.nunique() >= 3}


def growth(results):
    """Fit powers of the number of pixels; return a Markdown table's lines, or none."""
    costs = {'milliseconds_median': 'exponent of ms', 'added': 'of added ms'}
    if results.megabytes.notna().all():
        costs['megabytes'] = 'of memory'
    rows = [['runtime', 'threads', 'batch', 'network', *costs.values()]]
    for setting, curve in curves_of(results).items():
        exponents = [fit_power(curve.pixels, curve[cost])[0] for cost in costs]
        rows.append([*setting, *('' if np.isnan(e) else f'{e:.2f}' for e in exponents)])
    return markdown_table(rows, len(costs)) if len(rows) > 1 else []


def write_page(path, args, argv, machine, table, exponents):
    """Write the tables, with the command and the machine above them."""
    what = 'a training step' if args.train else 'inference'
    command = shlex.join(['python', 'tools/analysis_tools/benchmark.py', *argv])
    first = args.networks[0]
    lines = [
        '# Benchmark',
        '',
        f'- `{command}`',
        f'- {what} on {args.device}, {args.rounds} rounds',
        *(f'- {key}: {value}' for key, value in machine.items()),
        '',
        *table,
        '',
        f'Milliseconds, and ratio to {first} in the same round: median '
        '(interquartile range) over the rounds.',
    ]
    if args.memory:
        lines[-1] += (
            ' Peak memory: the highest memory of the process, weights included, '
            'without that of Python and the libraries.'
        )
    if exponents:
        note = (
            'Growth as a power of the number of pixels; *added* is the time beyond '
            f'that of {first} in the same round:'
        )
        lines += ['', note, '', *exponents]
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8')


def read_accuracies():
    """Read known top-1 accuracies on ImageNet, {network: {source: percent}}."""
    found = {}
    tables = yaml.safe_load(Path(__file__).with_name('paper_tables.yml').read_text())
    for table in tables:
        for row in table['rows']:
            if {'network', 'top1'} <= row.keys() and 'options' not in row:
                # The ablations repeat networks of Table 2, whose value is kept.
                found.setdefault(row['network'], {}).setdefault('paper', row['top1'])
    metafile = yaml.safe_load((ROOT / 'configs' / 'metafile.yml').read_text())
    for model in metafile['Models']:
        metrics = model['Results'][0]['Metrics']
        if 'Top 1 Accuracy (timm)' in metrics:
            name = Path(model['Config']).stem
            found.setdefault(name, {})['timm'] = metrics['Top 1 Accuracy (timm)']
    for name in list(found):  # timm has the same networks
        if name.startswith('ghostnet'):
            found[f'timm:{name.removesuffix("_in1k")}'] = found[name]
    return found


def panels(settings, what, **kwargs):
    """Make a figure with a panel for each setting; return it and {setting: axes}.

    The titles begin with ``what`` is drawn.
    """
    from matplotlib.figure import Figure

    # A page shows it 700 pixels wide, a panel below the other.
    size = 6.5, 5.5 * len(settings)
    figure = Figure(figsize=size, dpi=200, layout='constrained')
    axes = figure.subplots(len(settings), 1, squeeze=False, **kwargs)[:, 0]
    for panel, (runtime, threads, images) in zip(axes, settings, strict=True):
        plural = '' if threads == 1 else 's'
        title = f'{what} in {runtime}, {threads} thread{plural}, {images}'
        panel.set_title(title, fontsize='medium')
        panel.grid(alpha=0.3)
    return figure, dict(zip(settings, axes, strict=True))


def draw_accuracy(results, accuracies, path):
    """Draw accuracy over latency, a panel for each setting."""
    from matplotlib.lines import Line2D

    groups = dict(list(results.groupby(SETTING[:3], sort=False)))
    figure, axes = panels(groups, 'Accuracy over latency', sharey=True)
    families = {family_of(name): None for name in results.network}
    names = {}
    for setting, panel in axes.items():
        names[setting] = []
        for row in groups[setting].itertuples():
            found = accuracies.get(split_options(row.network)[0], {})
            color, marker = FAMILIES[family_of(row.network)]
            for source, y in found.items():
                face = color if source == 'paper' else 'white'
                x = row.milliseconds_median
                panel.plot(x, y, marker, color=color, markerfacecolor=face)
            if found:
                names[setting].append((x, max(found.values()), row.network))
        panel.set_xlabel('latency, ms')
        panel.margins(0.3, 0.1)  # makes room for the names
        panel.set_ylabel('ImageNet top-1, %')
    marks = [(*FAMILIES[name], FAMILIES[name][0], name) for name in sorted(families)]
    marks += [('black', 'o', 'black', "the paper's accuracy")]
    marks += [('black', 'o', 'white', "timm's accuracy")]
    handles = [
        Line2D([], [], ls='', marker=marker, color=color, mfc=face, label=name)
        for color, marker, face, name in marks
    ]
    figure.legend(handles=handles, fontsize=8, loc='outside upper center', ncols=3)
    for setting, panel in axes.items():
        place_names(panel, names[setting])
    figure.savefig(path)


def draw_resolution(results, path):
    """Draw latency over resolution, a panel for each setting.

    Points are medians and lines are fitted powers; dashed lines show the time beyond
    that of the first network.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    curves = curves_of(results)
    settings = list(dict.fromkeys((r, t, f'batch of {b}') for r, t, b, _ in curves))
    figure, axes = panels(settings, 'Latency over resolution')
    for (runtime, threads, batch, name), curve in curves.items():
        panel = axes[runtime, threads, f'batch of {batch}']
        sides, color = np.sqrt(curve.pixels), None
        for line, label, values in (
            ('-', name, curve.milliseconds_median),
            ('--', f'{name}, added', curve.added),
        ):
            exponent, factor = fit_power(curve.pixels, values)
            if np.isnan(exponent):  # the first network adds no time to itself
                continue
            label = f'{label}: pixels$^{{{exponent:.2f}}}$'
            fitted = factor * sides ** (2 * exponent)
            (drawn,) = panel.plot(sides, fitted, line, color=color, label=label)
            color = drawn.get_color()
            positive = np.ma.masked_less_equal(values, 0)
            face = color if line == '-' else 'white'
            panel.plot(sides, positive, 'o', color=color, markerfacecolor=face)
        panel.set(xscale='log', yscale='log', ylabel='latency, ms')
        panel.set_xlabel('square root of the number of pixels')
        panel.set_xticks(sides, [f'{side:.0f}' for side in sides])
        panel.tick_params(axis='x', which='minor', bottom=False, labelbottom=False)
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter('{x:g}')
        panel.yaxis.set_minor_formatter(NullFormatter())
        longest = max(len(label) for *_, label in curves)
        below = dict(loc='upper center', bbox_to_anchor=(0.5, -0.11))
        panel.legend(fontsize=8, ncols=2 if longest < 30 else 1, **below)
    figure.savefig(path)


def read_shape(text):
    """Turn BATCHxSIDE or BATCHxHEIGHTxWIDTH into the shape of a batch of images."""
    if not re.fullmatch(r'[1-9]\d*(x[1-9]\d*){1,2}', text):
        raise argparse.ArgumentTypeError(
            f'must be BATCHxSIDE or BATCHxHEIGHTxWIDTH, such as 1x224, got {text!r}'
        )
    batch, *sides = map(int, text.split('x'))
    return batch, 3, sides[0], sides[-1]


def parse_args(argv):
    parser = make_parser(__doc__)
    add = parser.add_argument
    add('networks', metavar='NETWORK', nargs='+', help='config or LIBRARY:NAME')
    add_cfg_options(parser)
    text = f'on a CPU: {", ".join(CPU_RUNTIMES)}; on a GPU: {", ".join(CUDA_RUNTIMES)}'
    default, text = ['torch'], f'{text} (default: torch)'
    add('--runtime', nargs='+', default=default, help=text, metavar='RUNTIME')
    default = [(1, 3, 224, 224)]
    text = 'batch and side, or BATCHxHEIGHTxWIDTH, in pixels (default: 1x224)'
    kwargs = dict(default=default, help=text, metavar='BATCHxSIDE')
    add('--images', nargs='+', type=read_shape, **kwargs)
    text = 'number of threads (default: 1)'
    add('--threads', nargs='+', type=positive_int, default=[1], help=text, metavar='N')
    text = 'timed runs of each network (default: 30)'
    add('--rounds', type=positive_int, default=30, help=text, metavar='N')
    text = 'give all networks the same weights and require equal outputs'
    add('--equal', action='store_true', help=text)
    text = 'time a training step: forward, loss, backward, SGD'
    add('--train', action='store_true', help=text)
    text = 'measure the peak memory of each network in a separate process'
    add('--memory', action='store_true', help=text)
    add('--device', choices=('cpu', 'cuda'), default='cpu', help='default: cpu')
    add('--amp', action='store_true', help='mixed precision, on cuda')
    text = 'draw accuracy over latency, and latency over resolution'
    add('--plot', action='store_true', help=text)
    add_out_dir(parser, 'work_dirs/benchmark', 'folder of tables and plots')
    args = parser.parse_args(argv)
    try:
        names = [split_options(name) for name in args.networks]
    except ValueError as error:
        parser.error(str(error))
    cuda, trainable = args.device == 'cuda', {'torch', 'compiled'}
    given = {option for _, options in names for option in options}
    runtimes = CUDA_RUNTIMES if cuda else CPU_RUNTIMES
    other = [runtime for runtime in args.runtime if runtime not in runtimes]
    allowed = f'--runtime {", ".join(runtimes)}, got {", ".join(map(repr, other))}'
    for wrong, message in (
        (len(set(args.networks)) < len(names), 'the same NETWORK is given twice'),
        (
            args.train and not trainable.issuperset(args.runtime),
            '--train takes --runtime torch and compiled alone',
        ),
        (other, f'--device {args.device} takes {allowed}'),
        (args.amp and not cuda, '--amp takes --device cuda'),
        (args.memory and cuda, '--memory takes --device cpu'),
        (cuda and 'int8' in given, '--device cuda takes no +int8'),
        (cuda and not torch.cuda.is_available(), '--device cuda: torch finds no GPU'),
        (
            args.train and given & {'deploy', 'predictions', 'int8'},
            '--train takes no +deploy, +predictions or +int8, which cannot be trained',
        ),
    ):
        if wrong:
            parser.error(message)
    args.accuracies = read_accuracies() if args.plot else {}
    args.plots = ['benchmark.png'] * any(name in args.accuracies for name, _ in names)
    sizes = {(batch, height * width) for batch, _, height, width in args.images}
    if args.plot and max(Counter(batch for batch, _ in sizes).values()) >= 3:
        args.plots.append('resolution.png')
    if args.plot and not args.plots:
        parser.error(
            '--plot takes a network whose accuracy is known, or three sizes of images'
        )
    return args


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    if args.device == 'cpu':
        for runtime in args.runtime:
            check_runtime(runtime)
    names = ['benchmark.md', 'benchmark.csv', *args.plots]
    require_free([args.out_dir / name for name in names], args.force)

    machine = describe_machine() | {
        name: import_module(name).__version__ for name in LIBRARIES if find_spec(name)
    }
    if args.device == 'cuda':
        machine = {'GPU': torch.cuda.get_device_name()} | machine
    peaks = {}
    if args.device == 'cpu' and not args.train:
        peaks = {threads: measure_peaks(threads) for threads in args.threads}
    for threads, (macs, bandwidth) in peaks.items():
        rates = [bandwidth[size] / 1e9 for size in (min(bandwidth), max(bandwidth))]
        machine[f'peaks of {threads} thread{"s" * (threads > 1)}'] = (
            f'{macs / 1e9:.1f} billion multiply-accumulates a second, {rates[0]:.1f} '
            f'to {rates[1]:.1f} GB/s'
        )
    results = measure_all(args, peaks)
    with written(args.out_dir / names[0]) as path:
        table, exponents = tabulate(results), growth(results)
        write_page(path, args, argv, machine, table, exponents)
        style = dict(float_format='%.5g', lineterminator='\r\n', index=False)
        results.to_csv(path.with_suffix('.csv'), **style)
        if 'benchmark.png' in names:
            draw_accuracy(results, args.accuracies, path.with_name('benchmark.png'))
        if 'resolution.png' in names:
            draw_resolution(results, path.with_name('resolution.png'))
    print('\n'.join([*table, *exponents]))
    print(f'wrote {", ".join(names)} to {args.out_dir}')


if __name__ == '__main__':
    run_tool(main)
