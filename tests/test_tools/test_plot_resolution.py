"""tools/analysis_tools/plot_resolution.py: exponents, tables, plot."""

import csv
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mmghostnetv2.analysis import latency
from mmghostnetv2.deployment import runtimes

from ..conftest import ROOT
from .conftest import load_tool

TOOL = ROOT / 'tools' / 'analysis_tools' / 'plot_resolution.py'
GREY, ORANGE, BLUE = (110, 110, 120), (224, 123, 0), (30, 110, 255)


@pytest.fixture
def tool():
    return load_tool(TOOL)


@pytest.fixture
def fake(tool, monkeypatch):
    """Instead of the networks, milliseconds by a formula on a clock of their own."""
    state = SimpleNamespace(
        now=0.0,
        built=[],
        # of the number of pixels, over that of 64 x 64
        milliseconds={
            'GhostNet': lambda n: 2 * n**1.1,
            'GhostNetV2': lambda n: 2 * n**1.1 + n**0.9,
            'GhostNetSelfAttention': lambda n: 2 * n**1.1 + 3 * n**2,
        },
    )

    def build_runner(network, shape, runtime, threads, folder):
        name = type(network).__name__
        state.built.append((name, shape, runtime, threads))
        assert shape[:2] == (1, 3) and shape[2] == shape[3]
        assert network.bn1.running_mean.any()  # its norms are not those of the start
        seconds = 1e-3 * state.milliseconds[name](shape[2] ** 2 / 4096)

        def run():
            state.now += seconds

        return run

    monkeypatch.setattr(tool, 'build_runner', build_runner)
    monkeypatch.setattr(latency, 'perf_counter', lambda: state.now)
    return state


def exponents(text):
    """Read the second table: {latency: (exponent, sizes)}."""
    rows = re.findall(r'^\| ([^|]+) \| (-?[\d.]+|nan) \| ([\d, ]*) \|$', text, re.M)
    return {name: (exponent, sizes) for name, exponent, sizes in rows}


def test_fit_finds_the_power(tool):
    points = [(side, 0.003 * (side**2) ** 1.7) for side in (64, 100, 333)]
    assert tool.fit(points) == pytest.approx((1.7, 0.003))
    # least squares on logarithms: the middle one of three sides has no leverage
    points = [(10, 1), (100, 7), (1000, 100)]
    assert tool.fit(points)[0] == pytest.approx(0.5)
    assert np.isnan(tool.fit(points[:1])).all() and np.isnan(tool.fit([])).all()


def test_an_attention_alone_is_a_difference_within_the_round(tool):
    seconds = {
        'GhostNet': [1, 5, 3],
        '+ DFC attention': [6, 5.5, 3.25],
        '+ self-attention': [2, 7, 7],
    }
    assert tool.medians({64: seconds, 99: seconds}) == {
        'GhostNet': [3000] * 2,
        '+ DFC attention': [5500] * 2,
        '+ self-attention': [7000] * 2,
        'DFC attention alone': [500] * 2,
        'self-attention alone': [2000] * 2,
    }


def test_tables(tool, fake, tmp_path, capsys):
    options = '--sizes 256 64 128 --runtime torch --threads 2 --rounds 4'
    options = options.split()
    tool.main([*options, '--out-dir', str(tmp_path / 'new')])
    assert fake.built == [
        (name, (1, 3, size, size), 'torch', 2)
        for size in (64, 128, 256)
        for name in ('GhostNet', 'GhostNetV2', 'GhostNetSelfAttention')
    ]
    text = (tmp_path / 'new' / 'resolution.md').read_text()
    assert (
        '| 64 | 2.00 (2.00 to 2.00) | 3.00 (3.00 to 3.00) | 5.00 (5.00 to 5.00) '
        '| 1.500 (1.500 to 1.500) | 2.500 (2.500 to 2.500) |\n'
    ) in text
    found, everywhere = exponents(text), '64, 128, 256'
    assert found['GhostNet'] == ('1.10', everywhere)
    assert found['DFC attention alone'] == ('0.90', everywhere)
    assert found['self-attention alone'] == ('2.00', everywhere)
    assert 0.9 < float(found['+ DFC attention'][0]) < 1.1
    assert 1.1 < float(found['+ self-attention'][0]) < 2
    assert text.endswith(
        capsys.readouterr().out.split('rounds\n')[-1].split('written')[0]
    )

    comments, rows = [], []
    for line in (tmp_path / 'new' / 'resolution.csv').read_text().splitlines():
        (comments if line.startswith('# ') else rows).append(line)
    rows = [*csv.DictReader(rows)]
    assert len(rows) == 3 * 3 * 4
    assert {row['round'] for row in rows} == {*'0123'}
    for row in rows:
        if row['network'] == 'GhostNet':
            expected = fake.milliseconds['GhostNet'](int(row['size']) ** 2 / 4096)
            assert float(row['milliseconds']) == pytest.approx(expected, rel=1e-3)
    for head in (text, '\n'.join(comments)):  # where the numbers are from
        assert f'{TOOL.relative_to(ROOT)} {" ".join(options)} --out-dir' in head
        assert 'torch, 2 thread(s), batch of one, 4 rounds' in head
        for key, value in latency.describe_machine().items():
            assert f'{key}: {value}' in head


