"""tools/analysis_tools/benchmark.py: equality, ratios, tables, plot."""

import csv
import re

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from mmghostnetv2.analysis import Peaks, build_network, count, layer_costs
from mmghostnetv2.analysis.networks import apply_options
from mmghostnetv2.analysis.plotting import FAMILIES, family_of, place_names

from ..conftest import ROOT
from .conftest import load_tool

pytest.importorskip('mmpretrain', reason='has the networks')
timm = pytest.importorskip('timm', reason='has the networks')

TOOL = ROOT / 'tools' / 'analysis_tools' / 'benchmark.py'
OURS, THEIRS = 'ghostnetv2_100_in1k', 'timm:ghostnetv2_100'
DEPLOY = f'{OURS}+deploy+channels_last'


@pytest.fixture(scope='module')
def tool():
    return load_tool(TOOL)


@pytest.fixture
def run(tool, tmp_path, capsys):
    """Run the tool; return its table's rows as lists of cells."""

    def main(*argv):
        tool.main([*argv, '--out-dir', str(tmp_path), '--force'])
        text = (tmp_path / 'benchmark.md').read_text()
        rows = [
            [cell.strip() for cell in line.strip('|').split('|')]
            for line in text.partition('Growth')[0].splitlines()
            if line.startswith('|')
        ]
        assert '\n'.join(line for line in text.splitlines() if line[:1] == '|') in (
            capsys.readouterr().out
        )
        return rows[0], rows[2:]

    return main


def read_csv(folder):
    with (folder / 'benchmark.csv').open(newline='') as file:
        return list(csv.DictReader(file))


def fail(tool, tmp_path, *argv):
    """Run the tool in vain; return the reason. It leaves no folder."""
    out = tmp_path / 'nothing' / 'new'
    with pytest.raises((RuntimeError, ValueError, SystemExit)) as info:
        tool.main([*argv, '--out-dir', str(out)])
    assert not out.parent.exists()
    return str(info.value)


def test_tables(run, tool, monkeypatch, tmp_path):
    """Milliseconds, ratios within a round and images a second, in all settings."""
    rounds = {THEIRS: [0.1, 0.2, 0.4], DEPLOY: [0.04, 0.1, 0.1]}
    timed = []

    def fake(runners, number):
        assert number == 3
        timed.append(
            [list(runners), [runner()[0].shape for runner in runners.values()]]
        )
        return {name: rounds[name] for name in runners}

    monkeypatch.setattr(tool, 'time_interleaved', fake)
    # A copy is so slow that only it counts: a byte takes 1 ns, 2 ns with two threads.
    monkeypatch.setattr(
        tool, 'measure_peaks', lambda threads: Peaks(1e20, {1: 1e9 / threads})
    )
    argv = f'--equal {THEIRS} {DEPLOY} --images 1x64 4x64x96 --threads 1 2 --rounds 3'
    header, rows = run(*argv.split())
    assert timed == [[[THEIRS, DEPLOY], [(batch, 1000)] * 2] for batch in (1, 1, 4, 4)]
    assert header[-1] == 'images/s'
    settings = [('1', '1x64x64'), ('2', '1x64x64'), ('1', '4x64x96'), ('2', '4x64x96')]
    assert [(row[1], row[2]) for row in rows[::2]] == settings
    lines = read_csv(tmp_path)
    limit, (_, twice) = rows[4][8:10], rows[6][8:10]
    images, peaks = torch.rand(4, 3, 64, 96), Peaks(1e20, {1: 1e9})
    theirs = build_network(THEIRS)
    expected = 1e3 * peaks.lower_bound(layer_costs(theirs, images))
    assert float(limit[0]) == pytest.approx(expected, abs=0.01)
    # mmengine counts them, too; folded norms have no parameters
    ours = apply_options(build_network(DEPLOY), DEPLOY)
    sizes = [
        [f'{number / 1e6:.2f}' for number in count(network, (64, 96))]
        for network in (theirs, ours)
    ]
    assert float(limit[1]) == pytest.approx(200 / float(limit[0]), abs=0.01)
    assert float(twice) == pytest.approx(float(limit[1]) / 2, abs=0.01)
    assert rows[4][3:] == [
        THEIRS, *sizes[0], '200.00 (150.00 to 300.00)', '1.000 (1.000 to 1.000)',
        *limit, '20.00',
    ]  # fmt: skip
    # the ratio is the median of 0.4, 0.5 and 0.25, not the medians' ratio 0.5
    assert rows[5][3:] == [
        DEPLOY, *sizes[1], '100.00 (70.00 to 100.00)', '0.400 (0.325 to 0.450)',
        limit[0], f'{100 / float(lines[4]["limit"]):.2f}', '40.00',
    ]  # fmt: skip
    assert len(lines) == 8
    assert lines[5] == {
        'runtime': 'torch',
        'threads': '1',
        'images': '4x64x96',
        'network': DEPLOY,
        'milliseconds_lower': '70',
        'milliseconds_median': '100',
        'milliseconds_upper': '100',
        'ratio_lower': '0.325',
        'ratio_median': '0.4',
        'ratio_upper': '0.45',
        'added': '-100',
        'per_second': '40',
        'megabytes': '',
        'limit': lines[4]['limit'],
        'parameters': lines[5]['parameters'],
        'flops': lines[5]['flops'],
    }
    text = (tmp_path / 'benchmark.md').read_text()
    assert f'- `python tools/analysis_tools/benchmark.py {argv} --out-dir' in text
    assert f'- torch: {torch.__version__.split("+")[0]}' in text
    assert f'- timm: {timm.__version__}\n' in text
    assert '- inference on cpu, 3 rounds' in text
    assert '- peaks of 2 threads: 100000000000.0 billion' in text


