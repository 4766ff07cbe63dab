"""Networks for inference: norms folded, convolutions packed, the same computed."""

import copy
import pickle

import pytest
import torch
from mmcv.cnn import ConvModule, ConvWS2d
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize, prune

from mmghostnetv2.models import (
    GhostNet,
    GhostNetSelfAttention,
    GhostNetV2,
    PackedConv2d,
    fold_norms,
    pack_convs,
)

from .conftest import randomise

ALL_STAGES = tuple(range(10))
LAYOUTS = pytest.mark.parametrize(
    'layout', [torch.contiguous_format, torch.channels_last], ids=['nchw', 'nhwc']
)


def assert_close(actual, expected, tolerance=1e-5):
    """Compare within a share of the largest value."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


# ---- whole networks


@pytest.fixture(
    params=[GhostNet, GhostNetV2, GhostNetSelfAttention], ids=lambda cls: cls.__name__
)
def network(request):
    torch.manual_seed(0)
    return randomise(request.param(out_indices=ALL_STAGES)).eval()


@LAYOUTS
@torch.no_grad()
def test_same_features(network, layout, images):
    """Also with other sizes, batches and threads than the packed weights have seen."""
    deployed = copy.deepcopy(network)
    deployed.switch_to_deploy()
    assert not any(isinstance(m, _BatchNorm) for m in deployed.modules())
    threads = torch.get_num_threads()
    for size, batch, count in [(96, 1, 1), (65, 2, 1), (65, 2, 2), (96, 1, 1)]:
        torch.set_num_threads(count)
        x = images(size, size + 32, batch=batch).to(memory_format=layout)
        for out, expected in zip(deployed(x), network(x), strict=True):
            assert_close(out, expected)
    torch.set_num_threads(threads)
    is_packed = '_packed' in vars(deployed.conv_stem)
    assert is_packed == (layout is torch.channels_last)


@torch.no_grad()
def test_same_as_timm(images):
    timm = pytest.importorskip('timm', reason='the peer of this test')
    torch.manual_seed(0)
    peer = randomise(timm.create_model('ghostnetv2_100')).eval()
    weights = {
        key: value
        for key, value in peer.state_dict().items()
        if not key.startswith(('conv_head.', 'classifier.'))
    }
    network = GhostNetV2()
    network.load_state_dict(weights, strict=True)
    network.switch_to_deploy()
    x = images(224, 224).to(memory_format=torch.channels_last)
    outputs = []
    peer.blocks[-1].register_forward_hook(lambda *args: outputs.append(args[-1]))
    peer(x)
    assert_close(network(x)[0], outputs[0])


@torch.no_grad()
def test_state_round_trips(network, images):
    deployed = copy.deepcopy(network)
    deployed.switch_to_deploy()
    state = deployed.state_dict()
    deployed.switch_to_deploy()  # a second time it changes nothing
    assert all(state[key] is not None for key in deployed.state_dict())
    built = type(network)(out_indices=ALL_STAGES, deploy=True)
    built.load_state_dict(state, strict=True)
    x = images(64, 64).to(memory_format=torch.channels_last)
    expected = deployed(x)
    for other in (built, copy.deepcopy(deployed), pickle.loads(pickle.dumps(deployed))):
        assert other.state_dict().keys() == state.keys()
        assert all(torch.equal(a, b) for a, b in zip(other(x), expected, strict=True))


def test_init_weights_of_a_deployed_network(images):
    network = GhostNetV2(deploy=True, zero_init_residual=True)
    network.init_weights()
    assert network(images(32, 32))[0].abs().max() > 0


def test_weights_with_norms_are_refused():
    """They would load but for their norms, and compute something else."""
    with pytest.raises(RuntimeError, match='Unexpected key.*bn1.weight'):
        GhostNetV2(deploy=True).load_state_dict(GhostNetV2().state_dict())


@torch.no_grad()
def test_mobilenetv2_attention(images):
    module = pytest.importorskip(
        'mmghostnetv2.mobilenetv2_attention', reason='needs mmpretrain'
    )
    torch.manual_seed(0)
    options = dict(attention=dict(type='DFCAttention'), widen_factor=0.5)
    network = randomise(module.MobileNetV2Attention(**options))
    network.eval()
    deployed = module.MobileNetV2Attention(**options, deploy=True)
    folded = copy.deepcopy(network)
    folded.switch_to_deploy()
    deployed.load_state_dict(folded.state_dict(), strict=True)
    x = images(64, 64).to(memory_format=torch.channels_last)
    assert_close(deployed(x)[0], network(x)[0])


# ---- folding


class SharedConv(nn.Module):
    """One convolution for two levels, each with a norm of its own."""

    def __init__(self):
        super().__init__()
        conv = nn.Conv2d(3, 4, 3)
        self.levels = nn.ModuleList(
            nn.Sequential(conv, nn.BatchNorm2d(4)) for _ in range(2)
        )

    def forward(self, x):
        return [level(x) for level in self.levels]


@torch.no_grad()
def test_shared_convolutions(images):
    network = randomise(SharedConv())
    expected = copy.deepcopy(network).eval()(images(9, 9))
    for out, value in zip(fold_norms(network)(images(9, 9)), expected, strict=True):
        assert_close(out, value)


NORM = dict(type='BN')


class NormAct(nn.BatchNorm2d):
    """As timm's BatchNormAct2d."""

    def forward(self, x):
        return super().forward(x).relu()


