"""What tools/analysis_tools/benchmark.py builds, runs and measures."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from mmghostnetv2.analysis import (
    build_cuda_runner,
    build_network,
    randomize_norms,
    training_step,
)
from mmghostnetv2.analysis.memory import peak_memory
from mmghostnetv2.analysis.networks import apply_options, copy_weights
from mmghostnetv2.analysis.running import CUDA_RUNTIMES, random_images
from mmghostnetv2.deployment.networks import deployable
from mmghostnetv2.deployment.runtimes import RUNTIMES, flatten

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
IMAGES = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope='module')
def peer():
    """timm's network, on which a wrong copy of the weights shows."""
    pytest.importorskip('timm', reason='the peer of these tests')
    torch.manual_seed(0)
    return randomize_norms(build_network('timm:ghostnetv2_100'))


def compute(network):
    with torch.no_grad():
        return flatten(network(IMAGES))


def assert_equal(actual, expected, tolerance=1e-5):
    assert [a.shape for a in actual] == [e.shape for e in expected]
    for ours, theirs in zip(actual, expected, strict=True):
        assert abs(ours - theirs).max() <= tolerance * abs(theirs).max()


@pytest.mark.parametrize(
    'name', ['ghostnetv2_100_in1k', 'mmpretrain:ghostnetv2-100_3rdparty_in1k']
)
def test_classifiers_are_timms(peer, name):
    pytest.importorskip('mmpretrain')
    network = build_network(name)
    assert not network.training
    copy_weights(peer, network)
    assert_equal(compute(network), compute(peer))


