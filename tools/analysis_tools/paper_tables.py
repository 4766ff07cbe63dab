r"""Measure the costs in every table of the GhostNetV2 paper and compare them with it.

Example:
    python tools/analysis_tools/paper_tables.py
    python tools/analysis_tools/paper_tables.py --tables 1 9 --runtime onnxruntime \
        --out-dir work_dirs/paper_tables

The tool builds the network of each row and counts its parameters and FLOPs (multiply-
accumulates of convolutions and linear layers, as the paper does). With --runtime it
also times all networks of Tables 1, 2, 9 and 10 in turn on one image and compares them
with GhostNet V1 as ratios, because the paper's milliseconds are those of a phone.
Accuracies are the paper's. With --out-dir it writes paper_tables.md, paper_tables.csv
and, for Table 2, Figures 1 and 2 as accuracy.png.

A cost is wrong if it differs from the paper's by more than 1.5 % and does not round to
it. paper_tables.yml lists exceptions with their reasons. The exit status is 1 if any
other cost is wrong, or if an exception is not needed.
"""

import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import torch
import yaml

from mmghostnetv2.analysis import (
    build_network,
    build_runner,
    count,
    describe_machine,
    paired_ratios,
    quartiles,
    randomize_norms,
    time_interleaved,
)
from mmghostnetv2.analysis.plotting import FAMILIES, family_of, place_names
from mmghostnetv2.arguments import (
    add_out_dir,
    make_parser,
    named_errors,
    positive_int,
    run_tool,
)
from mmghostnetv2.deployment.runtimes import RUNTIMES, check_runtime
from mmghostnetv2.output import markdown_table, progress, require_free, written

PAPER = Path(__file__).with_suffix('.yml')
TOLERANCE = 0.015
COSTS = {'params': 'parameters, M', 'flops': 'FLOPs, M'}
ACCURACIES = {'top1': 'top-1', 'top5': 'top-5', 'mIoU': 'mIoU'} | {
    key: key for key in ('AP', 'AP50', 'AP75', 'APS', 'APM', 'APL')
}
TIMED = (1, 2, 9, 10)
# GhostNet V1, with its latency in Table 1, because Tables 9 and 10 do not have it.
REFERENCE, REFERENCE_MS = 'ghostnet_100_in1k', 31.1


def build(row: dict):
    """Build a row's network, without weights."""
    if 'options' not in row:
        return build_network(row['network'])
    source, _, name = row['network'].rpartition(':')
    if source == 'mmpretrain':
        from mmpretrain import get_model

        return get_model(name, **row['options'])
    # timm has no model of this width by name.
    return getattr(import_module(source), name)(**row['options']).eval()


def key(row: dict) -> str:
    """Return a name for a row's network, the same for all rows of that network."""
    return f'{row["network"]} {row.get("options", "")}'.strip()


def deviates(cost: float, paper: float) -> bool:
    """Return whether a cost exceeds the tolerance and does not round to the paper's."""
    digits = len(str(paper).partition('.')[2])
    return abs(cost / paper - 1) > TOLERANCE and round(cost, digits) != paper


def read_rows(numbers) -> list[dict]:
    """Read the rows of some tables of the paper, each with its table's number."""
    tables = yaml.safe_load(PAPER.read_text(encoding='utf-8'))
    return [
        {'table': table['table'], 'title': table['title'], 'size': 224} | row
        for table in tables
        if table['table'] in numbers
        for row in table['rows']
    ]


def measure_costs(rows: list[dict]) -> list[str]:
    """Add ``params_measured`` and ``flops_measured``, both in millions, to rows.

    Rows without a network are left as they are. The wrong costs are returned.
    """
    faults, known = [], {}
    for row in progress(rows, 'parameters and FLOPs'):
        if 'network' not in row:
            continue
        network = key(row), row['size']
        if network not in known:
            known[network] = [n / 1e6 for n in count(build(row), row['size'])]
        for cost, value in zip(COSTS, known[network], strict=True):
            row[f'{cost}_measured'] = value
            excepted = cost in row.get('exceptions', {})
            wrong = cost in row and deviates(value, row[cost])
            if wrong != excepted:
                where = f'Table {row["table"]}, {row["model"]}'
                why = ', which needs no exception' if excepted else ''
                faults.append(
                    f'{where}: {value:.3f} M {cost}, paper {row.get(cost)} M{why}'
                )
    return faults


