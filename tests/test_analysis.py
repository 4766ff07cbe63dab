"""mmghostnetv2.analysis: what is counted, how is timed, and what is refused."""

import os
from datetime import date
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mmghostnetv2 import analysis
from mmghostnetv2.analysis import latency
from mmghostnetv2.deployment.runtimes import RUNTIMES
from mmghostnetv2.models import DFCAttention, GhostNetSelfAttention, GhostNetV2

from .test_models.test_complexity import Classifier, count_by_hooks

SHAPE = (2, 4, 6, 8)


def test_count_of_convolutions_and_linear_layers_by_hand():
    """Groups, stride, padding and dilation; a bias and a norm take none."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),  # to 8x8
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 16, (1, 5), padding=(0, 4), dilation=2, groups=4, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 8 * 8, 10),
    )
    params = (8 * 27 + 8) + 16 + 16 * 2 * 5 + (1024 * 10 + 10)
    macs = 64 * 8 * 27 + 64 * 16 * 2 * 5 + 1024 * 10
    assert analysis.count(network, 16) == (params, macs)
    assert analysis.count(nn.Conv2d(3, 8, 1), (6, 5)) == (8 * 3 + 8, 6 * 5 * 8 * 3)


def test_count_is_that_of_timm():
    """Of another network's code, by another method; at a size with odd features."""
    timm = pytest.importorskip('timm', reason='a peer')
    theirs = count_by_hooks(timm.create_model('ghostnetv2_100'), 96)
    assert analysis.count(Classifier(GhostNetV2()), 96) == theirs


def test_count_leaves_the_products_of_self_attention_out():
    network = GhostNetSelfAttention()
    assert analysis.count(network, 64) == count_by_hooks(network, 64)


class Clock:
    """Time passes only as runners say."""

    def __init__(self, monkeypatch):
        self.now, self.calls = 0.0, []
        monkeypatch.setattr(latency, 'perf_counter', lambda: self.now)

    def runner(self, name, seconds):
        """Take ``seconds`` times a speed that is another one at each call of any."""

        def run():
            self.calls.append(name)
            self.now += seconds * len(self.calls)

        return run


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_runners_take_turns(clock):
    runners = {name: clock.runner(name, 1) for name in 'abc'}
    seconds = analysis.time_interleaved(runners, rounds=30, warmup=2)
    calls = ''.join(clock.calls)
    assert sorted(calls[:6]) == [*'aabbcc']
    rounds = [calls[i : i + 3] for i in range(6, len(calls), 3)]
    assert len(rounds) == 30 and all(sorted(turn) == [*'abc'] for turn in rounds)
    # all orders occur, so that nobody always runs after the same one
    assert len(set(rounds)) == 6
    for name in 'abc':  # the n-th call of all takes n seconds
        assert seconds[name] == [
            7 + 3 * i + turn.index(name) for i, turn in enumerate(rounds)
        ]
    clock.calls.clear()
    assert analysis.time_interleaved(runners, rounds=30, warmup=2) == seconds
    clock.calls.clear()
    assert analysis.time_interleaved(runners, rounds=30, warmup=2, seed=1) != seconds


def test_no_rounds_are_an_error():
    with pytest.raises(ValueError, match='rounds must be at least 1, got 0'):
        analysis.time_interleaved({'a': int}, rounds=0)


def test_ratios_are_taken_within_a_round():
    """A machine that halves its speed from round to round changes no ratio."""
    drift = 2.0 ** np.arange(8)
    factors = {'a': 1, 'b': 3, 'c': np.array([8, 7, 6, 5, 4, 3, 2, 1])}
    seconds = {name: [*(factor * drift)] for name, factor in factors.items()}
    ratios = analysis.paired_ratios(seconds, 'a')
    assert ratios['a'] == (1, 1, 1) and ratios['b'] == (3, 3, 3)
    assert ratios['c'] == (2.75, 4.5, 6.25)
    with pytest.raises(KeyError, match='d'):
        analysis.paired_ratios(seconds, 'd')


def test_quartiles():
    found = analysis.quartiles([5, 1, 2, 4, 30])
    assert (found.lower, found.median, found.upper) == (2, 4, 5)


