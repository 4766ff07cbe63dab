"""mmghostnetv2.analysis: what is counted, how is timed, and what is refused."""

import os
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mmghostnetv2 import analysis
from mmghostnetv2.analysis import latency
from mmghostnetv2.analysis.running import random_images
from mmghostnetv2.deployment.runtimes import TOLERANCE, flatten
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


def test_growth_is_the_power_of_the_number_of_pixels():
    pixels = np.array([64, 100, 333]) ** 2
    fitted = analysis.fit_power(pixels, 0.003 * pixels**1.7)
    assert fitted == pytest.approx((1.7, 0.003))
    # least squares on logarithms: the middle one of three has no leverage
    assert analysis.fit_power([1e2, 1e4, 1e6], [1, 7, 100])[0] == pytest.approx(0.5)
    # a difference of times may be lost in noise
    assert analysis.fit_power([1, 2, 4], [-1, 2, 4])[0] == pytest.approx(1)
    for pixels, costs in (([2], [3]), ([2, 2], [3, 4]), ([1, 2], [0, 3]), ([], [])):
        assert np.isnan(analysis.fit_power(pixels, costs)).all()


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
    """They are those of eval mode and the same at each call."""
    network = seeded(Small).train()
    run, _ = analysis.build_runner(network, SHAPE, runtime, 1, tmp_path / 'a')
    first, pooled = run()
    assert first.shape == (2, 8, 4, 6) and pooled.shape == (2, 4)
    assert not network.training and len(np.unique(pooled)) == 8
    again = run()
    assert np.array_equal(first, again[0]) and np.array_equal(pooled, again[1])
    with torch.no_grad():
        other, (average,) = seeded(Small)(random_images(SHAPE))
    np.testing.assert_allclose(first, other, atol=1e-5)
    np.testing.assert_allclose(pooled, average, atol=1e-5)


def test_torch_threads(tmp_path):
    """Each runner has its own number of threads, whatever was set meanwhile."""
    seen, before = [], torch.get_num_threads()

    class Network(nn.Module):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return x

    try:
        one, two = (
            analysis.build_runner(Network(), SHAPE, 'torch', threads, tmp_path)[0]
            for threads in (1, 2)
        )
        seen.clear()
        for run in (one, two, one):
            run()
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 2, 1]


@each_runtime
@pytest.mark.parametrize(('factor', 'refused'), [(1.0002, True), (1.00005, False)])
def test_outputs_must_be_the_expected_ones(tmp_path, runtime, factor, refused):
    """Within 1e-4 of the largest value, in every output."""
    network = seeded(Small)
    with torch.no_grad():
        first, second = flatten(network(random_images(SHAPE)))
    arguments = network, SHAPE, runtime, 1, tmp_path / 'a', [first, factor * second]
    if refused:
        with pytest.raises(RuntimeError, match=f'^output 1 of {runtime} differs'):
            analysis.build_runner(*arguments)
    else:
        analysis.build_runner(*arguments)


class Boxes(nn.Module):
    """Two boxes in each of two images, the best ones first."""

    output_names = 'dets', 'labels'

    def forward(self, images):
        corners = torch.tensor([[1.0, 1, 5, 5], [2, 2, 9, 9]])
        scores = torch.tensor([0.5 + 1e-6, 0.5])
        dets = torch.cat([corners, scores[:, None]], 1)
        return dets.repeat(2, 1, 1), torch.tensor([[3, 4], [3, 4]])


def test_boxes_may_change_places(tmp_path):
    """If their scores are equal but for rounding; their labels may not."""
    dets, labels = flatten(Boxes()(None))
    dets[1], labels[1] = dets[1, ::-1].copy(), labels[1, ::-1].copy()
    arguments = Boxes(), SHAPE, 'torch', 1, tmp_path, [dets, labels]
    analysis.build_runner(*arguments)
    labels[1, 0] = 5
    with pytest.raises(RuntimeError, match='torch lacks 1 of the 2 boxes'):
        analysis.build_runner(*arguments)


@needs_onnxruntime
def test_8_bits_are_compared_before_they_are_rounded(tmp_path):
    network = seeded(Small)
    floats, path = analysis.build_runner(network, SHAPE, 'onnxruntime', 1, tmp_path)
    expected, size = floats(), path.stat().st_size
    arguments = network, SHAPE, 'onnxruntime', 1, tmp_path, expected
    run, path = analysis.build_runner(*arguments, int8=True)
    assert path.stat().st_size != size
    error = max(np.abs(a - b).max() for a, b in zip(run(), expected, strict=True))
    assert 1e-4 < error < 0.2
    wrong = *arguments[:-1], [2 * array for array in expected]
    with pytest.raises(RuntimeError, match='differs'):
        analysis.build_runner(*wrong, int8=True)
    with pytest.raises(ValueError, match='torch has no 8 bits'):
        analysis.build_runner(Small(), SHAPE, 'torch', 1, tmp_path, int8=True)