@pytest.mark.parametrize('option', ['+deploy', '+reparameterized'])
def test_branches_are_merged(option):
    """Ours as GhostNetV2's network, timm's as timm does it; timm keeps 54 norms."""
    pytest.importorskip('mmpretrain')
    pytest.importorskip('timm')
    torch.manual_seed(0)
    theirs = randomize_norms(build_network('timm:ghostnetv3_050'))
    options = {'model.backbone.widen_factor': 0.5, 'model.head.in_channels': 480}
    ours = build_network('ghostnetv3_100_in1k', options)
    copy_weights(theirs, ours)
    expected = compute(theirs)
    assert_equal(compute(ours), expected)
    merged = apply_options(ours if option == '+deploy' else theirs, f'a{option}')
    norms = [m for m in merged.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == (0 if option == '+deploy' else 54)
    assert_equal(compute(merged), expected)


def test_timm_backbone_is_ours_for_detectors():
    """Features of strides 4 to 32, from the stages that timm takes."""
    pytest.importorskip('mmpretrain')
    pytest.importorskip('timm')
    torch.manual_seed(0)
    theirs = randomize_norms(build_network('TIMMBackbone:ghostnetv2_100'))
    taps = {'model.backbone.out_indices': (1, 3, 5, 7)}
    ours = build_network('ghostnetv2_100_in1k+backbone', taps)
    copy_weights(theirs, ours)
    assert_equal(compute(ours), compute(theirs))
    assert [f.shape[-1] for f in compute(ours)] == [24, 12, 6, 3]


def test_weights_of_another_network_are_refused(peer):
    pytest.importorskip('mmpretrain')
    with pytest.raises(ValueError, match='do not fit a network of'):
        copy_weights(peer, build_network('ghostnet_100_in1k'))
    with pytest.raises(ValueError, match=r'conv_stem.weight \(16, .*does not fit'):
        copy_weights(peer, build_network('timm:ghostnetv2_130'))


def layout(network):
    """Tell whether the features inside are in channels_last."""
    found = []
    conv = next(
        m for m in network.modules() if isinstance(m, nn.Conv2d) and m.in_channels > 9
    )
    conv.register_forward_hook(
        lambda m, args, out: found.append(
            args[0].is_contiguous(memory_format=torch.channels_last)
            and not args[0].is_contiguous()
        )
    )
    compute(network)
    return found == [True]


@pytest.mark.parametrize('option', ['', '+deploy'])
@pytest.mark.parametrize('channels_last', [False, True])
def test_options(peer, option, channels_last):
    pytest.importorskip('mmpretrain')
    network = build_network('ghostnetv2_100_in1k')
    copy_weights(peer, network)
    options = option + '+channels_last' * channels_last
    network = apply_options(network, f'ghostnetv2_100_in1k{options}')
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert bool(norms) == (option != '+deploy')
    assert layout(network) == channels_last
    assert_equal(compute(network), compute(peer), 1e-4)


@pytest.mark.parametrize(
    ('library', 'name'),
    [('mmpretrain', 'ghostnetv2_100_in1k'), ('mmdet', 'yolov3_ghostnetv2_320')],
)
def test_predictions(library, name):
    """The option adds the post-processing."""
    pytest.importorskip(library)
    networks = []
    for text in name, f'{name}+predictions+deploy':
        torch.manual_seed(0)
        networks.append(apply_options(randomize_norms(build_network(text)), text))
    whole, images = deployable(networks[0]), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert_equal(flatten(networks[1](images)), flatten(whole(images)))


def test_networks_without_predictions():
    with pytest.raises(NotImplementedError, match='is not a classifier, detector'):
        build_network('timm:ghostnetv2_100+predictions')


class Scale(nn.Module):
    """Two outputs, weight times the images and its double."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(3.0))
        self.frozen = nn.Parameter(torch.tensor(2.0), requires_grad=False)
        self.dropout = nn.Dropout(0.9)

    def forward(self, x):
        self.compiled = torch.compiler.is_compiling()
        x = self.dropout(x) * self.weight
        return x, [x * self.frozen]


@pytest.mark.parametrize('compiled', [False, True])
def test_training_step_is_sgd_with_momentum(compiled):
    """By hand: the loss is 5 w^2 m for the mean square m of the images."""
    shape = (2, 3, 4, 5)
    mean = float(random_images(shape).square().mean())
    weight, speed, expected = 3.0, 0.0, []
    for _ in range(4):
        expected.append(5 * weight**2 * mean)
        speed = 0.9 * speed + 10 * weight * mean
        weight -= 1e-3 * speed
    network = Scale()
    step = training_step(network, shape, threads=1, compiled=compiled)
    assert [step() for _ in range(4)] == pytest.approx(expected, rel=1e-5)
    assert float(network.weight) == pytest.approx(weight, rel=1e-5)
    assert network.compiled == compiled


NETWORK, SHAPE = 'timm:mobilenetv2_035', (8, 3, 224, 224)


def test_peak_memory_of_inference(peer):
    """At least the weights and the largest features between two layers; not all."""
    network, features = build_network(NETWORK), []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda m, args, out: features.append(args[0].nbytes + out.nbytes)
            )
    with torch.no_grad():
        network(torch.zeros(SHAPE))
    weights = sum(x.nbytes for x in network.state_dict().values())
    found = peak_memory(NETWORK, 'torch', shape=SHAPE, threads=1)
    assert weights + max(features) < found < weights + 8 * max(features)

    # a training keeps all features, gradients and momenta
    found = peak_memory(NETWORK, 'torch', shape=SHAPE, threads=1, train=True)
    assert 3 * weights + sum(features) / 2 < found < 3 * weights + 3 * sum(features)


def test_peak_memory_of_a_file(tmp_path):
    """Weights and features of one wide convolution, in float32."""
    pytest.importorskip('onnxruntime', reason='runs it')
    pytest.importorskip('onnx', reason='writes it')
    network = nn.Sequential(
        nn.Conv2d(3, 512, 3, padding=1), nn.Conv2d(512, 8, 1)
    ).eval()
    shape = (1, 3, 200, 200)
    path = RUNTIMES['onnxruntime'].convert(network, torch.zeros(shape), tmp_path / 'a')
    found = peak_memory(path, 'onnxruntime', shape=shape, threads=1)
    features = 512 * 200 * 200 * 4
    assert features < found < 3 * features


@needs_gpu
@pytest.mark.parametrize('amp', [False, True])
@pytest.mark.parametrize('runtime', CUDA_RUNTIMES)
def test_cuda(peer, amp, runtime):
    shape = 1, 3, 96, 96
    with torch.no_grad():
        expected = flatten(peer(random_images(shape)))
    network = deepcopy(peer)
    build_cuda_runner(network, shape, runtime, expected, amp)()
    wrong = [array + 1 for array in expected]
    with pytest.raises(RuntimeError, match=f'{runtime} differs'):
        build_cuda_runner(network, shape, runtime, wrong, amp)
    step = training_step(network, (2, 3, 64, 64), device='cuda', amp=amp)
    assert 0 < step() < float('inf')
