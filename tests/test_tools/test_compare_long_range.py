"""tools/analysis_tools/compare_long_range.py: logs, statistics, costs, a short run."""

import csv
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmghostnetv2.forks import mim_package

from ..conftest import ROOT
from .conftest import load_tool

pytest.importorskip('mmpretrain', reason='needs mmpretrain')
pytest.importorskip('mim', reason='needs openmim')
pytest.importorskip('sklearn', reason='needs scikit-learn')
stats = pytest.importorskip('scipy.stats')

TOOL = ROOT / 'tools' / 'analysis_tools' / 'compare_long_range.py'
MMPRETRAIN = mim_package('mmpretrain')
V1, V2 = 'ghostnet_110_pairs', 'ghostnetv2_100_pairs'


@pytest.fixture(scope='module')
def tool():
    return load_tool(TOOL)


@pytest.fixture
def configs(tool):
    return [Config.fromfile(ROOT / path) for path in tool.NETWORKS.values()]


def write_log(work_dir, start, accuracies):
    """Log as mmengine does: training losses and, after each epoch, a validation."""
    folder = work_dir / start / 'vis_data'
    folder.mkdir(parents=True)
    with (folder / 'scalars.json').open('w') as file:
        for epoch, accuracy in accuracies.items():
            loss = {'lr': 1e-3, 'loss': 1.2, 'epoch': epoch, 'step': 7 * epoch}
            validation = {'accuracy/top1': accuracy, 'time': 0.1, 'step': epoch}
            file.write(f'{json.dumps(loss)}\n{json.dumps(validation)}\n')


def test_equal_recipe(configs):
    """Nothing but the network differs, and what its width entails."""
    first, second = (config.to_dict() for config in configs)
    backbone = second['model']['backbone']
    assert backbone.pop('type') == 'GhostNetV2'
    assert backbone.pop('widen_factor') == 1.0
    assert first['model']['backbone'].pop('type') == 'GhostNet'
    assert first['model']['backbone'].pop('widen_factor') == 1.1
    widths = [config['model']['head'].pop('in_channels') for config in (first, second)]
    assert widths == [1056, 960]
    assert first == second
    assert first['model']['backbone'] == {'zero_init_residual': True}


def test_costs_are_equal_and_those_of_timm(tool, configs):
    """Counted with hooks on timm's networks: parameters, multiply-accumulates."""
    timm = pytest.importorskip('timm.models.ghostnet', reason='needs timm')
    found = []
    for config, name, version, width in zip(
        configs,
        ('ghostnet_100', 'ghostnetv2_100'),
        ('v1', 'v2'),
        (1.1, 1.0),
        strict=True,
    ):
        options = dict(width=width, version=version, num_classes=7)
        network = timm._create_ghostnet(name, **options).eval()
        operations = 0

        def add(module, _, out):
            nonlocal operations
            weight = module.weight
            operations += out[0, 0].numel() * weight.numel()

        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(add)
        with torch.no_grad():
            network(torch.zeros(1, 3, 48, 144))
        parameters = sum(p.numel() for p in network.parameters())
        found.append(tool.cost(config, 48))
        assert found[-1] == pytest.approx((parameters / 1e6, operations / 1e6))
    assert found[0][1] == pytest.approx(found[1][1], rel=0.05)


def test_curve_of_an_interrupted_training(tool, tmp_path):
    assert tool.read_curve(tmp_path / 'none') == {}
    write_log(tmp_path, '20260103_000000', {3: 61.5, 4: 70.0})
    write_log(tmp_path, '20260102_235959', {1: 50.0, 2: 55.0, 3: 60.5})
    assert tool.read_curve(tmp_path) == {1: 50.0, 2: 55.0, 3: 61.5, 4: 70.0}


