"""Coordinate attention, which gates by the means of rows and of columns."""

import torch
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from ..registry import register_model


@register_model
class CoordinateAttention(nn.Module):
    """Coordinate attention, CA (https://arxiv.org/abs/2103.02907).

    It gates each position by the means of its row and of its column. Table 4 of the
    GhostNetV2 paper compares it with DFC attention.

    Args:
        in_channels (int): Channels of input and output.
        ratio (float): Reduced channels over ``in_channels``; eight channels at least.
        norm_cfg (dict): Config of the normalisation layer.
    """

    _abbr_ = 'ca'

    def __init__(
        self,
        in_channels: int,
        ratio: float = 1 / 32,
        norm_cfg: dict = dict(type='BN'),
    ) -> None:
        super().__init__()
        reduced = max(8, int(in_channels * ratio))
        self.reduce = nn.Sequential(
            nn.Conv2d(in_channels, reduced, 1),
            build_norm_layer(norm_cfg, reduced)[1],
            nn.Hardswish(inplace=True),
        )
        self.row_gate = nn.Conv2d(reduced, in_channels, 1)
        self.column_gate = nn.Conv2d(reduced, in_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Gate ``x``, shape (N, in_channels, H, W)."""
        height, width = x.shape[-2:]
        rows = x.mean(3, keepdim=True)
        columns = x.mean(2, keepdim=True).transpose(2, 3)
        lines = self.reduce(torch.cat([rows, columns], dim=2))
        rows, columns = lines.split([height, width], dim=2)
        gate = self.row_gate(rows).sigmoid()
        return x * gate * self.column_gate(columns.transpose(2, 3)).sigmoid()
