"""DFC attention against the paper's formulas, written out."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from mmghostnetv2.models import DFCAttention, GhostModule

from .conftest import randomise

SIZES = pytest.mark.parametrize(
    'size', [(12, 10), (9, 7), (2, 3), (3, 2), (1, 6), (1, 1)], ids=str
)


def toeplitz(taps: torch.Tensor, size: int, dilation: int) -> torch.Tensor:
    """The matrices F of Eqs. 4 and 5, (C, size, size), whose rows share ``taps``."""
    channels, length = taps.shape
    matrix = taps.new_zeros(channels, size, size)
    for i, k in product(range(size), range(length)):
        j = i + (k - length // 2) * dilation
        if 0 <= j < size:
            matrix[:, i, j] = taps[:, k]
    return matrix


def down(x, kind):
    """Half the size, pixel by pixel; a side of one stays one."""
    height, width = x.shape[-2:]
    out = x.new_zeros(*x.shape[:2], max(height // 2, 1), max(width // 2, 1))
    rows, columns = out.shape[-2:]
    for i, j in product(range(rows), range(columns)):
        block = x[..., 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        if kind == 'average':
            out[..., i, j] = block.mean((2, 3))
        elif kind == 'max':
            out[..., i, j] = block.amax((2, 3))
        else:  # corners on corners
            y = i * (height - 1) / max(rows - 1, 1)
            z = j * (width - 1) / max(columns - 1, 1)
            out[..., i, j] = sum(
                x[..., v, u] * max(0, 1 - abs(y - v)) * max(0, 1 - abs(z - u))
                for v, u in product(range(height), range(width))
            )
    return out


def cubic(t):
    """Keys' kernel with a = -0.75, torch's choice."""
    t, a = abs(t), -0.75
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def up(x, size, kind):
    """Interpolation matrices, (size, small), for rows and columns."""

    def matrix(small, large):
        out = np.zeros((large, small))
        for i in range(large):
            if kind == 'nearest':
                out[i, i * small // large] = 1
                continue
            center = (i + 0.5) * small / large - 0.5
            if kind == 'bilinear':
                center = max(center, 0)
            first = int(np.floor(center))
            for j in range(first - 1, first + 3):
                distance = abs(center - j)
                weight = cubic(distance) if kind == 'bicubic' else max(0, 1 - distance)
                out[i, min(max(j, 0), small - 1)] += weight  # the border repeats
        return torch.from_numpy(out)

    rows, columns = (matrix(s, t) for s, t in zip(x.shape[-2:], size, strict=True))
    return torch.einsum('hi,ncij,wj->nchw', rows, x, columns)


SCALE = {
    'sigmoid': lambda a: 1 / (1 + torch.exp(-a)),
    'hard_sigmoid': lambda a: torch.clip(a + 3, 0, 6) / 6,
    'clip': lambda a: torch.clip(a, 0, 1),
}


def naive_gate(attention, x, dilation=1, **choices):
    """Sigmoid(A) of Eq. 6, with Eqs. 4 and 5 as products with explicit matrices."""
    conv, norm, row, row_norm, column, column_norm = attention
    z = down(x, choices.get('down_sampling', 'average'))
    z = norm(torch.einsum('oi,nihw->nohw', conv.weight[..., 0, 0], z))
    along_row = toeplitz(row.weight[:, 0, 0, :], z.shape[-1], dilation)
    z = row_norm(torch.einsum('cwv,nchv->nchw', along_row, z))
    along_column = toeplitz(column.weight[:, 0, :, 0], z.shape[-2], dilation)
    z = column_norm(torch.einsum('chg,ncgw->nchw', along_column, z))
    scale = SCALE[choices.get('scaling', 'sigmoid')]
    kind = choices.get('up_sampling', 'nearest')
    if choices.get('scaling_position', 'before') == 'before':
        return up(scale(z), x.shape[-2:], kind)
    return scale(up(z, x.shape[-2:], kind))


def draw(size, **kwargs):
    torch.manual_seed(0)
    attention = randomise(DFCAttention(6, 8, **kwargs)).double().eval()
    return attention, torch.randn(2, 6, *size, dtype=torch.double)


@SIZES
@pytest.mark.parametrize('kernel_size', [3, 5, 9])
@pytest.mark.parametrize('dilation', [1, 2])
def test_equations(size, kernel_size, dilation):
    """The convolutions are Eqs. 4 and 5 with matrices whose rows share weights."""
    attention, x = draw(size, kernel_size=kernel_size, dilation=dilation)
    with torch.no_grad():
        expected = naive_gate(attention, x, dilation)
        torch.testing.assert_close(attention.gate(x), expected)
        features = torch.randn(2, 8, *size, dtype=torch.double)
        torch.testing.assert_close(attention(x, features), features * expected)


@SIZES
@pytest.mark.parametrize(
    'choices',
    [
        dict(scaling='hard_sigmoid'),
        dict(scaling='clip'),
        dict(scaling='hard_sigmoid', scaling_position='after', up_sampling='bilinear'),
        dict(scaling='clip', scaling_position='after', up_sampling='bilinear'),
        dict(scaling_position='after', up_sampling='bicubic'),
        dict(down_sampling='max'),
        dict(down_sampling='bilinear'),
        dict(up_sampling='bilinear'),
        dict(up_sampling='bicubic'),
    ],
    ids=lambda choices: '-'.join(choices.values()),
)
def test_choices(size, choices):
    """Tables 9 and 10, each against a direct formula, and none a copy of another."""
    attention, x = draw(size, **choices)
    plain, _ = draw(size)
    with torch.no_grad():
        torch.testing.assert_close(
            attention.gate(x), naive_gate(attention, x, **choices)
        )
        if min(size) > 2:
            assert not torch.allclose(attention.gate(x), plain.gate(x))


def test_ghost_module():
    """Eq. 6: the product of the Ghost module's output and the gate of its input."""
    torch.manual_seed(0)
    module = randomise(GhostModule(6, 8, attention=DFCAttention)).double().eval()
    plain = GhostModule(6, 8).double().eval()
    plain.load_state_dict(module.state_dict(), strict=False)
    x = torch.randn(2, 6, 9, 7, dtype=torch.double)
    with torch.no_grad():
        expected = plain(x) * naive_gate(module.short_conv, x)
        torch.testing.assert_close(module(x), expected)


