from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from warnings import warn

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ..registry import register_model
from .concat import concat, is_traced
from .recompute import recompute

SCALINGS = {
    'sigmoid': torch.sigmoid,
    'hard_sigmoid': F.hardsigmoid,
    'clip': lambda logits: logits.clamp(0, 1),
}
POSITIONS = ('before', 'after')
DOWN_SAMPLINGS = ('average', 'max', 'bilinear')
UP_SAMPLINGS = ('nearest', 'bilinear', 'bicubic')
# values of one image in features that are made again in the backward pass; of fewer
# ones there is less to save than it costs
RECOMPUTED = 2**15
# values of one image up to which 32 bits hold the kernels' offsets
FUSED = 2**30
# in which sums in float32 lose nothing
KERNEL_TYPES = {torch.float16, torch.bfloat16, torch.float32}


@cache
def kernels() -> ModuleType | None:
    """Return the module of the kernels for GPUs; None where Triton does not work."""
    if not find_spec('triton'):
        return None
    try:
        module = import_module('.fused_gate', __package__)
        ones = torch.ones(1, 1, 1, 1, device='cuda')
        module.fused_gate(ones, [ones.expand(1, 1, 2, 2)])
        torch.cuda.synchronize()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # without a compiler, on an old GPU: of many kinds
        message = f'DFC attention runs in plain operators, as Triton fails: {error}'
        warn(message, stacklevel=2)
        return None
    return module


def check_choice(name: str, value, choices) -> None:
    """Raise a ValueError that names the argument and what it may be."""
    if value not in choices:
        allowed = ', '.join(map(repr, choices))
        raise ValueError(f'{name} must be one of {allowed}, got {value!r}')


