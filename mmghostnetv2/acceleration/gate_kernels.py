"""Triton kernels that fuse the sigmoid, up-sampling and product of DFC attention."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable


@triton.jit
def _tile(height, width, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr):
    # The image, and the rows, columns and channels of a tile of the small gate.
    tiles = tl.cdiv(height * width, POSITIONS)
    n = (tl.program_id(0) // tiles).to(tl.int64)
    position = tl.program_id(0) % tiles * POSITIONS + tl.arange(0, POSITIONS)[:, None]
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    return n, position // width, position % width, channel


@triton.jit
def _target(y, x, mask, height, width, i, j, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    # Nearest up-sampling repeats the first row or column once more on odd sides.
    to_y, to_x = 2 * y + i, 2 * x + j
    mask = mask & (to_y < height) & (to_x < width)
    if ROWS == 3:
        mask = mask & ((y == 0) | (i > 0))
    if COLUMNS == 3:
        mask = mask & ((x == 0) | (j > 0))
    return to_y, to_x, mask


@triton.jit
def _forward(
    z,
    row,
    row_bias,
    column,
    column_bias,
    first,
    second,
    out,
    channels,
    first_channels,
    small_height,
    small_width,
    height,
    width,
    z_n,
    z_c,
    z_h,
    z_w,
    first_n,
    first_c,
    first_h,
    first_w,
    second_n,
    second_c,
    second_h,
    second_w,
    out_n,
    out_c,
    out_h,
    out_w,
    KERNEL: tl.constexpr,
    DILATION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    POSITIONS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    n, y, x, channel = _tile(small_height, small_width, POSITIONS, CHANNELS)
    inside = channel < channels
    mask = (y < small_height) & inside
    z += n * z_n + channel * z_c
    if KERNEL == 0:
        gate = tl.load(z + y * z_h + x * z_w, mask, 0).to(tl.float32)
    else:
        along_row_bias = tl.load(row_bias + channel, inside, 0).to(tl.float32)
        gate = tl.load(column_bias + channel, inside, 0).to(tl.float32)
        gate = tl.broadcast_to(gate, (POSITIONS, CHANNELS))
        for i in tl.static_range(KERNEL):
            from_y = y + (i - KERNEL // 2) * DILATION
            there = mask & (from_y >= 0) & (from_y < small_height)
            along_row = tl.broadcast_to(along_row_bias, (POSITIONS, CHANNELS))
            for j in tl.static_range(KERNEL):
                from_x = x + (j - KERNEL // 2) * DILATION
                value = tl.load(
                    z + from_y * z_h + from_x * z_w,
                    there & (from_x >= 0) & (from_x < small_width),
                    0,
                )
                weight = tl.load(row + channel * KERNEL + j, inside, 0)
                along_row += value.to(tl.float32) * weight.to(tl.float32)
            weight = tl.load(column + channel * KERNEL + i, inside, 0).to(tl.float32)
            # The column convolution pads the output of the row convolution with zeros.
            gate += tl.where(there, along_row * weight, 0)
    gate = tl.sigmoid(gate)

    first += n * first_n + channel * first_c
    second += n * second_n + (channel - first_channels) * second_c
    out += n * out_n + channel * out_c
    in_first, in_second = channel < first_channels, channel >= first_channels
    for i in tl.static_range(ROWS):
        for j in tl.static_range(COLUMNS):
            to_y, to_x, there = _target(y, x, mask, height, width, i, j, ROWS, COLUMNS)
            value = tl.load(
                first + to_y * first_h + to_x * first_w, there & in_first, 0
            ) + tl.load(
                second + to_y * second_h + to_x * second_w, there & in_second, 0
            )
            value = value.to(tl.float32) * gate
            value = value.to(out.dtype.element_ty)
            tl.store(out + to_y * out_h + to_x * out_w, value, there)


@triton.jit
def _backward(
    z,
    first,
    second,
    grad,
    grad_z,
    grad_first,
    grad_second,
    channels,
    first_channels,
    small_height,
    small_width,
    height,
    width,
    z_n,
    z_c,
    z_h,
    z_w,
    first_n,
    first_c,
    first_h,
    first_w,
    second_n,
    second_c,
    second_h,
    second_w,
    grad_n,
    grad_c,
    grad_h,
    grad_w,
    grad_z_n,
    grad_z_c,
    grad_z_h,
    grad_z_w,
    grad_first_n,
    grad_first_c,
    grad_first_h,
    grad_first_w,
    grad_second_n,
    grad_second_c,
    grad_second_h,
    grad_second_w,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    POSITIONS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    n, y, x, channel = _tile(small_height, small_width, POSITIONS, CHANNELS)
    mask = (y < small_height) & (channel < channels)
    in_first, in_second = channel < first_channels, channel >= first_channels
    of_second = channel - first_channels
    z += n * z_n + channel * z_c
    grad += n * grad_n + channel * grad_c
    first += n * first_n + channel * first_c
    second += n * second_n + of_second * second_c
    grad_z += n * grad_z_n + channel * grad_z_c
    grad_first += n * grad_first_n + channel * grad_first_c
    grad_second += n * grad_second_n + of_second * grad_second_c

    gate = tl.sigmoid(tl.load(z + y * z_h + x * z_w, mask, 0).to(tl.float32))
    total = tl.zeros((POSITIONS, CHANNELS), tl.float32)
    for i in tl.static_range(ROWS):
        for j in tl.static_range(COLUMNS):
            to_y, to_x, there = _target(y, x, mask, height, width, i, j, ROWS, COLUMNS)
            value = tl.load(
                first + to_y * first_h + to_x * first_w, there & in_first, 0
            ) + tl.load(
                second + to_y * second_h + to_x * second_w, there & in_second, 0
            )
            of_out = tl.load(grad + to_y * grad_h + to_x * grad_w, there, 0)
            of_out = of_out.to(tl.float32)
            total += of_out * value.to(tl.float32)
            of_feature = (of_out * gate).to(first.dtype.element_ty)
            tl.store(
                grad_first + to_y * grad_first_h + to_x * grad_first_w,
                of_feature,
                there & in_first,
            )
            tl.store(
                grad_second + to_y * grad_second_h + to_x * grad_second_w,
                of_feature,
                there & in_second,
            )
    total = (total * gate * (1 - gate)).to(grad_z.dtype.element_ty)
    tl.store(grad_z + y * grad_z_h + x * grad_z_w, total, mask)


def _launch(kernel, tensors, strided, **options) -> None:
    z, first = strided[:2]
    channels, *small = z.shape[1:]
    height, width = first.shape[-2:]
    # Neighbouring threads read values that lie side by side in memory.
    last = z.stride(1) == 1
    positions, per_tile = (16, 32) if last else (256, 1)
    grid = (
        z.shape[0] * triton.cdiv(small[0] * small[1], positions),
        triton.cdiv(channels, per_tile),
    )
    with torch.cuda.device_of(z):
        kernel[grid](
            *tensors,
            channels,
            first.shape[1],
            *small,
            height,
            width,
            *(stride for tensor in strided for stride in tensor.stride()),
            ROWS=2 + height % 2,
            COLUMNS=2 + width % 2,
            POSITIONS=positions,
            CHANNELS=per_tile,
            **options,
        )


def fused_gate(
    z: Tensor, first: Tensor, second: Tensor, convs: Sequence[nn.Conv2d] = ()
) -> Tensor:
    """Gate two concatenated features by the sigmoid of smaller ones, up-sampled.

    Args:
        z (Tensor): Features of half the size, (N, C, H // 2, W // 2).
        first (Tensor): Features to gate, (N, C1, H, W).
        second (Tensor): More of them, (N, C - C1, H, W), of the same data type.
        convs (Sequence[nn.Conv2d]): Depth-wise convolutions with biases that ``z``
            passes before the sigmoid: along rows and along columns, both of one length
            and dilation. None by default.

    Returns:
        Tensor: The concatenated features times the gate, (N, C, H, W), in their data
        type and in the memory format of ``z``. Sums are in float32.

    Raises:
        ValueError: The features do not fit ``z``.
    """
    channels = first.shape[1] + second.shape[1]
    sides = tuple(max(side // 2, 1) for side in first.shape[2:])
    fits = (len(first), channels, *sides) == z.shape
    if not fits or (len(first), first.shape[2:]) != (len(second), second.shape[2:]):
        raise ValueError(
            f'features {tuple(first.shape)} and {tuple(second.shape)} do not fit a '
            f'gate {tuple(z.shape)}'
        )
    is_channels_last = z.is_contiguous(memory_format=torch.channels_last)
    out = torch.empty(
        (*z.shape[:2], *first.shape[-2:]),
        dtype=first.dtype,
        device=z.device,
        memory_format=torch.channels_last
        if is_channels_last
        else torch.contiguous_format,
    )
    weights = [w for conv in convs for w in (conv.weight, conv.bias)] or [z] * 4
    _launch(
        _forward,
        (z, *weights, first, second, out),
        (z, first, second, out),
        KERNEL=convs[0].weight.shape[-1] if convs else 0,
        DILATION=convs[0].dilation[-1] if convs else 1,
    )
    return out


class FusedGate(Function):
    """:func:`fused_gate` without convolutions, for training."""

    @staticmethod
    def forward(ctx, z: Tensor, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(z, first, second)
        return fused_gate(z, first, second)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        inputs = ctx.saved_tensors
        grads = tuple(torch.empty_like(tensor) for tensor in inputs)
        tensors = *inputs, grad, *grads
        _launch(_backward, tensors, tensors)
        return grads