def result(network, images, milliseconds, added=0.0, megabytes=None, threads=1):
    """One row of results, with the columns that plots and fits read."""
    setting = dict(runtime='torch', threads=threads, images=images, network=network)
    return setting | dict(
        milliseconds_median=milliseconds, added=added, megabytes=megabytes
    )


def test_growth(tool):
    """Of milliseconds, those added, and memory, where sizes differ."""

    def growth(*rows):
        return tool.growth(pd.DataFrame(rows))

    sizes = [(10, 2.0, 5.0), (20, 32.0, 10.0), (40, 512.0, 20.0)]
    results = [result('a', f'1x{s}x{s}', ms, ms**2, mb) for s, ms, mb in sizes]
    assert growth(*results)[-1] == '| torch | 1 | 1 | a | 2.00 | 4.00 | 0.50 |'
    # other sides of as many pixels count, too, but not as more sizes
    wide = result('a', '1x20x80', 128.0, 128.0**2, 20.0)
    rows = [growth(*results, wide)[-1], growth(wide, *results)[-1]]
    assert rows == ['| torch | 1 | 1 | a | 1.73 | 3.45 | 0.50 |'] * 2
    assert growth(*results[1:], wide) == []
    # another batch is another curve
    assert growth(*results[:2], results[2] | dict(images='2x40x40')) == []
    # nothing is added to the first network itself
    results = [r | dict(megabytes=None, added=0.0) for r in results]
    assert growth(*results)[0].endswith('| exponent of ms | of added ms |')
    assert growth(*results)[-1] == '| torch | 1 | 1 | a | 2.00 |  |'


def test_memory(run, tmp_path):
    argv = ['--images', '1x96', '--rounds', '2', '--memory']
    header, rows = run(OURS, f'{OURS}+backbone', *argv)
    assert header[-1] == 'peak memory, MB'
    classifier, backbone = (float(row['megabytes']) for row in read_csv(tmp_path))
    assert [row[-1] for row in rows] == [f'{classifier:.1f}', f'{backbone:.1f}']
    # the classifier has 6.2 million weights, 2.5 of them in its head
    assert classifier > 6.2 * 4 and classifier > backbone > 3.6 * 4


def test_plots(run, tmp_path):
    sizes = ['--images', '1x32', '1x64', '1x96', '--rounds', '1', '--plot']
    run(OURS, 'timm:mobilenetv3_large_100', *sizes)
    assert Image.open(tmp_path / 'benchmark.png').size == (1300, 3300)
    assert Image.open(tmp_path / 'resolution.png').size == (1300, 1100)


def test_training_steps(run, tool, tmp_path):
    """TIMMBackbone and ours train alike; another network of the same weights not."""
    names = 'TIMMBackbone:ghostnetv2_100', f'{OURS}+backbone+channels_last'
    argv = ['--train', '--images', '2x64', '--rounds', '1']
    taps = ['--cfg-options', 'model.backbone.out_indices=(1, 3, 5, 7)']
    _, rows = run('--equal', *names, *argv, *taps)
    assert [row[3] for row in rows] == [*names]
    text = (tmp_path / 'benchmark.md').read_text()
    assert '- a training step on cpu, 1 rounds' in text
    names = OURS, 'table9_hard_sigmoid_before_in1k'
    message = fail(tool, tmp_path, '--equal', *names, *argv)
    assert message.startswith(f'{names[1]} does not compute what {names[0]}')


def test_other_networks_are_not_equal(tool, tmp_path):
    argv = ['--images', '1x64', '--equal', OURS]
    message = fail(tool, tmp_path, *argv, 'table9_hard_sigmoid_before_in1k')
    assert (
        f'table9_hard_sigmoid_before_in1k does not compute what {OURS} does' in message
    )
    message = fail(tool, tmp_path, *argv, 'ghostnet_100_in1k')
    assert 'do not fit a network of' in message


