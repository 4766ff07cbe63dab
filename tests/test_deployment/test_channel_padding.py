"""Padded networks compute the same, and no half of theirs is part of a block."""

import copy
import pickle

import pytest
import torch
from torch import nn

from mmghostnetv2.deployment.channel_padding import pad_ghost_channels
from mmghostnetv2.models import (
    DFCAttention,
    GhostBottleneck,
    GhostNet,
    GhostNetSelfAttention,
    GhostNetV2,
    fold_norms,
)

from ..test_models.conftest import randomise


@pytest.mark.parametrize(
    ('cls', 'kwargs'),
    [
        (GhostNet, {}),
        (GhostNetV2, {}),
        (GhostNetV2, dict(widen_factor=1.3, output_stride=8)),
        (GhostNetV2, dict(enhance='both')),
    ],
    ids=str,
)
@pytest.mark.parametrize('multiple', [8, 16])
@torch.no_grad()
def test_same_features(cls, kwargs, multiple):
    torch.manual_seed(0)
    network = randomise(cls(**kwargs, out_indices=range(10)))
    padded = pad_ghost_channels(fold_norms(copy.deepcopy(network)), multiple)
    x = torch.randn(2, 3, 65, 96)
    for out, expected in zip(padded(x), network.eval()(x), strict=True):
        assert out.shape == expected.shape
        assert (out - expected).abs().max() <= 1e-5 * expected.abs().max()
    for block in (block for stage in padded.blocks[:9] for block in stage):
        for ghost in (block.ghost1, block.ghost2):
            assert ghost.primary_conv[0].out_channels % multiple == 0
            assert ghost.cheap_operation[0].out_channels % multiple == 0


@torch.no_grad()
def test_odd_channels():
    """The second half has a channel less than the first."""
    torch.manual_seed(0)
    network = randomise(GhostNetV2(out_indices=(2,)))
    other = GhostBottleneck(16, 35, 23, stride=2, se_ratio=0.25, attention=DFCAttention)
    network.blocks[1][0] = randomise(other)
    network.blocks[2] = nn.Sequential(randomise(GhostBottleneck(23, 37, 23)))
    padded = pad_ghost_channels(fold_norms(copy.deepcopy(network)), 8)
    x = torch.randn(1, 3, 33, 32)
    (out,), (expected,) = padded(x), network.eval()(x)
    assert out.shape == expected.shape == (1, 23, 9, 8)
    assert (out - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.no_grad()
def test_model_with_a_backbone():
    torch.manual_seed(0)
    model = nn.Module()
    model.backbone = randomise(GhostNetV2(out_indices=(2,)))
    x = torch.randn(1, 3, 32, 32)
    expected = copy.deepcopy(model.backbone).eval()(x)[0]
    assert pad_ghost_channels(fold_norms(model), 8) is model
    torch.testing.assert_close(model.backbone(x)[0], expected, rtol=0, atol=1e-5)
    restored = pickle.loads(pickle.dumps(model))
    torch.testing.assert_close(restored.backbone(x)[0], expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match='is padded already'):
        pad_ghost_channels(model, 16)


@pytest.mark.parametrize(
    ('network', 'multiple', 'said'),
    [
        (nn.ReLU(), 8, 'only GhostNet and GhostNetV2 can be padded, not ReLU'),
        (GhostNet(), 8, 'bn1: BatchNorm2d is to be folded first'),
        (fold_norms(GhostNetSelfAttention()), 8, 'ghost1: SelfAttention cannot'),
        (fold_norms(GhostNet()), 0, 'multiple must be at least 1, got 0'),
    ],
    ids=lambda value: str(value)[:12],
)
def test_bad_arguments(network, multiple, said):
    with pytest.raises(ValueError, match=said):
        pad_ghost_channels(network, multiple)
