from collections.abc import Callable, Sequence

import torch.nn.functional as F
from mmcv.cnn import build_activation_layer, build_norm_layer
from torch import Tensor, nn

from .concat import concat
from .dfc_attention import check_choice
from .squeeze_excite import SqueezeExcite

ENHANCED = ('expressiveness', 'capacity', 'both')


def depthwise_conv(
    channels: int,
    kernel_size: int,
    stride: int = 1,
    dilation: int = 1,
    cls: type[nn.Conv2d] = nn.Conv2d,
) -> nn.Conv2d:
    """Build a depth-wise convolution that keeps ceil(size / stride) of each side."""
    return cls(
        channels,
        channels,
        kernel_size,
        stride,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        groups=channels,
        bias=False,
    )


class DepthwiseConcat(nn.Conv2d):
    """Depth-wise convolution of features in parts, which concatenates its outputs.

    To concatenate behind a stride moves a quarter of what it would move before.
    """

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """Map parts of shape (N, C1, H, W), ... to (N, C1 + ..., H', W')."""
        channels = [part.shape[1] for part in parts]
        weights = self.weight.split(channels)
        biases = [None] * len(parts) if self.bias is None else self.bias.split(channels)
        return concat(
            [
                F.conv2d(*tensors, self.stride, self.padding, self.dilation, groups)
                for *tensors, groups in zip(
                    parts, weights, biases, channels, strict=True
                )
            ]
        )


class GhostModule(nn.Module):
    """Ghost module (paper section 3.1, Eqs. 1 and 2), gated on request.

    A 1x1 convolution makes half of the channels, a cheap depth-wise 3x3 of those makes
    the other half.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        dilation (int): Dilation of the spatial convolutions.
        attention (Callable, optional): Makes the attention that gates the output
            (section 4.2), such as the class DFCAttention; called with both numbers of
            channels, ``dilation`` and ``norm_cfg``.
        norm_cfg (dict): Config of the normalisation layers.
        act_cfg (dict | None): Config of the activations, None for none.
        in_parts (bool): Return both halves of the output by themselves; not with an
            attention.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dilation: int = 1,
        attention: Callable[..., nn.Module] | None = None,
        norm_cfg: dict = dict(type='BN'),
        act_cfg: dict | None = dict(type='ReLU', inplace=True),
        in_parts: bool = False,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.in_parts = in_parts
        half = (out_channels + 1) // 2

        def with_norm_act(conv: nn.Conv2d) -> nn.Sequential:
            layers = [conv, build_norm_layer(norm_cfg, half)[1]]
            if act_cfg is not None:
                layers.append(build_activation_layer(act_cfg))
            return nn.Sequential(*layers)

        self.primary_conv = with_norm_act(nn.Conv2d(in_channels, half, 1, bias=False))
        self.cheap_operation = with_norm_act(depthwise_conv(half, 3, 1, dilation))
        self.short_conv = None  # the released weights' name of the attention
        if attention is not None:
            self.short_conv = attention(
                in_channels, out_channels, dilation=dilation, norm_cfg=norm_cfg
            )

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        primary = self.primary_conv(x)
        cheap = self.cheap_operation(primary)
        if self.out_channels % 2:  # one too many
            cheap = cheap[:, :-1]
        if self.short_conv is not None:
            return self.short_conv(x, primary, cheap)
        return [primary, cheap] if self.in_parts else concat([primary, cheap])


class GhostBottleneck(nn.Module):
    """Bottleneck of GhostNet and GhostNetV2 (paper Figure 4).

    Args:
        in_channels (int): Channels of the input.
        mid_channels (int): Expanded channels between the two Ghost modules.
        out_channels (int): Channels of the output.
        kernel_size (int): Kernel size of the depth-wise convolutions.
        stride (int): 1 or 2.
        se_ratio (float): Ratio of squeeze-and-excitation, 0 for none.
        attention (Callable, optional): As in :class:`GhostModule`.
        enhance (str): Which Ghost module the attention gates (Table 8):
            'expressiveness', the first and so the expanded features, 'capacity', the
            second and so the output, or 'both'.
        dilation (int): Dilation of the convolutions at the input's resolution.
        keep_size (bool): Turn stride 2 into dilation: all layers stay, none strides,
            and what follows the depth-wise convolution is dilated twice as much.
        norm_cfg (dict): Config of the normalisation layers.
        act_cfg (dict): Config of the activation of the first Ghost module.
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
    ) -> None:
        super().__init__()
        check_choice('enhance', enhance, ENHANCED)
        first, second = (
            attention if enhance in (feature, 'both') else None
            for feature in ENHANCED[:2]
        )
        in_parts = stride > 1 and first is None
        self.ghost1 = GhostModule(
            in_channels, mid_channels, dilation, first, norm_cfg, act_cfg, in_parts
        )
        self.conv_dw = self.bn_dw = self.se = None
        out_dilation, conv_stride = dilation, stride
        if keep_size:
            out_dilation, conv_stride = dilation * stride, 1
        if stride > 1:
            self.conv_dw = depthwise_conv(
                mid_channels,
                kernel_size,
                conv_stride,
                dilation,
                DepthwiseConcat if in_parts else nn.Conv2d,
            )
            self.bn_dw = build_norm_layer(norm_cfg, mid_channels)[1]
        if se_ratio > 0:
            self.se = SqueezeExcite(mid_channels, se_ratio)
        self.ghost2 = GhostModule(
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
        """Map (N, in_channels, H, W) to (N, out_channels, ceil(H/s), ceil(W/s))."""
        out = self.ghost1(x)
        if self.conv_dw is not None:
            out = self.bn_dw(self.conv_dw(out))
        if self.se is not None:
            out = self.se(out)
        return self.ghost2(out).add_(self.shortcut(x))
