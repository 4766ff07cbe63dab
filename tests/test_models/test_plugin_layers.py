"""SE, CBAM and CA against direct formulas; all attention layers as plugins."""

from importlib import import_module
from itertools import product

import pytest
import torch
from mmengine.registry import DefaultScope
from torch import nn

from mmghostnetv2.models import CBAM, CoordinateAttention, SqueezeExcite

from .conftest import randomise

MODES = pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])


# ---- direct formulas


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.randn(2, 12, 5, 7, dtype=torch.double)


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def linear(conv, x):
    """A 1x1 convolution of the vectors along dimension 1."""
    out = torch.einsum('oi,ni...->no...', conv.weight[..., 0, 0], x)
    return out + conv.bias.view(-1, *[1] * (x.ndim - 2))


def normalise(norm, x):
    """Batch norm of the vectors along dimension 1 of three."""
    mean, var = norm.running_mean, norm.running_var
    if norm.training:
        mean = x.mean((0, 2))
        var = (x - mean[:, None]).square().mean((0, 2))
    out = (x - mean[:, None]) / torch.sqrt(var[:, None] + norm.eps)
    return out * norm.weight[:, None] + norm.bias[:, None]


@pytest.mark.parametrize(
    ('scaling', 'scale'),
    [('sigmoid', sigmoid), ('hard_sigmoid', lambda g: torch.clip(g + 3, 0, 6) / 6)],
)
def test_squeeze_excite(scaling, scale, x):
    layer = SqueezeExcite(12, ratio=0.8, scaling=scaling).double()
    assert layer.conv_reduce.out_channels == 12  # 8 would be 17 % less than asked for
    mean = sum(x[..., i, j] for i, j in product(range(5), range(7))) / 35
    gate = linear(layer.conv_expand, linear(layer.conv_reduce, mean).clip(0))
    torch.testing.assert_close(layer(x), torch.einsum('nchw,nc->nchw', x, scale(gate)))


def test_squeeze_excite_is_mmpretrains(x):
    utils = pytest.importorskip('mmpretrain.models.utils', reason='the peer')
    layer = SqueezeExcite(12, ratio=2 / 3, scaling='sigmoid').double()
    peer = utils.SELayer(12, squeeze_channels=8).double()
    peer.conv1.conv.load_state_dict(layer.conv_reduce.state_dict())
    peer.conv2.conv.load_state_dict(layer.conv_expand.state_dict())
    torch.testing.assert_close(layer(x), peer(x))


@MODES
@pytest.mark.parametrize('kernel_size', [3, 7])
def test_cbam(training, kernel_size, x):
    layer = randomise(CBAM(12, ratio=1 / 3, kernel_size=kernel_size)).double()
    layer.train(training)
    reduce, _, expand = layer.channel_gate
    conv, norm = layer.position_gate
    assert reduce.out_channels == 4

    pixels = x.flatten(2)
    pooled = pixels.sum(2) / 35, pixels.sort(2).values[..., -1]
    gate = sum(linear(expand, linear(reduce, p).clip(0)) for p in pooled)
    expected = torch.einsum('nchw,nc->nchw', x, sigmoid(gate))

    pooled = torch.stack([expected.sum(1) / 12, expected.sort(1).values[:, -1]], 1)
    gate = torch.zeros(2, 5, 7, dtype=torch.double)
    for i, j, k, m in product(range(5), range(7), *[range(kernel_size)] * 2):
        row, column = i + k - kernel_size // 2, j + m - kernel_size // 2
        if 0 <= row < 5 and 0 <= column < 7:
            gate[:, i, j] += pooled[:, :, row, column] @ conv.weight[0, :, k, m]
    gate = sigmoid(normalise(norm, gate.view(2, 1, 35))).view(2, 5, 7)
    expected = torch.einsum('nchw,nhw->nchw', expected, gate)
    torch.testing.assert_close(layer(x), expected)


@MODES
def test_coordinate_attention(training, x):
    layer = randomise(CoordinateAttention(12, ratio=3 / 4)).double().train(training)
    conv, norm, _ = layer.reduce
    assert conv.out_channels == 9

    rows = torch.stack([x[:, :, i].mean(2) for i in range(5)], 2)
    columns = torch.stack([x[..., j].mean(2) for j in range(7)], 2)
    # one batch norm sees both
    lines = normalise(norm, linear(conv, torch.cat([rows, columns], 2)))
    lines = lines * torch.clip(lines + 3, 0, 6) / 6
    expected = torch.einsum(
        'nchw,nch,ncw->nchw',
        x,
        sigmoid(linear(layer.row_gate, lines[..., :5])),
        sigmoid(linear(layer.column_gate, lines[..., 5:])),
    )
    torch.testing.assert_close(layer(x), expected)


