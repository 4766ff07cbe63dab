"""MobileViT's self-attention in GhostNet, the peer of DFC attention."""

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from ..registry import register_model
from .dfc_attention import downsample
from .ghostnet import GhostNet

torch.fx.wrap('downsample')  # torch.fx wraps a function for one Python module only


@torch.fx.wrap  # symbolic tracing cannot follow the sizes of the padding
def attend_across_patches(qkv: Tensor, num_heads: int, patch_size: int) -> Tensor:
    """Let every position attend to the same position in all patches.

    Args:
        qkv (Tensor): Queries, keys and values, shape (N, H, W, 3 * C).
        num_heads (int): Heads of the attention.
        patch_size (int): Height and width of the patches.

    Returns:
        Tensor: Weighted values of shape (N, C, H, W).
    """
    n, height, width, channels = qkv.shape
    size = patch_size
    rows, columns = (height + size - 1) // size, (width + size - 1) // size
    # Patches at the border may reach beyond the features. The last row or column is
    # repeated there, and the mask excludes the repeated keys.
    below = torch.arange(rows * size, device=qkv.device)
    right = torch.arange(columns * size, device=qkv.device)
    qkv = qkv.index_select(1, below.clamp(max=height - 1))
    qkv = qkv.index_select(2, right.clamp(max=width - 1))
    mask = (below < height)[:, None] & (right < width)
    mask = (mask.to(qkv) - 1) * 1e4  # finite, so that no gradient becomes NaN
    mask = mask.unflatten(1, (-1, size)).unflatten(0, (-1, size))
    mask = mask.permute(1, 3, 0, 2).flatten(2, 3).flatten(0, 1)
    # The new shape: (3, N, heads * positions in a patch, patches, channels of a head).
    qkv = qkv.unflatten(3, (3, num_heads, channels // 3 // num_heads))
    qkv = qkv.unflatten(2, (-1, size)).unflatten(1, (-1, size))
    qkv = qkv.permute(5, 0, 6, 2, 4, 1, 3, 7).flatten(5, 6).flatten(2, 4)
    mask = mask[:, None].repeat(num_heads, 1, 1)
    out = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], attn_mask=mask)
    out = out.unflatten(2, (-1, columns)).unflatten(1, (num_heads, size, size))
    out = out.permute(0, 1, 6, 4, 2, 5, 3).flatten(5, 6).flatten(3, 4).flatten(1, 2)
    ys, xs = (torch.arange(side, device=out.device) for side in (height, width))
    return out.index_select(2, ys).index_select(3, xs)


@register_model
class SelfAttention(nn.Module):
    """MobileViT's self-attention in the place of DFC attention (paper, Table 1).

    As in `MobileViT <https://arxiv.org/abs/2110.02178>`_ the features are unfolded into
    patches, and a position attends to the same position in every patch. The rest is as
    in DFCAttention: features of half the size, a 1x1 convolution to the channels of the
    gate, sigmoid, nearest up-sampling, product.

    Args:
        in_channels (int): Channels of the input, a multiple of ``num_heads``.
        out_channels (int, optional): Channels of the gate. Defaults to ``in_channels``.
        num_heads (int): Heads of the attention.
        patch_size (int): Height and width of the patches.
        norm_cfg (dict): Config of the gate's normalisation layer.

    Raises:
        ValueError: ``in_channels`` is not a multiple of ``num_heads``.
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
        """Add the self-attention of ``x``, shape (N, in_channels, H, W), to ``x``."""
        qkv = self.qkv(self.norm(x.permute(0, 2, 3, 1)))
        return x + attend_across_patches(qkv, self.num_heads, self.patch_size)

    def forward(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        """Gate features; arguments and result are those of DFCAttention."""
        if features is None:
            features = x
        gate = self.proj(self.attend(downsample(x))).sigmoid()
        return features * F.interpolate(gate, x.shape[-2:], mode='nearest')


@register_model
class GhostNetSelfAttention(GhostNet):
    """GhostNet with MobileViT's self-attention (paper section 3.2 and Table 1).

    The paper gives the total FLOPs, but not which blocks have the attention. Here these
    are the blocks where GhostNetV2 has DFC attention, but only from stride 8 on, as in
    MobileViT. This makes 173.1 M FLOPs; the paper has 172 M.

    Arguments are those of :class:`GhostNet`.
    """

    def _attention(self, block: int) -> dict:
        # Block 4 is the first one whose input has stride 8.
        return dict(attention=_self_attention) if block >= 4 else {}


def _self_attention(in_channels, out_channels, dilation, norm_cfg) -> SelfAttention:
    """Build the layer without ``dilation``, because it sees all positions anyway."""
    return SelfAttention(in_channels, out_channels, norm_cfg=norm_cfg)