def measure_latencies(rows: list[dict], runtimes, threads: int, rounds: int) -> None:
    """Add ``RUNTIME_ms`` and ``RUNTIME_ratio`` to the rows of timed tables."""
    rows = [row for row in rows if row['table'] in TIMED and 'network' in row]
    networks = {key(row): row for row in [{'network': REFERENCE}, *rows]}
    for runtime in runtimes:
        with tempfile.TemporaryDirectory() as folder:
            runners = {}
            for name, row in progress(networks.items(), f'{runtime}, export'):
                torch.manual_seed(0)
                network = randomize_norms(build(row))
                path = Path(folder, re.sub(r'\W+', '_', name))
                with named_errors(name):
                    runners[name], _ = build_runner(
                        network, (1, 3, 224, 224), runtime, threads, path
                    )
            times = time_interleaved(runners, rounds)
        ratios = paired_ratios(times, REFERENCE)
        for row in rows:
            row[f'{runtime}_ms'] = 1e3 * quartiles(times[key(row)]).median
            row[f'{runtime}_ratio'] = ratios[key(row)].median


def show(value, form: str = '') -> str:
    return '' if value is None else format(value, form)


def cells(row: dict, names: set[str], runtimes) -> Iterator[tuple[str, str]]:
    """Yield the title and the text of each cell; ``names`` are its table's keys."""
    yield 'model', row['model']
    for cost, title in COSTS.items():
        paper, ours = row.get(cost), row.get(f'{cost}_measured')
        difference = show(ours / paper - 1, '+.1%') if paper and ours else ''
        if cost in row.get('exceptions', {}):
            difference += f' ({row["exceptions"][cost]})'
        yield f'{title}: paper', show(paper)
        yield 'measured', show(ours, '.3f')
        yield 'difference', difference
    for name, title in ACCURACIES.items():
        if name in names:
            yield f'{title}, paper', show(row.get(name))
    if 'latency' in names:
        yield 'latency, paper', f'{row["latency"]} ms'
        yield 'to V1, paper', f'{row["latency"] / REFERENCE_MS:.2f}'
    for runtime in runtimes if row['table'] in TIMED else ():
        yield f'{runtime}, ms', show(row.get(f'{runtime}_ms'), '.2f')
        yield 'to V1, measured', show(row.get(f'{runtime}_ratio'), '.2f')
    yield 'network', row.get('config') or row.get('network', 'cited')


def to_markdown(rows: list[dict], runtimes) -> str:
    text = ''
    for number in dict.fromkeys(row['table'] for row in rows):
        members = [row for row in rows if row['table'] == number]
        names, lines = set().union(*members), []
        for row in members:
            header, line = zip(*cells(row, names, runtimes), strict=True)
            lines.append(line)
        text += f'\n## Table {number}: {row["title"]}\n\n'
        text += '\n'.join(markdown_table([header, *lines])) + '\n'
    return text


def write_csv(path: Path, rows: list[dict], runtimes) -> None:
    """Write all tables into one file, with plain numbers."""
    import pandas as pd

    paper = [*COSTS, *ACCURACIES, 'latency']
    measured = [f'{name}_measured' for name in COSTS]
    measured += [f'{name}_{what}' for name in runtimes for what in ('ms', 'ratio')]
    columns = ['table', 'model', 'network', 'config', 'size', *paper, *measured]
    # The type object leaves the paper's numbers as they are printed there.
    table = pd.DataFrame(rows, columns=columns, dtype=object)
    table[measured] = table[measured].astype(float)
    table = table.rename(columns={name: f'{name}_paper' for name in paper})
    table.to_csv(path, float_format='%.4f', lineterminator='\r\n', index=False)


