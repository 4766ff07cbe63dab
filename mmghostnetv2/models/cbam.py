"""CBAM, an attention over channels and then over positions."""

import torch
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from ..registry import register_model
from .checks import is_odd
from .squeeze_excite import make_divisible


@register_model
class CBAM(nn.Module):
    """Convolutional block attention module (https://arxiv.org/abs/1807.06521).

    It gates first the channels and then the positions. Each gate is computed from the
    average and the maximum over the other dimensions. Table 4 of the GhostNetV2 paper
    compares it with DFC attention.

    Args:
        in_channels (int): Channels of input and output.
        ratio (float): Reduced channels over ``in_channels``, rounded to multiples of 4.
        kernel_size (int): Kernel size of the convolution that gates positions; odd.
        norm_cfg (dict): Config of the normalisation layer.

    Raises:
        ValueError: ``kernel_size`` is not odd: the gate would have another size.
    """

    _abbr_ = 'cbam'

    def __init__(
        self,
        in_channels: int,
        ratio: float = 1 / 16,
        kernel_size: int = 7,
        norm_cfg: dict = dict(type='BN'),
    ) -> None:
        super().__init__()
        if not is_odd(kernel_size):
            raise ValueError(f'kernel_size must be an odd int, got {kernel_size!r}')
        reduced = make_divisible(in_channels * ratio)
        self.channel_gate = nn.Sequential(
            nn.Conv2d(in_channels, reduced, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(reduced, in_channels, 1),
        )
        self.position_gate = nn.Sequential(
            nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False),
            build_norm_layer(norm_cfg, 1)[1],
        )

    def forward(self, x: Tensor) -> Tensor:
        """Gate ``x``, shape (N, in_channels, H, W)."""
        average, maximum = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        x = x * (self.channel_gate(average) + self.channel_gate(maximum)).sigmoid()
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return x * self.position_gate(pooled).sigmoid()