@pytest.mark.parametrize(
    'layers',
    [
        lambda: [nn.Conv2d(3, 4, 3), NormAct(4)],
        lambda: [ConvWS2d(3, 4, 3), nn.BatchNorm2d(4)],
        lambda: [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)],
        lambda: [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)],
        lambda: [ConvModule(3, 3, 1, norm_cfg=NORM, order=('norm', 'act', 'conv'))],
        lambda: [nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)],
    ],
    ids=['norm-act', 'conv-ws', 'relu-between', 'no-statistics', 'order', 'spectral'],
)
@torch.no_grad()
def test_what_is_not_folded(layers, images):
    torch.manual_seed(0)
    network = randomise(nn.Sequential(*layers())).eval()
    folded = fold_norms(copy.deepcopy(network))
    assert [type(m) for m in folded.modules()] == [type(m) for m in network.modules()]
    assert torch.equal(folded(images(9, 9)), network(images(9, 9)))


@pytest.mark.parametrize('conv', ['Conv', 'Conv2d'])
@pytest.mark.parametrize('norm', [dict(type='BN', affine=False), dict(type='SyncBN')])
@pytest.mark.parametrize('revert', [False, True])
@torch.no_grad()
def test_what_is_folded(conv, norm, revert, images):
    """mmcv's own convolutions; norms without weights, and as of several GPUs."""
    torch.manual_seed(0)
    cfg = dict(conv_cfg=dict(type=conv), norm_cfg=norm, bias=True)
    network = randomise(ConvModule(3, 4, 3, **cfg)).eval()
    if revert:
        network = revert_sync_batchnorm(network)
    folded = fold_norms(copy.deepcopy(network))
    assert not any(isinstance(m, _BatchNorm) for m in folded.modules())
    assert_close(folded(images(9, 9)), network(images(9, 9)))


@pytest.mark.parametrize('relu', [False, True])
@torch.no_grad()
def test_packed_convolutions_are_folded(relu, images):
    """But for those with a ReLU, which comes before the norm."""
    torch.manual_seed(0)
    network = randomise(nn.Sequential(PackedConv2d(3, 4, 3), nn.BatchNorm2d(4))).eval()
    network[0].relu = relu
    folded = fold_norms(copy.deepcopy(network))
    assert isinstance(folded[1], _BatchNorm) == relu
    assert_close(folded(images(9, 9)), network(images(9, 9)))


def test_folded_config(images):
    """A config with the model's own type as base builds it folded."""
    cfg = dict(base='mmghostnetv2.GhostNetV2', out_indices=(2,))
    cfg['zero_init_residual'] = True
    network = MODELS.build(dict(type='mmghostnetv2.Folded', **cfg))
    network.init_weights()  # has no norms left to start at zero
    assert network.out_channels == (24,) and not network.training
    assert network.state_dict().keys() == (
        GhostNetV2(out_indices=(2,), deploy=True).state_dict().keys()
    )


# ---- packed convolutions


def make_layers(**kwargs):
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 16, 3, padding=1, **kwargs)
    return nn.Sequential(conv, nn.Identity(), nn.ReLU(inplace=True))


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.randn(2, 8, 9, 7).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    'kwargs',
    [{}, dict(groups=8), dict(stride=2, bias=False), dict(dilation=2)],
    ids=str,
)
def test_packed_convolution(kwargs, x):
    layers = make_layers(**kwargs)
    packed = pack_convs(copy.deepcopy(layers))
    assert list(packed.state_dict()) == list(layers.state_dict())
    # counted elsewhere, all layers keep their numbers
    assert [type(m) for m in packed] == [PackedConv2d, nn.Identity, nn.Identity]
    with torch.no_grad():
        assert_close(packed(x), layers(x))
    assert '_packed' in vars(packed[0])


