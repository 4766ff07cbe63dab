"""The paper's ablations, Tables 1 and 6 to 10, as arguments and as networks."""

from itertools import combinations

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmghostnetv2.models import (
    DFCAttention,
    GhostNet,
    GhostNetSelfAttention,
    GhostNetV2,
    SelfAttention,
)
from mmghostnetv2.models.dfc_attention import downsample

from .conftest import randomise
from .test_complexity import Classifier, count

OPTIONS = {
    'table6': dict(dfc_kernel_sizes=(9, 7, 3)),
    'table7-none': dict(dfc_stages=()),
    'table7-all': dict(dfc_stages=(0, 1, 2, 3)),
    'table7-1': dict(dfc_stages=(1,)),
    'table7-2': dict(dfc_stages=[2]),
    'table7-3': dict(dfc_stages=(3,)),
    'table8-capacity': dict(enhance='capacity'),
    'table8-both': dict(enhance='both'),
    'table9-hard': dict(scaling='hard_sigmoid'),
    'table9-clip': dict(scaling='clip'),
    'table9-after': dict(scaling_position='after', up_sampling='bilinear'),
    'table10-max': dict(down_sampling='max'),
    'table10-bilinear': dict(down_sampling='bilinear', up_sampling='bilinear'),
    'table10-bicubic': dict(up_sampling='bicubic'),
}
NETWORKS = {name: (GhostNetV2, kwargs) for name, kwargs in OPTIONS.items()}
NETWORKS['table1'] = (GhostNetSelfAttention, {})
PAIR = GhostNet, GhostNetV2
SIZE = 128  # the smallest features of the attention have two pixels a side


@pytest.fixture(params=NETWORKS)
def network(request):
    cls, kwargs = NETWORKS[request.param]
    torch.manual_seed(0)
    return cls(out_indices=(4, 9), **kwargs)


def test_changes_outputs(network, images):
    """With the weights that both have in common."""
    default = randomise(GhostNetV2(out_indices=(4, 9))).eval()
    shared = default.state_dict()
    mine = network.state_dict()
    shared = {k: v for k, v in shared.items() if k in mine and mine[k].shape == v.shape}
    network.load_state_dict(shared, strict=False)
    batch = images(SIZE, SIZE)
    with torch.no_grad():
        (*_, mine), (*_, others) = network.eval()(batch), default(batch)
    assert mine.shape == others.shape
    assert (mine - others).abs().max() > 1e-4 * others.abs().max()


def test_trains(network, images):
    sum(out.square().mean() for out in network(images(SIZE, SIZE))).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        # a bias in front of the keys shifts a query's logits alike: softmax drops it
        assert parameter.grad.any() or name.endswith('qkv.bias'), name


# ---- what the arguments mean


def attentions(network):
    """For each block, the kernel sizes of both Ghost modules' DFC, 0 for none."""
    blocks = [block for stage in network.blocks[:-1] for block in stage]
    return [
        tuple(
            ghost.short_conv[2].kernel_size[1] if ghost.short_conv else 0
            for ghost in (block.ghost1, block.ghost2)
        )
        for block in blocks
    ]


def test_kernel_sizes():
    sizes = [
        ghost1 for ghost1, _ in attentions(GhostNetV2(dfc_kernel_sizes=(11, 9, 7)))
    ]
    assert sizes == [0] * 2 + [11] * 6 + [9] * 4 + [7] * 4
    everywhere = GhostNetV2(dfc_stages=(0, 1, 2, 3), dfc_kernel_sizes=(9, 7, 3))
    assert attentions(everywhere) == [(9, 0)] * 8 + [(7, 0)] * 4 + [(3, 0)] * 4
    assert set(attentions(GhostNetV2(dfc_kernel_sizes=1))[2:]) == {(1, 0)}
    square = everywhere.blocks[0][0].ghost1.short_conv
    assert square[2].kernel_size == (1, 9) and square[4].kernel_size == (9, 1)


def test_stages():
    def blocks(*stages):
        found = attentions(GhostNetV2(dfc_stages=stages))
        return [block for block, (ghost1, _) in enumerate(found) if ghost1]

    assert blocks() == []
    assert blocks(0) == [0, 1]
    assert blocks(1) == [2, 3, 4, 5, 6, 7]
    assert blocks(2, 3) == [8, 9, 10, 11, 12, 13, 14, 15]


