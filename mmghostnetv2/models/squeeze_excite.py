"""Squeeze-and-excitation, an attention over channels."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import register_model
from .checks import check_choice
from .dfc_attention import SCALINGS


def make_divisible(value: float) -> int:
    """Round ``value`` to a multiple of 4, never down by more than 10 %."""
    rounded = max(4, int(value + 2) // 4 * 4)
    return rounded + 4 if rounded < 0.9 * value else rounded


@register_model
class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation, SE (https://arxiv.org/abs/1709.01507).

    GhostNet has it in some blocks, and Table 4 of the GhostNetV2 paper compares it with
    DFC attention.

    Args:
        in_channels (int): Channels of input and output.
        ratio (float): Reduced channels over ``in_channels``, rounded to multiples of 4.
        scaling (str): Function that maps the gate to the range from 0 to 1, as in
            DFCAttention: 'hard_sigmoid' as in GhostNet, or 'sigmoid' as in the paper.

    Raises:
        ValueError: ``scaling`` is not one of the allowed values.
    """

    _abbr_ = 'se'

    def __init__(
        self, in_channels: int, ratio: float, scaling: str = 'hard_sigmoid'
    ) -> None:
        super().__init__()
        check_choice('scaling', scaling, SCALINGS)
        self.scale = SCALINGS[scaling]
        reduced = make_divisible(in_channels * ratio)
        self.conv_reduce = nn.Conv2d(in_channels, reduced, 1)
        self.conv_expand = nn.Conv2d(reduced, in_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale every channel of ``x``, shape (N, in_channels, H, W)."""
        gate = F.relu(self.conv_reduce(x.mean((2, 3), keepdim=True)))
        return x * self.scale(self.conv_expand(gate))