@pytest.mark.parametrize('relu', [False, True])
@pytest.mark.parametrize(
    ('kwargs', 'size', 'is_product'),
    [
        ({}, (1, 32, 32), True),
        ({}, (2, 23, 23), False),  # of too many pixels
        ({}, (3, 1, 1), True),
        (dict(stride=2), (1, 6, 6), False),
        (dict(padding=1), (1, 6, 6), False),
        (dict(groups=2), (1, 6, 6), False),
    ],
    ids=str,
)
@torch.no_grad()
def test_pointwise_convolution(kwargs, size, is_product, relu):
    """A product of matrices where that is faster, in the same memory format."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(8, 16, 1, **kwargs))
    layers.append(nn.ReLU() if relu else nn.Identity())
    packed = pack_convs(copy.deepcopy(layers))
    images = torch.randn(size[0], 8, *size[1:])
    x = images.contiguous(memory_format=torch.channels_last)
    out = packed(x)
    assert_close(out, layers(images))
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert ('_packed' in vars(packed[0])) != is_product


@torch.no_grad()
def test_weights_that_are_computed(x):
    """They are no parameters of the convolution then."""
    layers = make_layers()
    packed = pack_convs(copy.deepcopy(layers))
    packed(x)
    for conv in (layers[0], packed[0]):
        prune.random_unstructured(conv, 'bias', 0.5)
        conv.bias_mask[:8], conv.bias_mask[8:] = 0, 1
        parametrize.register_parametrization(conv, 'weight', nn.Tanh())
    for factor in (1, -3, 2):
        for conv in (layers[0], packed[0]):
            conv.parametrizations.weight.original.mul_(factor)
        assert_close(packed(x), layers(x))


@pytest.mark.parametrize('amp', [False, True], ids=['onednn', 'autocast'])
@torch.no_grad()
def test_weights_at_an_address_that_others_had(amp, x):
    layers = make_layers()
    packed = pack_convs(copy.deepcopy(layers))
    with torch.autocast('cpu', torch.bfloat16, enabled=amp, cache_enabled=False):
        for factor in range(1, 5):
            weights = {k: v * factor for k, v in layers.state_dict().items()}
            out = torch.func.functional_call(packed, weights, (x,))
            del weights
            weights = {k: v * factor for k, v in layers.state_dict().items()}
            assert_close(out, torch.func.functional_call(layers, weights, (x,)))
            del weights


@torch.no_grad()
def test_convolution_in_two_places():
    """Its ReLU follows it in one of them."""
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, 3)
    layers = nn.Sequential(nn.Sequential(conv, nn.ReLU()), nn.Sequential(conv))
    x = torch.randn(1, 8, 9, 9).to(memory_format=torch.channels_last)
    expected = layers(x)
    assert (expected < 0).any()
    assert_close(pack_convs(layers)(x), expected)


@torch.no_grad()
def test_tensors_of_other_types(x):
    """Such as those that trace a network without computing."""
    packed = pack_convs(make_layers())
    shape = make_layers()(x).shape
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert packed(mode.from_tensor(x)).shape == shape


class Counting(nn.Module):
    """Counts its layers, as mmdet's SSDVGG."""

    def __init__(self):
        super().__init__()
        layers = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)
        self.features = nn.Sequential(*layers, nn.ReLU(), nn.MaxPool2d(2))

    def forward(self, x):
        outs = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in (2, 4):
                outs.append(x)
        return outs


@torch.no_grad()
def test_layers_that_are_counted_keep_their_numbers(x):
    torch.manual_seed(0)
    network = randomise(Counting()).eval()
    packed = pack_convs(fold_norms(copy.deepcopy(network)))
    outs, expected = packed(x), network(x)
    assert len(outs) == len(expected) == 2
    for out, value in zip(outs, expected, strict=True):
        assert_close(out, value)


def test_own_networks_have_no_idle_layers():
    """Each would be called."""
    network = GhostNetV2(deploy=True)
    layers = [m for m in network.modules() if isinstance(m, nn.Sequential)]
    idle = nn.Identity, nn.ReLU
    assert not any(isinstance(m, idle) for layer in layers for m in layer)