def halve(x: Tensor, down_sampling: str = 'average') -> Tensor:
    """Down-sample to half the height and width, rounded down, but to one at least."""
    # a side of one pixel has nothing to halve
    window = tuple(2 if side > 1 else 1 for side in x.shape[-2:])
    if down_sampling == 'bilinear':
        size = [s // w for s, w in zip(x.shape[-2:], window, strict=True)]
        # with corners not aligned it would be the average of each 2x2
        return F.interpolate(x, size=size, mode='bilinear', align_corners=True)
    pool = F.max_pool2d if down_sampling == 'max' else F.avg_pool2d
    return pool(x, window)


def restore(x: Tensor, size: tuple[int, int], up_sampling: str = 'nearest') -> Tensor:
    """Up-sample what :func:`halve` made of features to their height and width."""
    if up_sampling != 'nearest' or torch.onnx.is_in_onnx_export():
        return F.interpolate(x, size=size, mode=up_sampling)
    # The nearest pixel for any size, in operators that LiteRT computes alike, too: it
    # takes other pixels where the size is no multiple. ONNX has an exact one.
    doubled = [2 if side > 1 else 1 for side in size]
    x = F.interpolate(x, scale_factor=doubled, mode='nearest')
    for dim, side in zip((-2, -1), size, strict=True):
        if x.shape[dim] < side:  # odd: the first row or column once more
            x = torch.cat([x.narrow(dim, 0, 1), x], dim)
    return x


def _gate(gate: Tensor, up_sampling: str, *features: Tensor) -> Tensor:
    like = features[0]
    gate = restore(gate.to(like.dtype), like.shape[-2:], up_sampling)
    # in its place, which also concatenates
    for part, feature in zip(gate.split(_channels(features), 1), features, strict=True):
        part.mul_(feature)
    return gate


def _channels(features: Sequence[Tensor]) -> list[int]:
    return [feature.shape[1] for feature in features]


class _Gate(Function):
    """:func:`_gate` that keeps less for the backward pass.

    Autograd would keep the concatenation and the up-sampled gate. Both are made again,
    of features that the convolutions before have kept anyway.
    """

    @staticmethod
    def forward(ctx, gate: Tensor, up_sampling: str, *features: Tensor) -> Tensor:
        ctx.save_for_backward(gate, *features)
        ctx.up_sampling = up_sampling
        return _gate(gate, up_sampling, *features)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple:
        gate, *features = ctx.saved_tensors
        with torch.enable_grad():
            gate = gate.detach().requires_grad_()
            restored = restore(gate, grad.shape[-2:], ctx.up_sampling)
        products = torch.empty_like(grad, dtype=gate.dtype)
        parts = (
            x.split(_channels(features), dim=1)
            for x in (grad, restored.detach(), products)
        )
        grads = []
        for part, factor, product, feature in zip(*parts, features, strict=True):
            grads.append(part * factor)
            torch.mul(part, feature, out=product)
        (grad_gate,) = torch.autograd.grad(restored, gate, products)
        return grad_gate, None, *grads


@register_model
class DFCAttention(nn.Sequential):
    """Decoupled fully connected attention (GhostNetV2 paper, section 4.1, Eqs. 4-6).

    Every value of the gate gathers a whole neighbourhood: first along its row, then
    along its column, by two depth-wise convolutions on features of half the size. The
    six layers are held as items 0 to 5, the names of the released weights. The defaults
    are the released code's.

    Besides its place in a Ghost module it is a layer by itself, and a plugin for
    ``ResNet(plugins=[dict(cfg=dict(type='DFCAttention'), ...)])`` of mmdet and mmseg.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int, optional): Channels of the gate. As many as the input's by
            default.
        kernel_size (int): Length of the row and of the column convolution; odd.
        dilation (int): Dilation of both.
        scaling (str): Function that brings the gate into 0 to 1 (Table 9): 'sigmoid',
            'hard_sigmoid', relu6(x + 3) / 6, or 'clip', min(max(x, 0), 1).
        scaling_position (str): Whether that is 'before' or 'after' the up-sampling
            (Table 9); after it costs four times as many evaluations.
        down_sampling (str): 'average' or 'max' pooling, or 'bilinear' interpolation
            (Table 10).
        up_sampling (str): 'nearest', 'bilinear' or 'bicubic' (Table 10); the last
            overshoots 0 and 1 a little where scaling comes before.
        norm_cfg (dict): Config of the normalisation layers.

    Raises:
        ValueError: ``kernel_size`` is even, and the gate would not fit the features, or
            another argument is none of its choices.
    """

    _abbr_ = 'dfc'

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int = 5,
        dilation: int = 1,
        scaling: str = 'sigmoid',
        scaling_position: str = 'before',
        down_sampling: str = 'average',
        up_sampling: str = 'nearest',
        norm_cfg: dict = dict(type='BN'),
    ) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f'kernel_size must be odd, got {kernel_size}')
        check_choice('scaling', scaling, SCALINGS)
        check_choice('scaling_position', scaling_position, POSITIONS)
        check_choice('down_sampling', down_sampling, DOWN_SAMPLINGS)
        check_choice('up_sampling', up_sampling, UP_SAMPLINGS)
        out_channels = out_channels or in_channels

        def conv_norm(channels: int, kernel: tuple[int, int], groups: int = 1):
            padding = tuple(dilation * (k // 2) for k in kernel)
            yield nn.Conv2d(
                channels,
                out_channels,
                kernel,
                padding=padding,
                dilation=dilation,
                groups=groups,
                bias=False,
            )
            yield build_norm_layer(norm_cfg, out_channels)[1]

        super().__init__(
            *conv_norm(in_channels, (1, 1)),
            *conv_norm(out_channels, (1, kernel_size), out_channels),
            *conv_norm(out_channels, (kernel_size, 1), out_channels),
        )
        self.scaling = scaling
        self.scaling_position = scaling_position
        self.down_sampling = down_sampling
        self.up_sampling = up_sampling

    def _scale(self, gate: Tensor) -> Tensor:
        return SCALINGS[self.scaling](gate)

    def _logits(self, x: Tensor) -> Tensor:
        pointwise, *between, last = self
        z = pointwise(halve(x, self.down_sampling))
        large = z.shape[1:].numel() > RECOMPUTED
        # on a GPU time is dearer, as there to launch a layer costs as much as it does
        if large and z.requires_grad and not z.is_cuda and not is_traced():
            # three features of its size would be kept, which are cheap to make again
            z = recompute(nn.Sequential(*between), z)
        else:
            for layer in between:
                z = layer(z)
        return last(z)

    def _small_gate(self, x: Tensor) -> Tensor:
        z = self._logits(x)
        return self._scale(z) if self.scaling_position == 'before' else z

    def _is_fusable(self, x: Tensor, features: Sequence[Tensor]) -> bool:
        return (
            x.is_cuda
            and type(x) is Tensor  # not a tracer's
            and not is_traced()
            and len(features) <= 2
            and features[0].shape[1:].numel() <= FUSED
            and {x.dtype, *(f.dtype for f in features)} <= KERNEL_TYPES
            and features[0].dtype == features[-1].dtype
            and self.scaling == 'sigmoid'
            and self.scaling_position == 'before'
            and self.up_sampling == 'nearest'
            and kernels() is not None
        )

    def _fused(self, x: Tensor, features: Sequence[Tensor]) -> Tensor:
        if torch.is_grad_enabled():
            return kernels().FusedGate.apply(self._logits(x), *features)
        layers = [m for m in self if not isinstance(m, nn.Identity)]
        # batch norms that are there, or went without a trace, are not folded
        if len(layers) > 3 or any(conv.bias is None for conv in layers[1:]):
            return kernels().fused_gate(self._logits(x), features)
        pointwise, *convs = layers
        z = pointwise(halve(x, self.down_sampling))
        return kernels().fused_gate(z, features, convs)

    def gate(self, x: Tensor) -> Tensor:
        """Compute the gate, Sigmoid(A) of Eq. 6.

        Args:
            x (Tensor): Features of shape (N, in_channels, H, W), any H and W >= 1.

        Returns:
            Tensor: Gate of shape (N, out_channels, H, W), from 0 to 1.
        """
        gate = self._small_gate(x)
        gate = restore(gate, x.shape[-2:], self.up_sampling)
        return self._scale(gate) if self.scaling_position == 'after' else gate

    def forward(self, x: Tensor, *features: Tensor) -> Tensor:
        """Gate features by what ``x`` says of each position.

        Args:
            x (Tensor): Features of shape (N, in_channels, H, W), any H and W >= 1.
            features (Tensor): Features to gate, in a Ghost module the two halves of its
                output, which are concatenated: together of shape (N, out_channels, H,
                W). ``x`` itself by default.

        Returns:
            Tensor: Gated features, of shape (N, out_channels, H, W).
        """
        features = features or (x,)
        if self._is_fusable(x, features):
            return self._fused(x, features)
        if self.scaling_position == 'before' and not is_traced():
            function = _Gate.apply if torch.is_grad_enabled() else _gate
            return function(self._small_gate(x), self.up_sampling, *features)
        return concat(features) * self.gate(x)
