"""GhostNetV2: GhostNet with DFC attention."""

from bisect import bisect
from collections.abc import Sequence
from functools import partial
from typing import Any

from ..registry import register_model
from .checks import is_odd
from .dfc_attention import DFCAttention
from .ghostnet import GhostNet


@register_model
class GhostNetV2(GhostNet):
    """GhostNetV2 backbone: GhostNet with DFC attention on the expanded features.

    Source: `GhostNetV2: Enhance Cheap Operation with Long-Range Attention
    <https://arxiv.org/abs/2211.12905>`_. The defaults are those of the released code:
    every block but the first two has the attention, with average pooling, kernels of 5
    and nearest up-sampling. Parameters have the names and shapes of the released
    weights and of timm's ``ghostnetv2_100``, ``_130`` and ``_160`` (``widen_factor``
    1.0, 1.3, 1.6). The defaults of the paper that differ from these are
    ``dfc_stages=(0, 1, 2, 3)``, ``dfc_kernel_sizes=(9, 7, 5)``, ``down_sampling='max'``
    and ``up_sampling='bilinear'``.

    The paper divides the blocks into four stages "by the feature's size", but does not
    say which blocks belong to which stage. Here these are blocks 0-1, 2-7, 8-11 and
    12-15: no other split into four ranges has the FLOPs and parameters of all rows of
    Table 7.

    Args:
        widen_factor (float): As in :class:`GhostNet`.
        out_indices (Sequence[int]): As in :class:`GhostNet`.
        dfc_stages (Sequence[int]): Stages with DFC attention, from 0 to 3 (Table 7).
        dfc_kernel_sizes (int | Sequence[int]): Length of the attention's convolutions,
            one for all, or one for each of the stages 1, 2 and 3 (Table 6); stage 0
            uses that of stage 1.
        enhance (str): What the attention enhances (Table 8): 'expressiveness', the
            expanded features, 'capacity', the output features, or 'both'.
        scaling (str): 'sigmoid', 'hard_sigmoid' or 'clip' (Table 9).
        scaling_position (str): 'before' or 'after' the up-sampling (Table 9).
        down_sampling (str): 'average', 'max' or 'bilinear' (Table 10).
        up_sampling (str): 'nearest', 'bilinear' or 'bicubic' (Table 10).
        kwargs: The other arguments of :class:`GhostNet`.

    Raises:
        TypeError, ValueError: An argument is of the wrong type or out of range.

    Example:
        >>> import torch
        >>> from mmghostnetv2.models import GhostNetV2
        >>> backbone = GhostNetV2(out_indices=(2, 4, 6, 8), output_stride=8)
        >>> [tuple(f.shape) for f in backbone(torch.rand(1, 3, 224, 224))]
        [(1, 24, 56, 56), (1, 40, 28, 28), (1, 112, 28, 28), (1, 160, 28, 28)]
    """

    # The first block of each stage of Table 7.
    dfc_stage_starts = (0, 2, 8, 12)

    def __init__(
        self,
        widen_factor: float = 1.0,
        out_indices: Sequence[int] = (9,),
        dfc_stages: Sequence[int] = (1, 2, 3),
        dfc_kernel_sizes: int | Sequence[int] = 5,
        enhance: str = 'expressiveness',
        scaling: str = 'sigmoid',
        scaling_position: str = 'before',
        down_sampling: str = 'average',
        up_sampling: str = 'nearest',
        **kwargs,
    ) -> None:
        if not isinstance(dfc_stages, Sequence) or not all(
            stage in range(4) for stage in dfc_stages
        ):
            raise ValueError(
                'dfc_stages must be a sequence of stages from 0 to 3, '
                f'got {dfc_stages!r}'
            )
        sizes: Any = dfc_kernel_sizes
        sizes = sizes if isinstance(sizes, Sequence) else [sizes] * 3
        if len(sizes) != 3 or not all(map(is_odd, sizes)):
            raise ValueError(
                'dfc_kernel_sizes must be an odd int, or one for each of the stages 1, '
                f'2 and 3, got {dfc_kernel_sizes!r}'
            )
        self.dfc_stages = dfc_stages
        self.dfc_kernel_sizes = (sizes[0], *sizes)
        self.enhance = enhance
        self.dfc_cfg: dict[str, Any] = dict(
            scaling=scaling,
            scaling_position=scaling_position,
            down_sampling=down_sampling,
            up_sampling=up_sampling,
        )
        super().__init__(widen_factor, out_indices, **kwargs)

    def _attention(self, block: int) -> dict:
        stage = bisect(self.dfc_stage_starts, block) - 1
        if stage not in self.dfc_stages:
            return {}
        kernel_size = self.dfc_kernel_sizes[stage]
        attention = partial(DFCAttention, kernel_size=kernel_size, **self.dfc_cfg)
        return dict(attention=attention, enhance=self.enhance)