def test_table(tool, tmp_path, capsys):
    """Against scipy's paired test and the standard library."""
    first, second = [61.5, 70.0, 88.25, 55.0], [60.0, 91.0, 95.5, 58.75]
    finals = dict(zip((0, 1, 2, 7), zip(first, second, strict=True), strict=True))
    rows = tool.tabulate(finals, [(5.9, 27.25), (6.2, 27.0)], 48)
    tool.write_table(rows, tmp_path)
    table = {label: values for label, *values in rows}
    assert table[''] == ['GhostNet V1 1.1x', 'GhostNetV2 1.0x', 'difference']
    assert table['parameters, millions'] == ['5.90', '6.20', '+0.30']
    assert table['FLOPs at 48x144, millions'] == ['27.25', '27.00', '-0.25']
    assert table['seed 0'] == ['61.50', '60.00', '-1.50']
    assert table['seed 7'] == ['55.00', '58.75', '+3.75']
    differences = [b - a for a, b in zip(first, second, strict=True)]
    for name, function in (
        ('mean', statistics.mean),
        ('standard deviation', statistics.stdev),
    ):
        expected = [function(values) for values in (first, second, differences)]
        assert [float(x) for x in table[name]] == pytest.approx(expected, abs=0.006)
    test = stats.ttest_rel(second, first)
    low, high = test.confidence_interval(0.95)
    mean = statistics.mean(differences)
    for name, expected in (
        ('standard error', mean / test.statistic),
        ('95 % interval, lower end', low),
        ('95 % interval, upper end', high),
    ):
        assert table[name][:2] == ['', '']
        assert float(table[name][2]) == pytest.approx(expected, abs=0.006)
    with (tmp_path / 'table.csv').open(newline='') as file:
        assert [tuple(row) for row in csv.reader(file)] == rows
    text = (tmp_path / 'table.md').read_text()
    assert text in capsys.readouterr().out
    lines = [line.strip('| ').split(' | ') for line in text.splitlines()]
    assert lines[1] == ['---', '---:', '---:', '---:']
    assert lines[4] == ['seed 0', '61.50', '60.00', '-1.50']


