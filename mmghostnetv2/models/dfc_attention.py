"""DFC attention, what GhostNetV2 adds to GhostNet."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from ..registry import register_model
from .checks import check_choice, is_odd


def hard_sigmoid(logits: Tensor) -> Tensor:
    """Compute relu6(x + 3) / 6; F.hardsigmoid does not support double backward."""
    return F.relu6(logits + 3) / 6


def clip(logits: Tensor) -> Tensor:
    """Limit values to the range from 0 to 1 (Table 9)."""
    return logits.clamp(0, 1)


SCALINGS: dict[str, Callable[[Tensor], Tensor]] = {
    'sigmoid': torch.sigmoid,
    'hard_sigmoid': hard_sigmoid,
    'clip': clip,
}
SCALING_POSITIONS = ('before', 'after')
DOWN_SAMPLINGS = ('average', 'max', 'bilinear')
UP_SAMPLINGS = ('nearest', 'bilinear', 'bicubic')


@torch.fx.wrap  # symbolic tracing cannot follow the condition on the size
def downsample(x: Tensor, mode: str = 'average') -> Tensor:
    """Halve height and width.

    Args:
        x (Tensor): Features of shape (N, C, H, W).
        mode (str): 'average' or 'max' pooling, or 'bilinear' interpolation.

    Returns:
        Tensor: Features of shape (N, C, max(H // 2, 1), max(W // 2, 1)).
    """
    height, width = x.shape[-2:]
    # A side of one pixel stays as it is; pooling would leave nothing of it.
    window = [2 if height > 1 else 1, 2 if width > 1 else 1]
    if mode == 'bilinear':
        size = [height // window[0], width // window[1]]
        # Without aligned corners this would be the average of each 2x2 window.
        return F.interpolate(x, size=size, mode='bilinear', align_corners=True)
    if mode == 'max':
        return F.max_pool2d(x, window)
    return F.avg_pool2d(x, window)


@register_model
class DFCAttention(nn.Sequential):
    """Decoupled fully connected attention (GhostNetV2 paper, section 4.1, Eqs. 4-6).

    Every value of the gate gathers information from a whole neighbourhood: first along
    its row, then along its column, by two depth-wise convolutions on features of half
    the size. The six layers are items 0 to 5, which are the names in the released
    weights. The defaults are those of the released code.

    The layer serves in Ghost modules, on its own, and as a plugin for
    ``ResNet(plugins=[dict(cfg=dict(type='DFCAttention'), ...)])`` of mmdet and mmseg.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int, optional): Channels of the gate. Defaults to ``in_channels``.
        kernel_size (int): Length of the row and the column convolution; odd.
        dilation (int): Dilation of these two convolutions.
        scaling (str): Function that maps the gate to the range from 0 to 1 (Table 9):
            'sigmoid', 'hard_sigmoid', relu6(x + 3) / 6, or 'clip', min(max(x, 0), 1).
        scaling_position (str): Whether the scaling comes 'before' or 'after' the
            up-sampling (Table 9). 'after' scales four times as many values.
        down_sampling (str): 'average' or 'max' pooling, or 'bilinear' interpolation
            (Table 10).
        up_sampling (str): 'nearest', 'bilinear' or 'bicubic' (Table 10). Bicubic
            interpolation may leave the range from 0 to 1 if the scaling comes before.
        norm_cfg (dict): Config of the normalisation layers.

    Raises:
        ValueError: ``kernel_size`` is not odd: the gate would have another size; or
            another argument is not one of the allowed values.
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
        if not is_odd(kernel_size):
            raise ValueError(f'kernel_size must be an odd int, got {kernel_size!r}')
        check_choice('scaling', scaling, SCALINGS)
        check_choice('scaling_position', scaling_position, SCALING_POSITIONS)
        check_choice('down_sampling', down_sampling, DOWN_SAMPLINGS)
        check_choice('up_sampling', up_sampling, UP_SAMPLINGS)
        out_channels = out_channels or in_channels

        def conv_norm(channels: int, kernel: tuple[int, int], groups: int = 1):
            padding = dilation * (kernel[0] // 2), dilation * (kernel[1] // 2)
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
        self.scale = SCALINGS[scaling]
        self.scaling_position = scaling_position
        self.down_sampling = down_sampling
        self.up_sampling = up_sampling

    def gate(self, x: Tensor) -> Tensor:
        """Compute the gate, Sigmoid(A) of Eq. 6.

        Args:
            x (Tensor): Features of shape (N, in_channels, H, W), any H and W >= 1.

        Returns:
            Tensor: Gate of shape (N, out_channels, H, W), from 0 to 1.
        """
        size = x.shape[-2:]
        gate = downsample(x, self.down_sampling)
        for layer in self:
            gate = layer(gate)
        if self.scaling_position == 'before':
            return F.interpolate(self.scale(gate), size, mode=self.up_sampling)
        return self.scale(F.interpolate(gate, size, mode=self.up_sampling))

    def forward(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        """Multiply features by the gate computed from ``x``.

        Args:
            x (Tensor): Features of shape (N, in_channels, H, W), any H and W >= 1.
            features (Tensor, optional): Features to gate, in a Ghost module its output,
                of shape (N, out_channels, H, W). Defaults to ``x``.

        Returns:
            Tensor: Gated features of shape (N, out_channels, H, W).
        """
        if features is None:
            features = x
        return features * self.gate(x)