class Small(nn.Module):
    """Two outputs in a list; a convolution, a norm and a gate."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.gate = DFCAttention(8)

    def forward(self, x):
        out = self.gate(self.norm(self.conv(x)))
        return out, [x.mean((2, 3))]


def seeded(cls):
    torch.manual_seed(0)
    return analysis.randomize_norms(cls(), SHAPE)


needs_onnxruntime = pytest.mark.skipif(
    not all(map(find_spec, ('onnx', 'onnxruntime'))),
    reason='needs onnx and onnxruntime',
)
each_runtime = pytest.mark.parametrize(
    'runtime', ['torch', pytest.param('onnxruntime', marks=needs_onnxruntime)]
)


@each_runtime
def test_runner_returns_the_networks_outputs(tmp_path, runtime):
    """The same ones at each call, those of eval mode, for the same random input."""
    network = seeded(Small).train()
    run = analysis.build_runner(network, SHAPE, runtime, 1, tmp_path)
    first, pooled = run()
    assert first.shape == (2, 8, 4, 6) and pooled.shape == (2, 4)
    assert not network.training and len(np.unique(pooled)) == 8
    again = run()
    assert np.array_equal(first, again[0]) and np.array_equal(pooled, again[1])
    other = seeded(Small)
    torch.manual_seed(1)  # is not what makes the input
    other = analysis.build_runner(other, SHAPE, 'torch', 1, tmp_path)()
    np.testing.assert_allclose(first, other[0], atol=1e-5)
    np.testing.assert_allclose(pooled, other[1], atol=1e-5)


@needs_onnxruntime
@pytest.mark.parametrize('threads', [1, 3])
def test_onnxruntime_session(tmp_path, monkeypatch, threads):
    """Fixed threads, which do not wait in a busy loop while another network runs."""
    import onnxruntime

    seen = []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, model, options, providers):
            seen.append((Path(model), options, providers))
            super().__init__(model, options, providers)

    monkeypatch.setattr(onnxruntime, 'InferenceSession', Session)
    analysis.build_runner(
        seeded(Small), SHAPE, 'onnxruntime', threads, tmp_path, name='small'
    )
    ((model, options, providers),) = seen
    assert model == tmp_path / 'small.onnx' and model.is_file()
    assert providers == ['CPUExecutionProvider']
    assert options.intra_op_num_threads == threads
    assert options.inter_op_num_threads == 1
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert options.get_session_config_entry('session.force_spinning_stop') == '1'


def test_torch_threads(tmp_path):
    """Each runner has its own number, whatever was set meanwhile."""
    seen, before = [], torch.get_num_threads()

    class Network(nn.Module):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return x

    try:
        one, two = (
            analysis.build_runner(Network(), SHAPE, 'torch', threads, tmp_path)
            for threads in (1, 2)
        )
        seen.clear()
        for run in (one, two, one):
            run()
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 2, 1]


class InPlace(nn.Module):
    """An in-place operation on a chunk, which torch's TorchScript exporter drops."""

    def forward(self, x):
        y = x + 1
        y.chunk(2, 1)[0].mul_(2)
        return y


@needs_onnxruntime
def test_a_wrong_export_is_refused(tmp_path):
    with pytest.raises(
        RuntimeError, match='^InPlace: output 0 of onnxruntime differs .* 5.0e-01 of '
    ):
        analysis.build_runner(InPlace(), SHAPE, 'onnxruntime', 1, tmp_path)
    with pytest.raises(RuntimeError, match='^my net: output 0'):
        analysis.build_runner(
            InPlace(), SHAPE, 'onnxruntime', 1, tmp_path, name='my net'
        )


@pytest.mark.parametrize(
    ('factor', 'message'), [(1.0002, '^Small: output 1 of torch'), (1.00005, None)]
)
def test_what_is_equal(tmp_path, monkeypatch, factor, message):
    """1e-4 of the largest value, in every output."""

    open_torch = RUNTIMES['torch'].open

    def open_wrong(network, threads):
        session = open_torch(network, threads)
        return lambda x: [a * b for a, b in zip(session(x), (1, factor), strict=True)]

    wrong = RUNTIMES['torch']._replace(open=open_wrong)
    monkeypatch.setitem(RUNTIMES, 'torch', wrong)
    if message is None:
        analysis.build_runner(seeded(Small), SHAPE, 'torch', 1, tmp_path)
    else:
        with pytest.raises(RuntimeError, match=message):
            analysis.build_runner(seeded(Small), SHAPE, 'torch', 1, tmp_path)


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="'onnxruntime', 'torch', .*, got 'tvm'"):
        analysis.build_runner(Small(), SHAPE, 'tvm', 1, tmp_path)
    with pytest.raises(ValueError, match='threads must be at least 1, got 0'):
        analysis.build_runner(Small(), SHAPE, 'torch', 0, tmp_path)


def test_random_norms_show_a_wrong_gate(monkeypatch):
    """An untrained network hardly changes where its gates shift by a pixel."""
    torch.manual_seed(0)
    network, x = GhostNetV2().eval(), torch.rand(1, 3, 64, 64)

    def shifted(attention, x, *features):
        return torch.cat(features, dim=1) * attention.gate(x).roll(1, -1)

    @torch.no_grad()
    def error():
        right = network(x)[0]
        with monkeypatch.context() as patch:
            patch.setattr(DFCAttention, 'forward', shifted)
            wrong = network(x)[0]
        return float((wrong - right).abs().max() / right.abs().max())

    assert error() < 3 * latency.TOLERANCE
    assert analysis.randomize_norms(network.train()) is network
    assert error() > 1000 * latency.TOLERANCE


def test_random_norms_are_those_of_a_trained_network():
    """Statistics are the images', weights and biases random; the seed decides."""

    def network():
        torch.manual_seed(0)
        layers = nn.Conv2d(4, 64, 1), nn.BatchNorm2d(64), nn.Dropout(0.9)
        return nn.Sequential(*layers, nn.BatchNorm2d(64, affine=False))

    networks = [
        analysis.randomize_norms(network(), (2, 4, 9, 9), seed) for seed in (1, 1, 2)
    ]
    first, again, other = (list(n.state_dict().values()) for n in networks)
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first[2:6], other[2:6]))
    seen = networks[0](torch.rand(50, 4, 9, 9))  # dropout is off
    for norm in (networks[0][1], networks[0][3]):
        assert not norm.training and norm.momentum == 0.1
    assert seen.mean((0, 2, 3)).abs().max() < 0.5
    assert (seen.std((0, 2, 3)) - 1).abs().max() < 0.5
    assert networks[0][1].weight.std() > 0.2 and networks[0][1].bias.std() > 0.2


def test_machine():
    machine = analysis.describe_machine()
    assert machine['CPU'] and machine['CPU'] in Path('/proc/cpuinfo').read_text()
    assert machine['cores'] == str(len(os.sched_getaffinity(0)))
    assert machine['torch'] == torch.__version__.split('+')[0]
    assert machine['date'] == date.today().isoformat()
    if find_spec('onnxruntime'):
        import onnxruntime

        assert machine['onnxruntime'] == onnxruntime.__version__
    assert all(isinstance(value, str) for value in machine.values())