@SIZES
@pytest.mark.parametrize('up_sampling', ['nearest', 'bilinear', 'bicubic'])
def test_gradients(size, up_sampling):
    """They are those of the formula."""
    attention, x = draw(size, up_sampling=up_sampling)
    features = torch.randn(2, 8, *size, dtype=torch.double)
    factor = torch.randn(2, 8, *size, dtype=torch.double)
    leaves = [x, features, *attention.parameters()]
    for leaf in leaves:
        leaf.requires_grad_()
    gradients = torch.autograd.grad(attention(x, features), leaves, factor)
    expected = features * naive_gate(attention, x, up_sampling=up_sampling)
    expected = torch.autograd.grad(expected, leaves, factor)
    torch.testing.assert_close(gradients, expected)


@pytest.mark.parametrize('scaling', SCALE)
def test_gradients_of_gradients(scaling):
    attention, x = draw((3, 4), scaling=scaling)
    features = torch.randn(2, 8, 3, 4, dtype=torch.double)
    inputs = x.requires_grad_(), features.requires_grad_()
    assert torch.autograd.gradgradcheck(attention, inputs)


def test_an_empty_batch():
    x = torch.rand(0, 4, 6, 8, requires_grad=True)
    out = DFCAttention(4).eval()(x)
    assert out.shape == (0, 4, 6, 8)
    out.sum().backward()
    assert x.grad.shape == x.shape


def test_gradients_in_mixed_precision():
    """Features may be of another type than the gate."""
    torch.manual_seed(0)
    attention = randomise(DFCAttention(6)).eval()
    x = torch.randn(2, 6, 8, 8, requires_grad=True)
    with torch.autocast('cpu', torch.bfloat16):
        out = attention(x)
        expected = x * attention.gate(x)
    assert out.dtype == expected.dtype == torch.float32
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    (expected,) = torch.autograd.grad(expected.square().sum(), x)
    torch.testing.assert_close(gradient, expected, rtol=0.02, atol=0.02)


def test_alone():
    """Without features of others it gates its own input, of as many channels."""
    attention = DFCAttention(6).eval()
    x = torch.randn(1, 6, 5, 5)
    torch.testing.assert_close(attention(x), x * attention.gate(x))


def test_norm_cfg():
    attention = DFCAttention(4, norm_cfg=dict(type='GN', num_groups=2))
    assert sum(isinstance(layer, nn.GroupNorm) for layer in attention) == 3


@pytest.mark.parametrize(
    ('kwargs', 'said'),
    [
        (dict(kernel_size=4), 'kernel_size must be an odd int, got 4'),
        (dict(kernel_size=3.0), 'kernel_size must be an odd int, got 3.0'),
        (dict(scaling='tanh'), "scaling must be one of 'sigmoid', .* got 'tanh'"),
        (dict(scaling_position='BF'), "'before', 'after', got 'BF'"),
        (dict(down_sampling='nearest'), "'average', 'max', 'bilinear', got 'nearest'"),
        (dict(up_sampling='linear'), "'nearest', 'bilinear', 'bicubic', got 'linear'"),
    ],
    ids=str,
)
def test_bad_arguments(kwargs, said):
    with pytest.raises(ValueError, match=said):
        DFCAttention(8, **kwargs)
