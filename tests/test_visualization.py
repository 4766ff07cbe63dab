"""Attention maps against finite differences, impulses and the layers themselves."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmghostnetv2.models import DFCAttention, GhostNetV2
from mmghostnetv2.visualization import (
    decoupled_attention,
    down_sampled_position,
    full_attention,
    image_sensitivity,
    record_inputs,
)

from .test_models.conftest import randomise

SIZES = pytest.mark.parametrize(
    ('size', 'position'),
    [
        ((8, 6), (3, 2)),
        ((7, 9), (6, 8)),  # the last row and column are not read
        ((11, 5), (2, 4)),  # not in row 2 // 2 of the half-sized maps
        ((1, 4), (0, 3)),
        ((1, 1), (0, 0)),
    ],
    ids=str,
)


def make(*channels, **kwargs):
    torch.manual_seed(0)
    return randomise(DFCAttention(*channels, **kwargs)).double().eval()


def differences(function, x, step=1e-5):
    """Central differences of a function of (N, ...) by each value of x, (1, ...).

    Returns (numbers that the function returns, *x.shape[1:]).
    """
    steps = step * torch.eye(x.numel(), dtype=x.dtype).view(-1, *x.shape[1:])
    with torch.no_grad():
        difference = (function(x + steps) - function(x - steps)) / (2 * step)
    return difference.T.reshape(-1, *x.shape[1:])


@SIZES
@pytest.mark.parametrize(
    'choices',
    [
        dict(),
        dict(out_channels=40),
        dict(dilation=2, kernel_size=3),
        dict(down_sampling='max'),
        dict(down_sampling='bilinear', up_sampling='bicubic'),
        dict(up_sampling='bilinear'),
        dict(up_sampling='bilinear', scaling_position='after', scaling='hard_sigmoid'),
        dict(norm_cfg=dict(type='GN', num_groups=1)),
    ],
    ids=str,
)
def test_full_attention_is_the_gates_dependence(size, position, choices):
    attention = make(3, **choices)
    x = torch.randn(1, 3, *size, dtype=torch.double)
    jacobian = differences(lambda x: attention.gate(x)[(..., *position)], x)
    assert len(jacobian) == choices.get('out_channels', 3)
    expected = jacobian.norm(dim=1).mean(0)
    assert expected.any()
    got = full_attention(attention, x, position)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)


@SIZES
@pytest.mark.parametrize(('kernel_size', 'dilation'), [(5, 1), (3, 2), (9, 1)])
def test_decoupled_attention_is_the_response_to_impulses(
    size, position, kernel_size, dilation
):
    attention = make(3, 6, kernel_size=kernel_size, dilation=dilation)
    *_, row, row_norm, column, column_norm = attention
    sides = [max(side // 2, 1) for side in size]
    # where nearest up-sampling takes the value from
    index = torch.arange(float(sides[0] * sides[1])).view(1, 1, *sides)
    index = F.interpolate(index, size, mode='nearest')[(0, 0, *position)]
    place = divmod(int(index), sides[1])
    assert down_sampled_position(size, position) == place

    def responses(*layers):
        """At the place, to a one at each position of all channels, less the bias."""
        one = torch.eye(sides[0] * sides[1], dtype=torch.double)
        one = one.view(-1, 1, *sides).expand(-1, 6, -1, -1)
        layers = nn.Sequential(*layers)
        with torch.no_grad():
            response = (layers(one) - layers(0 * one))[(..., *place)]
        return response.abs().mean(1).view(*sides)

    vertical, horizontal, product = decoupled_attention(attention, size, position)
    torch.testing.assert_close(vertical, responses(column, column_norm)[:, place[1]])
    torch.testing.assert_close(horizontal, responses(row, row_norm)[place[0]])
    torch.testing.assert_close(product, responses(row, row_norm, column, column_norm))


@pytest.mark.parametrize('position', [(0, 0), (6, 9), (13, 11)])
def test_with_one_channel_the_full_attention_is_the_product(position):
    """Eq. 3 is then Eqs. 4 and 5, times what the layers around them do."""
    attention = make(1)
    x = torch.randn(1, 1, 14, 12, dtype=torch.double)
    _, _, product = decoupled_attention(attention, (14, 12), position)
    with torch.no_grad():
        gate = attention.gate(x)[(0, 0, *position)]
        norm = attention[1]
        into_z = (
            attention[0].weight * norm.weight / (norm.running_var + norm.eps) ** 0.5
        )
        # of the mean of four pixels, through the 1x1 convolution and the sigmoid
        around = gate * (1 - gate) * into_z.abs().item() / 4
    expected = around * product.repeat_interleave(2, 0).repeat_interleave(2, 1)
    torch.testing.assert_close(full_attention(attention, x, position), expected)


def test_image_sensitivity_is_the_mean_gates_dependence():
    attention = make(4, 8)
    stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Tanh()).double()
    image = torch.randn(1, 3, 9, 12, dtype=torch.double)
    gradient = differences(
        lambda x: attention.gate(stem(x))[:, :, 3, 1].mean(1, keepdim=True), image
    )
    image.requires_grad_()
    features = stem(image)
    for _ in range(2):  # the graph serves several positions
        got = image_sensitivity(attention, features, image, (3, 1))
        torch.testing.assert_close(got, gradient[0].norm(dim=0), rtol=1e-6, atol=1e-9)


def test_recorded_inputs_are_the_outputs_of_the_stages_before():
    network = randomise(GhostNetV2(0.3, out_indices=(1, 2, 5, 7))).eval()
    x = torch.randn(1, 3, 64, 48)
    outs = []
    inputs = record_inputs(network, lambda: outs.extend(network(x)))
    blocks = ['2.0', '3.0', '4.0', '5.0', *(f'6.{i}' for i in range(5)), '7.0']
    assert list(inputs) == [f'blocks.{b}.ghost1.short_conv' for b in blocks]
    for block, out in (('2.0', outs[0]), ('3.0', outs[1]), ('6.0', outs[2])):
        path = f'blocks.{block}.ghost1.short_conv'
        attention, features = inputs[path]
        assert attention is network.get_submodule(path)
        torch.testing.assert_close(features, out, rtol=0, atol=0)
        assert features.requires_grad
    assert not any(module._forward_pre_hooks for module in network.modules())


class Twice(nn.Module):
    """Runs an attention twice, with other features, made in place."""

    def __init__(self):
        super().__init__()
        self.attention = DFCAttention(2)

    def forward(self, x):
        self.attention(x)
        self.attention(x.zero_())


def test_of_several_runs_the_first_is_recorded():
    network, x = Twice().eval(), torch.randn(1, 2, 4, 4)
    before = x.clone()
    inputs = record_inputs(network, lambda: network(x))
    assert list(inputs) == ['attention']
    torch.testing.assert_close(inputs['attention'][1], before)


def test_no_hook_stays_when_the_network_fails():
    network = Twice().eval()
    with pytest.raises(RuntimeError):
        record_inputs(network, lambda: network(torch.zeros(1, 7, 4, 4)))
    assert not network.attention._forward_pre_hooks


@pytest.mark.parametrize('position', [(8, 0), (0, 6), (-1, 0)])
def test_positions_outside_are_errors(position):
    attention, x = make(3), torch.zeros(1, 3, 8, 6, dtype=torch.double)
    said = r'position \(-?\d, \d\) lies outside features of size \(8, 6\)'
    with pytest.raises(IndexError, match=said):
        decoupled_attention(attention, (8, 6), position)
    with pytest.raises(IndexError, match=said):
        full_attention(attention, x, position)
    with pytest.raises(IndexError, match=said):
        image_sensitivity(attention, x, x, position)


def test_what_has_no_such_maps_is_an_error():
    attention, x = make(3).train(), torch.zeros(1, 3, 8, 6, dtype=torch.double)
    for compute in (
        lambda: decoupled_attention(attention, (8, 6), (0, 0)),
        lambda: full_attention(attention, x, (0, 0)),
        lambda: image_sensitivity(attention, x, x, (0, 0)),
    ):
        with pytest.raises(RuntimeError, match='training mode'):
            compute()
    with pytest.raises(ValueError, match="need up_sampling 'nearest', got 'bicubic'"):
        decoupled_attention(make(4, up_sampling='bicubic'), (8, 6), (0, 0))
    with pytest.raises(TypeError, match='must be batch norms, got GroupNorm'):
        decoupled_attention(
            make(4, norm_cfg=dict(type='GN', num_groups=2)), (8, 6), (0, 0)
        )