def test_an_unknown_runtime_is_named(tmp_path):
    with pytest.raises(ValueError, match="'onnxruntime', 'torch', .*, got 'tvm'"):
        analysis.build_runner(Small(), SHAPE, 'tvm', 1, tmp_path / 'a')


def test_random_norms_show_a_wrong_gate(monkeypatch):
    """An untrained network hardly changes where its gates shift by a pixel."""
    torch.manual_seed(0)
    network, x = GhostNetV2().eval(), torch.rand(1, 3, 64, 64)

    def shifted(attention, x, features):
        return features * attention.gate(x).roll(1, -1)

    @torch.no_grad()
    def error():
        right = network(x)[0]
        with monkeypatch.context() as patch:
            patch.setattr(DFCAttention, 'forward', shifted)
            wrong = network(x)[0]
        return float((wrong - right).abs().max() / right.abs().max())

    assert error() < 3 * TOLERANCE
    assert analysis.randomize_norms(network.train()) is network
    assert error() > 1000 * TOLERANCE


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
    # torch asks the processor itself
    ours, theirs = machine['instruction sets'], torch.backends.cpu.get_cpu_capability()
    assert ('AVX2' in ours, 'AVX-512' in ours) in {
        'DEFAULT': [(False, False)],
        'AVX2': [(True, False), (True, True)],
        'AVX512': [(True, True)],
    }.get(theirs, [(False, False)])
    assert machine['torch'] == torch.__version__.split('+')[0]
    assert machine['date'] == date.today().isoformat()
    for package in ('onnxruntime', 'executorch'):
        if find_spec(package):
            assert machine[package] == version(package)
    assert all(isinstance(value, str) for value in machine.values())


def test_lower_bound():
    """By hand: a large convolution needs its products, the others their traffic."""
    peaks = analysis.Peaks(macs=1e9, bandwidth={200: 4e9, 1000: 1e9, 100_000: 1e8})
    layers = [
        nn.Conv2d(3, 8, 3, padding=1, bias=False),  # 216 products for 100 outputs
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 5, padding=2, groups=8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    ]
    network = nn.Sequential(*layers).eval()
    images = torch.rand(2, 3, 10, 10)
    # products, and values of 4 bytes that are read or written, at which rate
    costs = [
        (2 * 100 * 216, 600 + 216 + 1600, 1e9),
        (2 * 100 * 8 * 25, 1600 + 200 + 1600, 1e9),
        (2 * 2 * 8, 16 + 16 + 4, 4e9),
    ]
    expected = [max(macs / 1e9, 4 * values / rate) for macs, values, rate in costs]
    by_traffic = [
        macs / 1e9 < found for (macs, *_), found in zip(costs, expected, strict=True)
    ]
    assert by_traffic == [False, False, True]
    bound = peaks.lower_bound(analysis.layer_costs(network, images))
    assert bound == pytest.approx(sum(expected))
    # beyond the last size the rate is that of the last, below the first of the first
    slow = peaks.lower_bound(analysis.layer_costs(network, torch.rand(9, 3, 99, 99)))
    values = 9 * 99 * 99 * 16 + 200
    assert slow > 4 * values / 1e8
    last = analysis.layer_costs(layers[-1], torch.rand(1, 8))
    assert last == [(16, 26 * 4)] and peaks.lower_bound(last) == 26 * 4 / 4e9


def test_peaks():
    """No network is faster than the machine; the number of threads is put back."""
    threads = torch.get_num_threads()
    peaks = analysis.measure_peaks(1)
    assert torch.get_num_threads() == threads
    rates = [peaks.bandwidth[size] for size in sorted(peaks.bandwidth)]
    assert rates == sorted(rates, reverse=True)
    # a processor of today does 10^9 to 10^12 products a second in a thread
    assert 1e9 < peaks.macs < 1e12
    network, images = GhostNetV2(deploy=True).eval(), torch.rand(1, 3, 224, 224)
    torch.set_num_threads(1)
    with torch.no_grad():
        runs = {'network': lambda: network(images)}
        seconds = analysis.time_interleaved(runs, 5)['network']
    torch.set_num_threads(threads)
    assert peaks.lower_bound(analysis.layer_costs(network, images)) < min(seconds)