def test_a_difference_lost_in_noise_is_left_out(tool, fake, tmp_path):
    base = fake.milliseconds['GhostNet']
    fake.milliseconds['GhostNetV2'] = lambda n: base(n) + (n if n > 1 else -0.5)
    fake.milliseconds['GhostNetSelfAttention'] = lambda n: base(n) - 0.5
    options = ['--sizes', '64', '128', '256', '--rounds', '2']
    tool.main([*options, '--out-dir', str(tmp_path)])
    found = exponents((tmp_path / 'resolution.md').read_text())
    assert found['DFC attention alone'] == ('1.00', '128, 256')
    assert found['self-attention alone'] == ('nan', '')
    assert (tmp_path / 'resolution.png').is_file()


def test_plot(tool, fake, tmp_path, monkeypatch):
    """Medians as points on straight lines of their colour, both axes logarithmic."""
    figure = tool.Figure(figsize=(8, 5), layout='constrained')
    monkeypatch.setattr(tool, 'Figure', lambda **options: figure)
    options = ['--sizes', '64', '128', '256', '--rounds', '2']
    tool.main([*options, '--out-dir', str(tmp_path)])
    (axes,) = figure.axes
    assert axes.get_xscale() == axes.get_yscale() == 'log'
    assert 'pixels' in axes.get_xlabel() and axes.get_ylabel() == 'latency, ms'
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert 'DFC attention alone: pixels$^{0.90}$' in labels and len(labels) == 5
    points, lines = axes.lines[::2], axes.lines[1::2]
    n = np.array([1, 4, 16])
    for index, expected in ((0, 2 * n**1.1), (3, n**0.9), (4, 3 * n**2)):
        for line in (points[index], lines[index]):
            np.testing.assert_allclose(line.get_xdata(), [64, 128, 256])
            np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-6)
    np.testing.assert_allclose(points[2].get_ydata(), 2 * n**1.1 + 3 * n**2)
    # a network's curve from its attention's, which has the same colour
    assert [line.get_linestyle() for line in lines] == [*'---', '--', '--']
    assert [point.get_markerfacecolor() == 'white' for point in points] == (
        [False] * 3 + [True] * 2
    )
    picture = np.asarray(Image.open(tmp_path / 'resolution.png').convert('RGB'))
    for colour in (GREY, ORANGE, BLUE):
        assert (picture == colour).all(-1).sum() > 500


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ('--sizes 64', 'argument --sizes: a fit takes two'),
        ('--sizes 64 64', 'argument --sizes: a fit takes two'),
        ('--sizes 64 0', 'argument --sizes: must be at least 1, got 0'),
        ('--sizes 64 large', 'argument --sizes: .*large'),
        ('--rounds 0', 'argument --rounds: must be at least 1, got 0'),
        ('--threads -1', 'argument --threads: must be at least 1, got -1'),
        ('--runtime tvm', 'argument --runtime: .*tvm.*onnxruntime.*torch.*litert'),
        ('--runtime litert', 'argument --runtime: .*pip install ai-edge-litert'),
        ('--out-dir file', 'argument --out-dir: .*file'),
    ],
)
def test_bad_arguments_are_named(
    tool, fake, tmp_path, monkeypatch, capsys, options, message
):
    """Before anything is timed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').touch()
    monkeypatch.setattr(runtimes, 'find_spec', lambda name: 'litert' not in name)
    with pytest.raises(SystemExit):
        tool.main(['--runtime', 'torch', *options.split()])
    assert re.search(message, capsys.readouterr().err)
    assert not fake.built


def test_runs_as_a_command(tmp_path):
    """All of it, with the networks themselves."""
    options = ['--runtime', 'torch', '--sizes', '32', '64', '--rounds', '2']
    done = subprocess.run(
        [sys.executable, str(TOOL), *options, '--out-dir', str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f'written: {tmp_path / "resolution.md"}' in done.stdout
    text = (tmp_path / 'resolution.csv').read_text()
    rows = [*csv.DictReader(line for line in text.splitlines() if line[0] != '#')]
    assert len(rows) == 2 * 3 * 2
    assert all(float(row['milliseconds']) > 0 for row in rows)
    assert len(exponents((tmp_path / 'resolution.md').read_text())) == 5
    assert Image.open(tmp_path / 'resolution.png').size == (1200, 825)
