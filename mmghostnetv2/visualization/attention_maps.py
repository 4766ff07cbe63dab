"""Maps of the positions that DFC attention uses: paper, Eqs. 3 to 6 and Figure 6."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..models import DFCAttention


def record_inputs(
    model: nn.Module, forward: Callable[[], object]
) -> dict[str, tuple[DFCAttention, Tensor]]:
    """Run a network and record the input of each of its DFC attentions.

    Args:
        model (nn.Module): Any network.
        forward (Callable): Function without arguments that runs it.

    Returns:
        dict[str, tuple[DFCAttention, Tensor]]: By the module's path and in the order of
        running, each attention that ran and the input features X of its first run, of
        shape (N, in_channels, H, W). They keep their place in autograd's graph.
    """
    inputs: dict[str, tuple[DFCAttention, Tensor]] = {}

    def record(path: str, attention: DFCAttention, args: tuple) -> None:
        # The next layer may change the features in place.
        inputs.setdefault(path, (attention, args[0].clone()))

    with ExitStack() as hooks:
        for path, module in model.named_modules():
            if isinstance(module, DFCAttention):
                hook = module.register_forward_pre_hook(partial(record, path))
                hooks.enter_context(hook)
        forward()
    return inputs


def down_sampled_position(
    size: tuple[int, int], position: tuple[int, int]
) -> tuple[int, int]:
    """Find the row and the column in the half-sized maps for a position of the gate.

    Nearest up-sampling copies this value to the position. ``size`` is the height and
    the width of the attention's input features.
    """
    row, column = (
        p * max(side // 2, 1) // side for p, side in zip(position, size, strict=True)
    )
    return row, column


def decoupled_attention(
    attention: DFCAttention,
    size: tuple[int, int],
    position: tuple[int, int],
    channel: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the weights of the features Z in the attention A (Eqs. 4, 5, Figure 6).

    Z is the output of the 1x1 convolution on the down-sampled input. In each channel, A
    at a position is a weighted sum of Z. The weight of Z at row h' and column w' is the
    product of the weight of h' in the vertical FC layer and that of w' in the
    horizontal one, each multiplied by the scale of the norm after it. The weights do
    not depend on the image.

    Args:
        attention (DFCAttention): The attention, in eval mode, with batch norms.
        size (tuple[int, int]): Height and width of its input features X.
        position (tuple[int, int]): Row and column of a value of the gate. Its place in
            A is the :func:`down_sampled_position`.
        channel (int, optional): Channel of the gate; the mean over all by default.

    Returns:
        tuple[Tensor, Tensor, Tensor]: Means over the channels of the absolute vertical
        weights F^H, of shape (H / 2,), of the horizontal ones F^W, (W / 2,), and of
        their products, (H / 2, W / 2); the sides are rounded down, but to one at least.

    Raises:
        IndexError: The position lies outside the features.
        RuntimeError: The attention is in training mode.
        TypeError: A norm is not a batch norm, so that its scale depends on the image.
        ValueError: The up-sampling is not 'nearest', so that the gate at a position
            depends on several positions of A.
    """
    _check(attention, size, position)
    if attention.up_sampling != 'nearest':
        raise ValueError(
            "the weights of one position need up_sampling 'nearest', got "
            f'{attention.up_sampling!r}, which mixes several positions'
        )
    _, _, row, row_norm, column, column_norm = attention
    height, width = (max(side // 2, 1) for side in size)
    place = down_sampled_position(size, position)
    vertical = _line(column, column_norm, (height, 1), place[0])
    horizontal = _line(row, row_norm, (1, width), place[1])
    if channel is not None:
        vertical, horizontal = vertical[[channel]], horizontal[[channel]]
    product = vertical[:, :, None] * horizontal[:, None, :]
    return vertical.mean(0), horizontal.mean(0), product.mean(0)


def full_attention(
    attention: DFCAttention,
    features: Tensor,
    position: tuple[int, int],
    channel: int | None = None,
) -> Tensor:
    """Compute how the gate at one position depends on every position of the features.

    The attention replaces the FC layer of Eq. 3 from its input X to the gate. This
    function linearises it at X: it computes d gate_c(position) / d X(:, h', w'), its
    2-norm over the channels of X, and the mean of these norms over the channels c.

    Args:
        attention (DFCAttention): The attention, in eval mode.
        features (Tensor): Its input features X, of shape (1, in_channels, H, W).
        position (tuple[int, int]): Row and column of the value of the gate.
        channel (int, optional): Channel of the gate; the mean over all by default.

    Returns:
        Tensor: Change of the gate, whose range is 0 to 1, per unit of X, of shape
        (H, W).

    Raises:
        IndexError: The position lies outside the features.
        RuntimeError: The attention is in training mode.
    """
    size = features.shape[-2:]
    _check(attention, size, position)
    last: Any = attention[4]
    channels = torch.arange(last.out_channels, device=features.device)
    if channel is not None:
        channels = channels[[channel]]
    total = features.new_zeros(size)
    for part in channels.split(32):
        # One copy of X for each channel of the gate makes one backward pass enough.
        copies = features.detach().expand(len(part), -1, -1, -1).requires_grad_()
        with torch.enable_grad():
            gate = attention.gate(copies)[:, :, position[0], position[1]]
            own = gate.gather(1, part[:, None]).sum()
        total += torch.autograd.grad(own, copies)[0].norm(dim=1).sum(0)
    return total / len(channels)


def image_sensitivity(
    attention: DFCAttention,
    features: Tensor,
    images: Tensor,
    position: tuple[int, int],
    channel: int | None = None,
) -> Tensor:
    """Compute how the gate at one position depends on every pixel of the image.

    This is the 2-norm over the colours of d g / d image(:, y, x), where g is one
    channel of the gate or the mean over all. The gradient passes through all layers
    before the attention, including other attentions.

    Args:
        attention (DFCAttention): The attention, in eval mode.
        features (Tensor): Its input features, of shape (1, in_channels, H, W), computed
            from ``images`` with autograd.
        images (Tensor): The network's input, of shape (1, 3, height, width).
        position (tuple[int, int]): Row and column of the value of the gate.
        channel (int, optional): Channel of the gate; the mean over all by default.

    Returns:
        Tensor: Change of the gate per unit of ``images``, of shape (height, width).

    Raises:
        IndexError: The position lies outside the features.
        RuntimeError: The attention is in training mode, or there is no graph from
            ``images`` to ``features``.
    """
    _check(attention, features.shape[-2:], position)
    with torch.enable_grad():
        gate = attention.gate(features)[0, :, position[0], position[1]]
        gate = gate.mean() if channel is None else gate[channel]
    (gradient,) = torch.autograd.grad(gate, images, retain_graph=True)
    return gradient[0].norm(dim=0)


def _check(attention: DFCAttention, size, position: tuple[int, int]) -> None:
    if attention.training:
        raise RuntimeError('the attention is in training mode, call its eval() first')
    if not all(0 <= p < side for p, side in zip(position, size, strict=True)):
        raise IndexError(
            f'position {tuple(position)} lies outside features of size {tuple(size)}'
        )


def _line(conv: Any, norm: Any, shape: tuple[int, int], place: int) -> Tensor:
    """Return the absolute weights of a row or column of Z, (C, length), at a place."""
    if getattr(norm, 'running_var', None) is None:
        raise TypeError(
            'the weights of DFC attention include the scales of its norms, which must '
            f'be batch norms, got {type(norm).__name__}'
        )
    # The layers are linear apart from a constant, so that a gradient has the weights.
    z = conv.weight.new_zeros(1, conv.in_channels, *shape, requires_grad=True)
    with torch.enable_grad():
        value = norm(conv(z)).flatten(2)[:, :, place].sum()
    (weights,) = torch.autograd.grad(value, z)
    return weights[0].flatten(1).abs()