def test_enhance():
    assert attentions(GhostNetV2()) == [(0, 0)] * 2 + [(5, 0)] * 14
    assert attentions(GhostNetV2(enhance='capacity')) == [(0, 0)] * 2 + [(0, 5)] * 14
    assert attentions(GhostNetV2(enhance='both')) == [(0, 0)] * 2 + [(5, 5)] * 14


def test_choices_reach_every_layer(images):
    """The gate of each layer is that of a layer of its own with these choices."""
    choices = dict(
        scaling='clip',
        scaling_position='after',
        down_sampling='max',
        up_sampling='bicubic',
    )
    network = GhostNetV2(enhance='both', **choices)
    layers = [m for m in network.modules() if isinstance(m, DFCAttention)]
    assert len(layers) == 28
    for layer in layers:
        own = DFCAttention(layer[0].in_channels, layer[0].out_channels, **choices)
        own.load_state_dict(randomise(layer).eval().state_dict())
        x = torch.randn(1, layer[0].in_channels, 9, 7)
        torch.testing.assert_close(layer.gate(x), own.eval().gate(x))


# ---- costs that the paper gives, Tables 1, 7 and 8


@pytest.mark.parametrize(
    ('cls', 'kwargs', 'paper_params', 'paper_flops'),
    [
        (GhostNetSelfAttention, {}, None, 172),
        (GhostNetV2, dict(dfc_stages=()), 5.2, 141),
        (GhostNetV2, dict(dfc_stages=(1,)), 5.3, 150),
        (GhostNetV2, dict(dfc_stages=(2,)), 5.4, 152),
        (GhostNetV2, dict(dfc_stages=(3,)), 5.8, 147),
        # Table 2 has 6.1 M, Table 7 5.8 M parameters
        (GhostNetV2, {}, 6.1, 168),
        (GhostNetV2, dict(enhance='capacity'), 6.1, 162),
        # exactly 7.105 M, the paper's 7.0 M adds and subtracts what it cut off
        (GhostNetV2, dict(enhance='both'), 7.105, 188),
    ],
    ids=str,
)
def test_complexity(cls, kwargs, paper_params, paper_flops):
    params, flops = (number / 1e6 for number in count(Classifier(cls(**kwargs)), 224))
    assert flops == pytest.approx(paper_flops, rel=0.015)
    if paper_params is not None:
        assert params == pytest.approx(paper_params, rel=0.015)


