"""The Ghost module and the bottleneck of two of them."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from mmcv.cnn import build_activation_layer, build_norm_layer
from torch import Tensor, nn

from .checks import check_choice
from .recompute import recompute
from .squeeze_excite import SqueezeExcite

ENHANCED = ('expressiveness', 'capacity', 'both')


def depthwise_conv(
    channels: int, kernel_size: int, stride: int = 1, dilation: int = 1
) -> nn.Conv2d:
    """Build a depth-wise convolution that keeps ceil(size / stride) of each side."""
    return nn.Conv2d(
        channels,
        channels,
        kernel_size,
        stride,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        groups=channels,
        bias=False,
    )


class GhostModule(nn.Module):
    """Ghost module (paper section 3.1, Eqs. 1 and 2), with an optional attention.

    A 1x1 convolution computes half of the output channels, and a cheap depth-wise 3x3
    convolution computes the other half from them.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        dilation (int): Dilation of the spatial convolutions.
        attention (Callable, optional): Builds the attention that gates the output
            (section 4.2), for example the class DFCAttention. It is called with
            ``in_channels``, ``out_channels``, ``dilation`` and ``norm_cfg``.
        norm_cfg (dict): Config of the normalisation layers.
        act_cfg (dict, optional): Config of the activations. None means no activation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dilation: int = 1,
        attention: Callable[..., nn.Module] | None = None,
        norm_cfg: dict = dict(type='BN'),
        act_cfg: dict | None = dict(type='ReLU', inplace=True),
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        half = (out_channels + 1) // 2

        def with_norm_act(conv: nn.Conv2d) -> nn.Sequential:
            layers = [conv, build_norm_layer(norm_cfg, half)[1]]
            if act_cfg is not None:
                layers.append(build_activation_layer(act_cfg))
            return nn.Sequential(*layers)

        self.primary_conv = with_norm_act(nn.Conv2d(in_channels, half, 1, bias=False))
        self.cheap_operation = with_norm_act(depthwise_conv(half, 3, 1, dilation))
        self.short_conv = None  # the attention; the name is that of released weights
        if attention is not None:
            self.short_conv = attention(
                in_channels, out_channels, dilation=dilation, norm_cfg=norm_cfg
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        primary, cheap = self.halves(x)
        return self.attend(x, primary, cheap)

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute both halves of the output, of (out_channels + 1) // 2 channels."""
        primary = self.primary_conv(x)
        return primary, self.cheap_operation(primary)

    def norms(self) -> Iterable[nn.Module]:
        """Return the norms whose sum or concatenation is the output before the act."""
        return self.primary_conv[1], self.cheap_operation[1]

    def attend(self, x: Tensor, primary: Tensor, cheap: Tensor) -> Tensor:
        """Concatenate both halves, and gate them if there is an attention."""
        if self.out_channels % 2 == 1:  # both halves together have one extra channel
            cheap = cheap[:, :-1]
        out = torch.cat([primary, cheap], dim=1)
        return out if self.short_conv is None else self.short_conv(x, out)


class RecomputedGhostModule(GhostModule):
    """Ghost module that recomputes the attention in the backward pass.

    Autograd then stores neither the concatenation nor any feature of the attention.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        if self.short_conv is None or not torch.is_grad_enabled():
            return super().forward(x)
        inputs = x, *self.halves(x)
        return recompute(self.short_conv, *inputs, function=self.attend)


class GhostBottleneck(nn.Module):
    """Bottleneck of GhostNet and GhostNetV2 (paper Figure 4).

    Args:
        in_channels (int): Channels of the input.
        mid_channels (int): Expanded channels between the two Ghost modules.
        out_channels (int): Channels of the output.
        kernel_size (int): Kernel size of the depth-wise convolutions.
        stride (int): 1 or 2.
        se_ratio (float): ``ratio`` of :class:`SqueezeExcite`. 0 means none.
        attention (Callable, optional): As in :class:`GhostModule`.
        enhance (str): Which Ghost module the attention gates (Table 8):
            'expressiveness', the first and so the expanded features, 'capacity', the
            second and so the output, or 'both'.
        dilation (int): Dilation of the convolutions at the input's resolution.
        keep_size (bool): Replace stride 2 by dilation. The layers are the same, but
            none has a stride, and those after the depth-wise convolution have twice the
            dilation.
        norm_cfg (dict): Config of the normalisation layers.
        act_cfg (dict): Config of the activation of the first Ghost module.
        ghost_module (type): Class of both Ghost modules.

    Raises:
        ValueError: ``enhance`` is not one of the allowed values.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        se_ratio: float = 0.0,
        attention: Callable[..., nn.Module] | None = None,
        enhance: str = 'expressiveness',
        dilation: int = 1,
        keep_size: bool = False,
        norm_cfg: dict = dict(type='BN'),
        act_cfg: dict = dict(type='ReLU', inplace=True),
        ghost_module: type[GhostModule] = GhostModule,
    ) -> None:
        super().__init__()
        check_choice('enhance', enhance, ENHANCED)
        first, second = (
            attention if enhance in (feature, 'both') else None
            for feature in ENHANCED[:2]
        )
        self.ghost1 = ghost_module(
            in_channels, mid_channels, dilation, first, norm_cfg, act_cfg
        )
        self.conv_dw: Any = None
        self.bn_dw: Any = None
        self.se = None
        out_dilation, conv_stride = dilation, stride
        if keep_size:
            out_dilation, conv_stride = dilation * stride, 1
        if stride > 1:
            self.conv_dw = depthwise_conv(
                mid_channels, kernel_size, conv_stride, dilation
            )
            self.bn_dw = build_norm_layer(norm_cfg, mid_channels)[1]
        if se_ratio > 0:
            self.se = SqueezeExcite(mid_channels, se_ratio)
        self.ghost2 = ghost_module(
            mid_channels, out_channels, out_dilation, second, norm_cfg, act_cfg=None
        )
        self.shortcut = nn.Sequential()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                depthwise_conv(in_channels, kernel_size, conv_stride, dilation),
                build_norm_layer(norm_cfg, in_channels)[1],
                nn.Conv2d(in_channels, out_channels, 1, bias=False),
                build_norm_layer(norm_cfg, out_channels)[1],
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, ceil(H/s), ceil(W/s)).

        ``s`` is the stride, or 1 with ``keep_size``.
        """
        out = self.ghost1(x)
        if self.conv_dw is not None:
            out = self.depthwise(out)
        if self.se is not None:
            out = self.se(out)
        return self.ghost2(out) + self.shortcut(x)

    def depthwise(self, x: Tensor) -> Tensor:
        """Compute the depth-wise convolution of a block with stride 2."""
        return self.bn_dw(self.conv_dw(x))
