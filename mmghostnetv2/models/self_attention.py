import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from ..registry import MODELS
from .concat import concat
from .dfc_attention import halve, restore
from .ghostnet import GhostNet


@MODELS.register_module()
class SelfAttention(nn.Module):
    """MobileViT's self-attention in the place of DFC attention (paper, Table 1).

    As in `MobileViT <https://arxiv.org/abs/2110.02178>`_ the features are unfolded into
    patches, and a position attends to those of the same place in every patch. All else
    is DFCAttention's: features of half the size, a 1x1 convolution to the gate's
    channels, sigmoid, nearest up-sampling, product.

    Args:
        in_channels (int): Channels of the input, a multiple of ``num_heads``.
        out_channels (int, optional): Channels of the gate. As many as the input's by
            default.
        num_heads (int): Heads of the attention.
        patch_size (int): Sides of the patches.
        norm_cfg (dict): Config of the gate's normalisation layer.

    Raises:
        ValueError: ``in_channels`` is no multiple of ``num_heads``.
    """

    _abbr_ = 'self_attention'

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        num_heads: int = 4,
        patch_size: int = 2,
        norm_cfg: dict = dict(type='BN'),
    ) -> None:
        super().__init__()
        if in_channels % num_heads:
            raise ValueError(
                f'in_channels must be a multiple of num_heads={num_heads}, '
                f'got {in_channels}'
            )
        out_channels = out_channels or in_channels
        self.num_heads = num_heads
        self.patch_size = patch_size
        self.norm = nn.LayerNorm(in_channels)
        self.qkv = nn.Linear(in_channels, 3 * in_channels)
        self.proj = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            build_norm_layer(norm_cfg, out_channels)[1],
        )

    def attend(self, x: Tensor) -> Tensor:
        """Apply the self-attention with its shortcut to (N, in_channels, H, W)."""
        n, channels, height, width = x.shape
        size = self.patch_size
        below, right = -height % size, -width % size
        rows, columns = (height + below) // size, (width + right) // size
        qkv = self.qkv(self.norm(x.permute(0, 2, 3, 1)))
        # A side that is no multiple of the patch has places without a position: their
        # queries are of no use, their keys are masked.
        qkv = F.pad(qkv, (0, 0, 0, right, 0, below))
        mask = None
        if below or right:
            exists = F.pad(x.new_zeros(height, width), (0, right, 0, below), value=-1e4)
            mask = exists.view(rows, size, columns, size).permute(1, 3, 0, 2)
            mask = mask.reshape(1, size * size, 1, 1, rows * columns)
        # to (3, N, places in a patch, heads, patches, channels of a head)
        head = channels // self.num_heads
        qkv = qkv.view(n, rows, size, columns, size, 3, self.num_heads, head)
        qkv = qkv.permute(5, 0, 2, 4, 6, 1, 3, 7)
        qkv = qkv.reshape(3, n, size * size, self.num_heads, rows * columns, head)
        out = F.scaled_dot_product_attention(*qkv.unbind(), attn_mask=mask)
        out = out.view(n, size, size, self.num_heads, rows, columns, head)
        out = out.permute(0, 3, 6, 4, 1, 5, 2)
        out = out.reshape(n, channels, rows * size, columns * size)
        return x + out[..., :height, :width]

    def forward(self, x: Tensor, *features: Tensor) -> Tensor:
        """Gate features; arguments and result are those of DFCAttention."""
        gate = self.proj(self.attend(halve(x))).sigmoid()
        gate = restore(gate, x.shape[-2:])
        return concat(features or (x,)) * gate


@MODELS.register_module()
class GhostNetSelfAttention(GhostNet):
    """GhostNet with MobileViT's self-attention (paper section 3.2 and Table 1).

    The paper gives the sum of FLOPs, not the places. Here the attention stands where
    GhostNetV2 has DFC attention, from stride 8 on, as MobileViT has it, which makes
    173.1 M of the paper's 172 M.

    Arguments are those of :class:`GhostNet`.
    """

    def _attention(self, block: int) -> dict:
        return dict(attention=_self_attention) if block >= 4 else {}


def _self_attention(in_channels, out_channels, dilation, norm_cfg) -> SelfAttention:
    """Ignore the dilation: the attention reaches every position by itself."""
    return SelfAttention(in_channels, out_channels, norm_cfg=norm_cfg)
