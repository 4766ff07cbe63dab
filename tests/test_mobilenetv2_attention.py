"""MobileNetV2 with attention, against mmpretrain's without."""

import copy

import pytest
import torch
from torch import nn

pytest.importorskip('mmpretrain', reason='needs mmpretrain')
from mmpretrain.models import MobileNetV2

from mmghostnetv2.mobilenetv2_attention import MobileNetV2Attention
from mmghostnetv2.models import DFCAttention, SqueezeExcite

from .test_models.conftest import randomise

DFC = dict(attention=dict(type='DFCAttention'), position='expanded')
SE = dict(
    attention=dict(type='mmghostnetv2.SqueezeExcite', ratio=1 / 2, scaling='sigmoid'),
    position='output',
)
BOTH = pytest.mark.parametrize('cfg', [DFC, SE], ids=['expanded', 'output'])


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.randn(2, 3, 43, 36)


def build(cfg, **kwargs):
    network = MobileNetV2Attention(**cfg, widen_factor=0.5, **kwargs)
    randomise(network).eval()  # which returns None in mmpretrain
    return network


def blocks(network):
    found = [block for i in range(1, 8) for block in getattr(network, f'layer{i}')]
    assert len(found) == 17
    return found


@BOTH
def test_open_gates(cfg, x):
    """With gates of one it is mmpretrain's network, whose weights load by name."""
    network = build(cfg, out_indices=range(8))
    peer = randomise(MobileNetV2(widen_factor=0.5, out_indices=range(8)), seed=1)
    peer.eval()
    result = network.load_state_dict(peer.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert all('.conv.attention.' in key for key in result.missing_keys)
    with torch.no_grad():
        expected = peer(x)
        assert not any(map(torch.equal, network(x), expected))
        for block in blocks(network):
            attention = block.conv.attention
            last = attention[-1] if cfg is DFC else attention.conv_expand
            last.weight.zero_()
            last.bias.fill_(50.0)
        assert all(map(torch.equal, network(x), expected))


def test_expanded(x):
    """The block's input gates its expanded features, or itself where none expand."""
    network = build(DFC)
    x = network.conv1(x)
    for block in blocks(network):
        *expansion, depthwise, projection, attention = block.conv
        assert isinstance(attention, DFCAttention)
        gate = attention.gate(x)
        out = projection(depthwise(nn.Sequential(*expansion)(x) * gate))
        out = out + x if out.shape == x.shape else out
        x = block(x)
        torch.testing.assert_close(x, out)


def test_output(x):
    """What the projection says gates it, and not the shortcut."""
    network = build(SE)
    x = network.conv1(x)
    for block in blocks(network):
        *convs, attention = block.conv
        assert isinstance(attention, SqueezeExcite)
        out = nn.Sequential(*convs)(x)
        hidden = attention.conv_reduce(out.mean((2, 3), keepdim=True)).relu()
        out = out * attention.conv_expand(hidden).sigmoid()
        out = out + x if out.shape == x.shape else out
        x = block(x)
        torch.testing.assert_close(x, out)


@BOTH
def test_checkpointing(cfg, x):
    """It changes no output and no gradient; every parameter gets one."""
    network = build(cfg)
    other = build(cfg, with_cp=True)
    other.load_state_dict(network.state_dict())
    outs = []
    for each in (network, other):
        each.train()
        (out,) = each(x)
        out.square().mean().backward()
        outs.append(out)
    torch.testing.assert_close(*outs)
    pairs = zip(network.named_parameters(), other.parameters(), strict=True)
    for (name, one), two in pairs:
        assert one.grad.any() or one.ndim == 1, name
        torch.testing.assert_close(one.grad, two.grad)


@BOTH
def test_frozen_stages(cfg, x):
    """As in mmpretrain, with their attention; the rest learns."""
    network = build(cfg, frozen_stages=2)
    before = copy.deepcopy(network.state_dict())
    network.train()
    network(x)[0].square().mean().backward()
    for name, parameter in network.named_parameters():
        frozen = name.startswith(('conv1.', 'layer1.', 'layer2.'))
        assert parameter.requires_grad != frozen, name
        assert (parameter.grad is None) == frozen, name
    for name, buffer in network.named_buffers():
        if name.startswith('layer') and name.endswith('running_mean'):
            frozen = name.startswith(('layer1.', 'layer2.'))
            assert torch.equal(buffer, before[name]) == frozen, name


def test_bad_arguments():
    choices = "position must be one of 'expanded', 'output', got 'input'"
    with pytest.raises(ValueError, match=choices):
        MobileNetV2Attention(dict(type='DFCAttention'), position='input')
    with pytest.raises(TypeError, match='out_channels'):
        MobileNetV2Attention(dict(type='mmghostnetv2.CBAM'), position='expanded')