def test_new_weights_are_packed_again(x):
    packed = pack_convs(make_layers())
    other = make_layers()
    with torch.no_grad():
        packed(x)
        other[0].weight.mul_(2)
        packed[0].weight.mul_(2)  # in place
        assert_close(packed(x), other(x))
        packed[0].weight.data = packed[0].weight.data.flip(0)
        other[0].weight.data = other[0].weight.data.flip(0)
        assert_close(packed(x), other(x))
        packed.load_state_dict(make_layers().state_dict())
        assert_close(packed(x), make_layers()(x))


@pytest.mark.parametrize('amp', [False, True], ids=['onednn', 'autocast'])
@torch.no_grad()
def test_swapped_weights_are_packed_again(amp, x):
    """In place and uncounted, as mmengine's EMAHook before the network's eval()."""
    layers = make_layers().eval()
    packed = pack_convs(copy.deepcopy(layers))
    with torch.autocast('cpu', torch.bfloat16, enabled=amp, cache_enabled=False):
        for mode in (True, False):
            packed(x)
            for conv in (layers[0], packed[0]):
                conv.weight.data.mul_(-2)
                conv.bias.data.add_(1)
            packed.train(mode)
            assert_close(packed(x), layers(x))
        for conv in (layers[0], packed[0]):
            conv.bias.add_(1)  # alone
        assert_close(packed(x), layers(x))


@pytest.mark.parametrize('amp', [False, True], ids=['onednn', 'autocast'])
def test_weights_of_inference_mode(amp, x):
    """They count no changes."""
    with torch.inference_mode():
        layers = make_layers()
        packed = pack_convs(copy.deepcopy(layers))
        with torch.autocast('cpu', torch.bfloat16, enabled=amp):
            assert packed[0].weight.is_inference()
            assert_close(packed(x), layers(x))


def test_training_takes_the_usual_convolution(x):
    layers = make_layers()
    packed = pack_convs(copy.deepcopy(layers))
    with torch.no_grad():
        packed(x)
    packed(x).square().sum().backward()
    layers(x).square().sum().backward()
    assert torch.equal(packed[0].weight.grad, layers[0].weight.grad)


@torch.no_grad()
def test_other_types(x):
    layers = make_layers()
    packed = pack_convs(copy.deepcopy(layers))
    packed(x)
    assert torch.equal(packed.double()(x.double()), layers.double()(x.double()))
    packed.float(), layers.float()
    with torch.autocast('cpu', torch.bfloat16):
        out, expected = packed(x), layers(x)
        packed.double(), layers.double()
        assert torch.equal(packed(x.double()), layers(x.double()))  # autocast leaves it
    assert out.dtype == expected.dtype == torch.bfloat16
    assert torch.equal(out, expected)


@torch.no_grad()
def test_exports_take_the_usual_convolution(x, tmp_path):
    onnx = pytest.importorskip('onnx', reason='reads the export')
    network = GhostNetV2(out_indices=(3,), deploy=True)
    image = torch.rand(1, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    network(image)
    path = tmp_path / 'network.onnx'
    torch.onnx.export(network, (image,), path, dynamo=False)
    nodes = [node.op_type for node in onnx.load(path).graph.node]
    convs = sum(isinstance(m, nn.Conv2d) for m in network.modules())
    assert nodes.count('Conv') == convs + 1  # block 1.0 has one for each half
    assert 'BatchNormalization' not in nodes
    program = torch.export.export(network, (image,))
    assert not [n for n in program.graph.nodes if 'mkldnn' in str(n.target)]


class Shifted(nn.ReLU):
    def forward(self, x):
        return super().forward(x + 1)


@torch.no_grad()
def test_what_is_not_packed(x):
    """Subclasses, other paddings and a ReLU behind something else stay as they are."""
    layers = nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=1, padding_mode='reflect'),
        nn.Conv2d(8, 8, 3, padding='same'),
        nn.ReLU(),
        nn.Conv2d(8, 8, 1),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(8, 8, 1),
        Shifted(),
    )
    packed = pack_convs(copy.deepcopy(layers))
    assert [type(m) for m in packed][:3] == [nn.Conv2d, nn.Conv2d, nn.ReLU]
    assert len(packed) == 8 and not packed[3].relu and not packed[6].relu
    assert_close(packed(x), layers(x))