def plot_accuracy(path: Path, rows: list[dict], runtimes) -> None:
    """Draw Figure 1 and, with latencies, Figure 2 from the rows of Table 2."""
    import pandas as pd
    from matplotlib.figure import Figure

    table = pd.DataFrame(row for row in rows if row['table'] == 2)
    cited = table[table.network.isna()].sort_values('top1', kind='stable')
    measured = table.dropna(subset='network')
    families = measured.groupby(measured.model.str.split().str[0], sort=False)
    panels = [('FLOPs', 'FLOPs, millions', 'flops_measured')]
    for name in runtimes[:1]:
        panels += [('latency', f'latency in {name}, ms', f'{name}_ms')]
    # A page shows it 700 pixels wide, a panel below the other.
    size = 7, 5.8 * len(panels)
    figure = Figure(size, dpi=200, layout='constrained')
    names = []
    for i, (what, label, x) in enumerate(panels, 1):
        axes = figure.add_subplot(len(panels), 1, i)
        names.append([])
        for name, members in families:
            family = family_of(name)
            color, marker = FAMILIES[family]
            style = dict(color=color, marker=marker, markersize=5, linewidth=1)
            if family != 'others':
                style |= dict(linewidth=2.5, markersize=7, zorder=3, label=name)
            axes.plot(members[x], members.top1, **style)
            if family == 'others':
                largest = members.loc[members.top1.idxmax()]
                names[-1].append((largest[x], largest.top1, name))
        if i == 1:
            style = dict(color='black', ls='', marker='x', zorder=4)
            axes.plot(cited.flops, cited.top1, **style, label="the paper's FLOPs")
            names[0] += cited[['flops', 'top1', 'model']].itertuples(index=False)
        axes.set(xlabel=label, ylabel="the paper's ImageNet top-1, %")
        axes.set_title(f'Accuracy over {what} (Figure {i} of the paper)')
        axes.margins(0.12, 0.06)  # makes room for the names
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9, loc='lower right')
    for axes, texts in zip(figure.axes, names, strict=True):
        place_names(axes, texts, '0.2')
    figure.savefig(path)


def main(argv=None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = make_parser(__doc__)
    add = parser.add_argument
    numbers, text = [*range(1, 11)], 'tables of the paper (default: 1 to 10)'
    kwargs = dict(choices=numbers, default=numbers, metavar='N', help=text)
    add('--tables', type=int, nargs='+', **kwargs)
    runtimes, text = [r for r in RUNTIMES if RUNTIMES[r].runs], 'time with these'
    add('--runtime', nargs='+', choices=runtimes, default=[], help=text)
    text = 'number of threads (default: 1)'
    add('--threads', type=positive_int, default=1, metavar='N', help=text)
    text = 'timed runs of each network (default: 50)'
    add('--rounds', type=positive_int, default=50, metavar='N', help=text)
    add_out_dir(parser, None, 'folder to write to')
    args = parser.parse_args(argv)
    for runtime in args.runtime:
        check_runtime(runtime)
    names = ['paper_tables.md', 'paper_tables.csv']
    names += ['accuracy.png'] * (2 in args.tables)
    if args.out_dir:
        require_free([args.out_dir / name for name in names], args.force)

    rows = read_rows(args.tables)
    faults = measure_costs(rows)
    note = f'Written by `paper_tables.py {shlex.join(argv)}`.'
    if args.runtime:
        measure_latencies(rows, args.runtime, args.threads, args.rounds)
        machine = ', '.join(' '.join(item) for item in describe_machine().items())
        note += (
            f' Latencies are medians of {args.rounds} interleaved runs of one image, '
            f'{args.threads} thread(s); ratios are medians over the runs. Machine: '
            f'{machine}'
        )
    text = to_markdown(rows, args.runtime)
    print(text)
    if args.out_dir:
        with written(args.out_dir / names[0]) as path:
            page = f'# The tables of the paper\n\n{note}\n{text}'
            path.write_text(page, encoding='utf-8')
            write_csv(path.with_suffix('.csv'), rows, args.runtime)
            if 2 in args.tables:
                plot_accuracy(path.with_name(names[2]), rows, args.runtime)
        print(f'wrote {", ".join(names)} to {args.out_dir}')
    for fault in faults:
        print(f'error: {fault}', file=sys.stderr)
    return 1 if faults else 0


if __name__ == '__main__':
    run_tool(main)