def test_no_other_split_has_the_costs_of_table_7():
    """Of all ways to cut the blocks in runs, each costs counted by its formula."""
    params, flops = [], []
    side = 112  # of the features that enter a block
    channels = 16
    for rows in GhostNet.arch_settings:
        for _, mid, out, _, stride in rows:
            # 1x1, 1x5 and 5x1 convolutions on features of half the size, three norms
            flops.append((side // 2) ** 2 * mid * (channels + 10) / 1e6)
            params.append(mid * (channels + 10 + 6) / 1e6)
            side, channels = side // stride, out
    costs = np.array([params, flops]).T
    plain, full = (np.divide(count(Classifier(cls()), 224), 1e6) for cls in PAIR)
    np.testing.assert_allclose(plain + costs[2:].sum(0), full)

    def fits(starts):
        runs = zip(starts, starts[1:], strict=False)
        found = np.array([plain + costs[first:end].sum(0) for first, end in runs])
        right_flops = (found[:, 1].round() == [150, 152, 147]).all()
        return right_flops and np.allclose(found[:, 0], [5.3, 5.4, 5.8], rtol=0.015)

    splits = [*filter(fits, combinations(range(17), 4))]
    assert splits == [(*GhostNetV2.dfc_stage_starts[1:], 16)]


# ---- self-attention


@pytest.mark.parametrize('size', [(8, 12), (10, 14), (7, 9), (2, 2), (1, 1)], ids=str)
@pytest.mark.parametrize('patch_size', [1, 2, 3])
def test_self_attention_against_direct_formula(size, patch_size):
    """Position by position: it attends to the same place of every patch."""
    torch.manual_seed(0)
    layer = SelfAttention(8, 12, num_heads=2, patch_size=patch_size)
    layer = randomise(layer).double().eval()
    nn.init.normal_(layer.norm.weight)
    x = torch.randn(2, 8, *size, dtype=torch.double)
    with torch.no_grad():
        z = downsample(x)
        mean = z.mean(1, keepdim=True)
        variance = (z - mean).square().mean(1, keepdim=True)
        normed = (z - mean) / (variance + 1e-5).sqrt()
        normed = normed * layer.norm.weight.view(-1, 1, 1)
        qkv = torch.einsum('oi,nihw->nohw', layer.qkv.weight, normed)
        qkv = qkv + layer.qkv.bias.view(-1, 1, 1)
        q, k, v = qkv.view(2, 3, 2, 4, *z.shape[-2:]).unbind(1)
        attended = torch.zeros(2, 2, 4, *z.shape[-2:], dtype=torch.double)
        for i, j in np.ndindex(*z.shape[-2:]):
            place = (
                slice(i % patch_size, None, patch_size),
                slice(j % patch_size, None, patch_size),
            )
            keys, values = (t[..., place[0], place[1]].flatten(3) for t in (k, v))
            logits = torch.einsum('nhd,nhdk->nhk', q[..., i, j], keys) / 2
            weights = logits.softmax(2)
            attended[..., i, j] = torch.einsum('nhk,nhdk->nhd', weights, values)
        expected = z + attended.flatten(1, 2)
        torch.testing.assert_close(layer.attend(z), expected)
        features = torch.randn(2, 12, *size, dtype=torch.double)
        gate = layer(x, torch.ones_like(features))
        assert gate.min() > 0 and gate.max() < 1
        torch.testing.assert_close(layer(x, features), features * gate)
        rows = torch.arange(size[0]) * z.shape[2] // size[0]
        columns = torch.arange(size[1]) * z.shape[3] // size[1]
        small = 1 / (1 + torch.exp(-layer.proj(expected)))
        torch.testing.assert_close(gate, small[..., rows, :][..., columns])


def test_self_attention_starts_at_stride_8():
    network = MODELS.build(dict(type='GhostNetSelfAttention'))
    blocks = [b for stage in network.blocks[:-1] for b in stage]
    found = [isinstance(block.ghost1.short_conv, SelfAttention) for block in blocks]
    assert found == [False] * 4 + [True] * 12


def test_self_attention_dilates_by_itself(images):
    network = GhostNetSelfAttention(output_stride=8, out_indices=(8,)).eval()
    assert network(images(64, 64))[0].shape == (2, 160, 8, 8)


# ---- arguments


@pytest.mark.parametrize(
    ('kwargs', 'said'),
    [
        (dict(dfc_stages=(4,)), r'dfc_stages .* 0 to 3, got \(4,\)'),
        (dict(dfc_stages=3), 'dfc_stages .* got 3'),
        (dict(dfc_stages=[[1]]), r'dfc_stages .* got \[\[1\]\]'),
        (dict(dfc_kernel_sizes=4), 'dfc_kernel_sizes must be an odd int.* got 4'),
        (dict(dfc_kernel_sizes=5.0), 'dfc_kernel_sizes must be an odd int.* got 5.0'),
        (dict(dfc_kernel_sizes=(5, 5)), r'dfc_kernel_sizes .* got \(5, 5\)'),
        (dict(dfc_kernel_sizes=(5, 5, 6)), r'got \(5, 5, 6\)'),
        (dict(dfc_kernel_sizes=-1), 'got -1'),
        (dict(dfc_kernel_sizes=True), 'got True'),
        (dict(enhance='width'), "enhance .* 'capacity', 'both', got 'width'"),
        (dict(scaling='relu'), "scaling must be .* got 'relu'"),
        (dict(scaling=['clip']), r"scaling must be .* got \['clip'\]"),
        (dict(up_sampling=2), 'up_sampling must be .* got 2'),
    ],
    ids=str,
)
def test_bad_arguments(kwargs, said):
    with pytest.raises(ValueError, match=said):
        GhostNetV2(**kwargs)


def test_heads_must_divide_channels():
    with pytest.raises(ValueError, match='multiple of num_heads=4, got 6'):
        SelfAttention(6)