def test_cbam_refuses_even_kernels():
    with pytest.raises(ValueError, match='kernel_size must be an odd int, got 4'):
        CBAM(8, kernel_size=4)


def test_reduced_channels():
    """A 16th in CBAM; a 32nd in CA, but eight at least."""
    assert CBAM(192).channel_gate[0].out_channels == 12
    assert CoordinateAttention(320).reduce[0].out_channels == 10
    assert CoordinateAttention(64).reduce[0].out_channels == 8


@pytest.mark.parametrize('layer', [CBAM, CoordinateAttention])
def test_norm_cfg(layer):
    norms = [
        sum(isinstance(module, kind) for module in layer(8, **kwargs).modules())
        for kind, kwargs in (
            (nn.BatchNorm2d, {}),
            (nn.SyncBatchNorm, dict(norm_cfg=dict(type='SyncBN'))),
        )
    ]
    assert norms == [1, 1]


@pytest.mark.parametrize(
    ('layer', 'published'),
    [
        (lambda channels: SqueezeExcite(channels, 1 / 24), 3.89),
        (lambda channels: CBAM(channels, 1 / 24), 3.89),
        (lambda channels: CoordinateAttention(channels), 3.95),
    ],
    ids=['SE', 'CBAM', 'CA'],
)
def test_parameters(layer, published):
    """CA's paper (arXiv 2103.02907) compares the three on MobileNetV2, 3.505 M itself.

    They follow the depth-wise convolution of each block that expands.
    """
    inputs = [16, *[24] * 2, *[32] * 3, *[64] * 4, *[96] * 3, *[160] * 3]
    layers = nn.ModuleList(layer(6 * channels) for channels in inputs)
    added = sum(parameter.numel() for parameter in layers.parameters())
    assert 3.505 + added / 1e6 == pytest.approx(published, abs=0.005)


# ---- plugins

LIBRARIES = pytest.mark.parametrize('library', ['mmdet', 'mmseg'])
LAYERS = {
    'DFC': dict(type='DFCAttention'),
    'SE': dict(type='mmghostnetv2.SqueezeExcite', ratio=1 / 2),
    'CBAM': dict(type='mmghostnetv2.CBAM', ratio=1 / 2),
    'CA': dict(type='mmghostnetv2.CoordinateAttention'),
    'self-attention': dict(type='mmghostnetv2.SelfAttention'),
}
PLUGINS = pytest.mark.parametrize('layer', LAYERS.values(), ids=list(LAYERS))


def resnet(library, layer=None, **kwargs) -> dict:
    """Config of a narrow ResNet-50 with the layer in all stages but the first."""
    pytest.importorskip(library, reason=f'needs {library}')
    import_module(f'{library}.models')
    stages = (False, True, True, True)
    plugins = [dict(cfg=layer, stages=stages, position='after_conv2')]
    return dict(
        type=f'{library}.ResNet',
        depth=50,
        base_channels=8,
        norm_eval=False,
        plugins=plugins if layer else None,
        **kwargs,
    )


def build(scope, cfg):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(scope):
        return import_module(f'{scope}.registry').MODELS.build(cfg)


def check_gradients(network):
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.ndim == 1 or parameter.grad.any(), name


@LIBRARIES
@PLUGINS
def test_plugin(library, layer, images):
    """It changes the stages that it is in; everything learns."""
    network = build(library, resnet(library, layer))
    plain = build(library, resnet(library))
    weights = network.state_dict()
    assert not plain.load_state_dict(weights, strict=False).missing_keys
    x = images(64, 64)
    for each in (network, plain):
        each.eval()
    with torch.no_grad():
        same = list(map(torch.equal, network(x), plain(x)))
    assert same == [True, False, False, False]

    network.train()
    sum(out.square().mean() for out in network(x)).backward()
    check_gradients(network)


@LIBRARIES
@PLUGINS
def test_plugin_in_a_classifier(library, layer, images):
    """In mmpretrain by another library's ResNet: its own takes no plugins."""
    pytest.importorskip('mmpretrain', reason='needs mmpretrain')
    cfg = dict(
        type='ImageClassifier',
        backbone=resnet(library, layer, out_indices=(3,)),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=256),
    )
    network = build('mmpretrain', cfg)
    logits = network.train()(images(64, 64))
    nn.functional.cross_entropy(logits, torch.tensor([1, 2])).backward()
    check_gradients(network)