def test_options_that_change_outputs_are_an_error(tool, tmp_path, monkeypatch):
    class Wrong(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network(x) * 1.001

    monkeypatch.setattr(tool, 'apply_options', lambda network, name: Wrong(network))
    message = fail(tool, tmp_path, OURS, '--images', '1x64')
    assert message.startswith(f'{OURS}: RuntimeError: output 0 of torch differs')


def test_accuracies_are_named_by_source(tool):
    found = tool.read_accuracies()
    assert found[OURS] == found[THEIRS] == {'paper': 75.3, 'timm': 75.186}
    assert found['ghostnetv2_160_in1k'] == {'paper': 77.8, 'timm': 77.836}
    assert found['ghostnet_100_in1k'] == {'paper': 73.9}
    assert found['timm:mobilenetv3_large_075'] == {'paper': 73.3}
    assert 'yolov3_ghostnetv2_320' not in found


def test_plot_has_a_point_for_each_accuracy(tool, monkeypatch, tmp_path):
    """At its latency: filled the paper's, hollow timm's; in the setting's panel."""
    figures = []

    class Recorded(Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            figures.append(self)

    monkeypatch.setattr('matplotlib.figure.Figure', Recorded)
    results = pd.DataFrame(
        result(network, '1x64x64', ms, threads=threads)
        for network, threads, ms in [(DEPLOY, 1, 3), ('timm:a', 1, 4), (THEIRS, 2, 5)]
    )
    tool.draw_accuracy(results, tool.read_accuracies(), tmp_path / 'a.png')
    points = [
        [
            (*np.ravel(line.get_data()), line.get_markerfacecolor())
            for line in axes.lines
            if len(line.get_xdata())
        ]
        for axes in figures[0].axes
    ]
    blue = '#0072b2'
    assert points == [
        [(3, 75.3, blue), (3, 75.186, 'white')],
        [(5, 75.3, blue), (5, 75.186, 'white')],
    ]
    names = [[text.get_text() for text in axes.texts] for axes in figures[0].axes]
    assert names == [[DEPLOY], [THEIRS]]
    labels = [text.get_text() for text in figures[0].legends[0].get_texts()]
    accuracies = ["the paper's accuracy", "timm's accuracy"]
    assert labels == ['GhostNetV2', 'others', *accuracies]
    assert Image.open(tmp_path / 'a.png').size == (1300, 2200)


@pytest.mark.parametrize(
    ('name', 'family'),
    [
        ('ghostnet_110_in1k', 'GhostNetV1'),
        ('GhostNetV1 1.1x', 'GhostNetV1'),
        ('timm:ghostnet_100', 'GhostNetV1'),
        ('yolov3_ghostnetv2_320+deploy', 'GhostNetV2'),
        ('timm:ghostnetv3_100', 'GhostNetV3'),
        ('timm:mobilenetv2_100', 'others'),
    ],
)
def test_family(name, family):
    """The versions are told apart in plots, by colour and by marker."""
    assert family_of(name) == family


def test_families_are_told_apart_without_colour():
    assert len({marker for _, marker in FAMILIES.values()}) == len(FAMILIES)


def test_names_cover_nothing():
    """Not each other, points, lines or the legend, even of points that lie close."""
    rng = np.random.default_rng(0)
    figure = Figure(dpi=110, layout='constrained')
    panel = figure.subplots()
    points = [(1, 1), (1, 1.01), (1.01, 1), (0, 0), (3, 3), *rng.uniform(0, 3, (9, 2))]
    for x, y in points:
        panel.plot(x, y, 'o', label='a' if x == 3 else None)
    panel.plot([1, 2.9], [1, 1.02])
    panel.legend(loc='upper left')
    names = [(x, y, f'network number {i}') for i, (x, y) in enumerate(points)]
    place_names(panel, names)
    figure.canvas.draw()
    texts = [text for text in panel.texts if text.get_text()]
    assert [text.get_text() for text in texts] == [name for *_, name in names]
    boxes = [text.get_window_extent() for text in texts]
    obstacles = [*boxes, panel.get_legend().get_window_extent()]
    line = np.linspace((1, 1), (2.9, 1.02), 999)
    for box in boxes:
        assert sum(box.overlaps(other) for other in obstacles) == 1  # itself
        free = panel.transData.transform([*points, *line])
        assert not any(box.contains(*p) for p in free)
        for corner in (box.min, box.max):
            assert panel.get_window_extent().contains(*corner)
    # near its point, or tied to it by a line
    ends = [text.xy for text in panel.texts if not text.get_text()]
    for box, point in zip(boxes, points, strict=True):
        x, y = panel.transData.transform(point)
        nearest = np.clip((x, y), box.min, box.max)
        assert np.hypot(*(nearest - (x, y))) < 15 or tuple(point) in map(tuple, ends)


def test_plot_of_latency_over_resolution(tool, monkeypatch, tmp_path):
    """Medians are points on fitted lines; the time added to the first is dashed."""
    figures = []

    class Recorded(Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            figures.append(self)

    monkeypatch.setattr('matplotlib.figure.Figure', Recorded)
    sides, results = np.array([64, 128, 256]), []
    pixels = (sides / 64) ** 2
    first, added = 2 * pixels**1.1, pixels**0.9
    for side, base, more in zip(sides, first, added, strict=True):
        for name, ms, extra in ((OURS, base, 0), (THEIRS, base + more, more)):
            results.append(result(name, f'1x{side}x{side}', ms, extra))
    tool.draw_resolution(pd.DataFrame(results), tmp_path / 'a.png')
    (axes,) = figures[0].axes
    assert axes.get_xscale() == axes.get_yscale() == 'log'
    assert axes.get_title() == 'Latency over resolution in torch, 1 thread, batch of 1'
    drawn = {line.get_label(): line for line in axes.lines}
    one, dashed = (
        drawn[f'{OURS}: pixels$^{{1.10}}$'],
        drawn[f'{THEIRS}, added: pixels$^{{0.90}}$'],
    )
    assert (one.get_linestyle(), dashed.get_linestyle()) == ('-', '--')
    for line, expected in ((one, first), (dashed, added)):
        points = axes.lines[list(axes.lines).index(line) + 1]
        for curve in (line, points):
            np.testing.assert_allclose(curve.get_xdata(), sides)
            np.testing.assert_allclose(curve.get_ydata(), expected, rtol=1e-6)
    assert len([label for label in drawn if 'pixels' in label]) == 3
    # the legend covers no curve, and ticks are plain numbers
    legend, inside = axes.get_legend().get_window_extent(), axes.get_window_extent()
    assert legend.ymin > 0 and not legend.overlaps(inside)
    ticks = {text.get_text() for text in axes.get_yticklabels(which='both')} - {''}
    assert {'2', '5', '10', '20'} <= ticks and all(map(float, ticks))


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        ('a a', 'the same NETWORK is given twice'),
        (
            'a+b',
            "an option is one of backbone, predictions, deploy, .*, got 'b'",
        ),
        ('a --images 224', "must be BATCHxSIDE or .*, got '224'"),
        ('a --images 1x0', "must be BATCHxSIDE or .*, got '1x0'"),
        ('a --images 1x2x3x4', "must be BATCHxSIDE or .*, got '1x2x3x4'"),
        ('a --threads 0', 'must be a whole number of at least 1, got 0'),
        ('a --runtime tvm', "--device cpu takes --runtime onnx.*, got 'tvm'"),
        ('a --runtime cudagraph', "--device cpu takes --runtime .*, got 'cudagraph'"),
        (
            'a --device cuda --runtime ncnn',
            "--device cuda takes --runtime torch, compiled, cudagraph, got 'ncnn'",
        ),
        (
            'a --runtime compiled onnxruntime --train',
            '--train takes --runtime torch and compiled alone',
        ),
        ('a+deploy --train', r'--train takes no \+deploy, \+predictions or \+int8'),
        ('a+predictions --train', r'--train takes no \+deploy, \+predictions or'),
        ('a+int8 --train', r'--train takes no \+deploy, \+predictions or \+int8'),
        ('a+int8 --device cuda', r'--device cuda takes no \+int8'),
        ('timm:a --plot', '--plot takes a network whose accuracy is known, or three'),
        ('a --amp', '--amp takes --device cuda'),
        ('a --device cuda', '--device cuda: torch finds no GPU'),
        ('a --device cuda --memory', '--memory takes --device cpu'),
    ],
)
def test_bad_arguments_are_named(tool, capsys, tmp_path, monkeypatch, argv, message):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    fail(tool, tmp_path, *argv.split())
    assert re.search(message, capsys.readouterr().err)


def test_unknown_network(tool, tmp_path):
    message = fail(tool, tmp_path, 'ghostnetv2_100_in')
    expected = "ghostnetv2_100_in: ValueError: no config is named 'ghostnetv2_100_in'"
    assert message.startswith(expected)


def test_images_of_a_wrong_size(tool, tmp_path):
    """As they are given, not as the network meets them."""
    name = 'yolov3_ghostnetv2_320_digits'
    message = fail(tool, tmp_path, name, '--images', '1x33')
    assert message.startswith(f'{name}, images of (1, 3, 33, 33): RuntimeError: ')
