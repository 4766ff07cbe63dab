from ..registry import register_backbone
from .ghostnet import GhostNet


@register_backbone
class GhostNetV2(GhostNet):
    """GhostNetV2 backbone: GhostNet whose expanded features DFC attention gates.

    Source: `GhostNetV2: Enhance Cheap Operation with Long-Range Attention
    <https://arxiv.org/abs/2211.12905>`_. As in the released code, every block but the
    first two carries the attention, with average pooling, kernels of 5 and nearest
    up-sampling. Parameters have the names and shapes of the released weights and of
    timm's ``ghostnetv2_100``, ``_130`` and ``_160`` (``widen_factor`` 1.0, 1.3, 1.6).

    Arguments are those of :class:`GhostNet`.

    Example:
        >>> import torch
        >>> from mmghostnetv2.models import GhostNetV2
        >>> backbone = GhostNetV2(out_indices=(2, 4, 6, 8), output_stride=8)
        >>> [tuple(f.shape) for f in backbone(torch.rand(1, 3, 224, 224))]
        [(1, 24, 56, 56), (1, 40, 28, 28), (1, 112, 28, 28), (1, 160, 28, 28)]
    """

    def _has_dfc(self, block: int) -> bool:
        return block >= 2