def test_curves(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(plt, 'close', lambda figure: None)
    curves = {
        0: [{1: 50.0, 2: 60.0}, {1: 52.0, 2: 90.0}],
        1: [{1: 54.0, 2: 70.0}, {1: 50.0, 2: 94.0}],
    }
    tool.draw_curves(curves, 2, tmp_path / 'curves.png')
    assert (tmp_path / 'curves.png').stat().st_size > 10_000
    axes = plt.gcf().axes[0]
    drawn = {line.get_label(): line for line in axes.lines}
    for name, colour, mean, low, high in (
        ('GhostNet V1 1.1x', '#e69f00', [52, 65], 50, 70),
        ('GhostNetV2 1.0x', '#0072b2', [51, 92], 50, 94),
    ):
        (line,) = [drawn[label] for label in drawn if label.startswith(name)]
        assert line.get_xydata().tolist() == [[1, mean[0]], [2, mean[1]]]
        assert line.get_color() == colour
        (band,) = [
            band
            for band in axes.collections
            if np.allclose(
                band.get_facecolor()[0, :3],
                plt.matplotlib.colors.to_rgb(colour),
            )
        ]
        heights = band.get_paths()[0].vertices[:, 1]
        assert (heights.min(), heights.max()) == (low, high)
        seeds = [line for line in axes.lines if line.get_color() == colour]
        assert len(seeds) == 3
    assert drawn['chance'].get_ydata()[0] == 50


@pytest.fixture
def commands(tool, tmp_path, monkeypatch):
    """The trainings that are started; nothing runs."""
    started = []
    monkeypatch.setattr(tool, 'ROOT', tmp_path)
    monkeypatch.setattr(
        tool, 'run_all', lambda jobs: started.extend(command for command, _ in jobs)
    )
    return started


def test_only_what_lacks_the_last_epoch_is_trained(tool, configs, commands, tmp_path):
    last = configs[0].train_cfg.max_epochs
    write_log(tmp_path / V1 / 'seed_3', 'first', {last: 77.0})
    write_log(tmp_path / V2 / 'seed_3', 'first', {last - 1: 66.0})
    with pytest.raises(RuntimeError, match=f'{V2}/seed_3 lacks the last validation'):
        tool.train(configs, 3, {'some.option': 1}, tmp_path)
    (command,) = commands
    assert command[:4] == ['mim', 'train', MMPRETRAIN, f'configs/digits/{V2}.py']
    assert {'--resume', 'some.option=1', 'randomness.seed=3'} <= set(command)
    assert command[command.index('--work-dir') + 1] == f'{V2}/seed_3'
    write_log(tmp_path / V2 / 'seed_3', 'second', {last: 88.0})
    curves = tool.train(configs, 3, {}, tmp_path)
    assert curves == [{last: 77.0}, {last - 1: 66.0, last: 88.0}]
    assert len(commands) == 1


def test_another_recipe_is_not_mixed_in(tool, configs, commands, tmp_path):
    work_dir = tmp_path / V1 / 'seed_0'
    write_log(work_dir, 'first', {configs[0].train_cfg.max_epochs: 77.0})
    (work_dir / 'quickstart_config.json').write_text('{"max_epochs": 12}')
    with pytest.raises(FileExistsError, match='has changed since the training'):
        tool.train(configs, 0, {}, tmp_path)
    assert commands == []


def test_commands_run_side_by_side_and_failures_are_named(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, 'ROOT', tmp_path)
    # each waits for the other one's file
    wait = 'touch {}; for i in $(seq 100); do test -e {} && exit; sleep 0.1; done; '
    wait += 'exit 1'
    jobs = [
        (['sh', '-c', wait.format(*names)], tmp_path / names[0] / 'log')
        for names in (('a', 'b'), ('b', 'a'))
    ]
    jobs = [(command, tmp_path / f'log_{i}') for i, (command, _) in enumerate(jobs)]
    tool.run_all(jobs)
    failing = (['sh', '-c', 'echo broken; exit 3'], tmp_path / 'new' / 'log')
    with pytest.raises(RuntimeError, match=r'a command above failed, see \S*new/log$'):
        tool.run_all([jobs[0], failing])
    assert (tmp_path / 'new' / 'log').read_text() == 'broken\n'


@pytest.mark.parametrize('seeds', [['3'], ['1', '1', '2']])
def test_seeds_must_differ(tool, capsys, seeds):
    with pytest.raises(SystemExit):
        tool.main(['--short', '--seeds', *seeds])
    assert (
        'argument --seeds: needs two or more different ones' in capsys.readouterr().err
    )


def test_short_run(run_script, tmp_path):
    """Interrupted with the trainings running, it goes on; finished ones are kept."""
    out = ROOT / 'work_dirs' / 'long_range_short'
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, TOOL, '--short']
    log = out / V1 / 'seed_0' / 'train.log'
    with (tmp_path / 'log').open('w') as sink:
        process = subprocess.Popen(
            command,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
            # the jobs that a shell runs in the background ignore it
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while process.poll() is None and not log.exists():
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
        process.wait()
    assert process.returncode == 130
    assert (tmp_path / 'log').read_text().endswith('\ninterrupted\n')

    printed = run_script(TOOL, '--short')
    trained = re.findall(
        rf'^\$ mim train {MMPRETRAIN} configs/digits/(\w+)', printed, re.M
    )
    assert trained == [V1, V2, V1, V2]
    with (out / 'table.csv').open(newline='') as file:
        table = {label: values for label, *values in csv.reader(file)}
    for column, name in enumerate((V1, V2)):
        for seed in (0, 1):
            used = Config.fromfile(out / name / f'seed_{seed}' / f'{name}.py')
            assert used.randomness.seed == seed
            text = (out / name / f'seed_{seed}' / 'train.log').read_text()
            said = re.findall(r'Epoch\(val\).*accuracy/top1: (\S+)', text)
            assert float(table[f'seed {seed}'][column]) == float(said[-1]), said
    assert (out / 'curves.png').stat().st_size > 10_000
    assert (out / 'task.png').stat().st_size > 10_000

    again = run_script(TOOL, '--short')
    assert 'mim train' not in again
    assert (out / 'table.md').read_text() in again
