"""GhostNetV3: GhostNetV2 whose convolutions have branches in training."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from ..registry import register_model
from .branches import BranchedBlock, conv_norm
from .checks import is_int
from .ghost_module import (
    GhostBottleneck,
    GhostModule,
    RecomputedGhostModule,
    depthwise_conv,
)
from .ghostnetv2 import GhostNetV2


class GhostModuleV3(BranchedBlock, GhostModule):
    """Ghost module whose two convolutions are sums of branches in training.

    The 1x1 convolution has ``num_branches`` branches. The cheap convolution has two
    more: a depth-wise 1x1 convolution, and a norm without a convolution.

    Args:
        args, kwargs: Arguments of :class:`GhostModule`.
        num_branches (int): Branches of the full kernel size.
    """

    def __init__(self, *args, num_branches: int = 3, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        primary: Any = self.primary_conv[:2]
        cheap: Any = self.cheap_operation[:2]
        scale = depthwise_conv(cheap[0].out_channels, 1)
        self.primary_rpr_conv: Any = nn.ModuleList(
            conv_norm(*primary) for _ in range(num_branches)
        )
        self.cheap_rpr_skip: Any = cheap[1]
        self.cheap_rpr_conv: Any = nn.ModuleList(
            conv_norm(*cheap) for _ in range(num_branches)
        )
        self.cheap_rpr_scale: Any = conv_norm(scale, cheap[1])
        for layers in self.primary_conv, self.cheap_operation:
            layers[0], layers[1] = nn.Identity(), nn.Identity()

    def norms(self) -> list[Any]:
        """Return the norms whose outputs are summed to the two halves."""
        return self.branch_norms()

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute both halves of the output, of (out_channels + 1) // 2 channels."""
        if self.primary_rpr_conv is None:  # the branches are merged
            return super().halves(x)
        primary = self.primary_rpr_conv[0](x)
        for i, branch in enumerate(self.primary_rpr_conv):
            if i > 0:  # TorchScript cannot call the modules of a slice
                primary = primary + branch(x)
        primary = self.primary_conv(primary)
        cheap = self.cheap_rpr_scale(primary) + self.cheap_rpr_skip(primary)
        for branch in self.cheap_rpr_conv:
            cheap = cheap + branch(primary)
        return primary, self.cheap_operation(cheap)


class RecomputedGhostModuleV3(RecomputedGhostModule, GhostModuleV3):
    """The same, but the attention is recomputed in the backward pass."""


class GhostBottleneckV3(BranchedBlock, GhostBottleneck):
    """Bottleneck whose depth-wise convolution is a sum of branches in training.

    Args:
        args, kwargs: Arguments of :class:`GhostBottleneck`.
        num_branches (int): Branches of the full kernel size. A 1x1 convolution is
            added to them.
    """

    def __init__(self, *args, num_branches: int = 3, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.dw_rpr_conv: Any = None
        if self.conv_dw is not None:
            conv, norm = self.conv_dw, self.bn_dw
            scale = depthwise_conv(conv.out_channels, 1, conv.stride[0])
            self.dw_rpr_conv = nn.ModuleList(
                conv_norm(conv, norm) for _ in range(num_branches)
            )
            self.dw_rpr_scale: Any = conv_norm(scale, norm)
            self.conv_dw, self.bn_dw = nn.Identity(), nn.Identity()

    def depthwise(self, x: Tensor) -> Tensor:
        """Compute the depth-wise convolution of a block with stride 2."""
        if self.dw_rpr_conv is None:
            return super().depthwise(x)
        out = self.dw_rpr_scale(x)
        for branch in self.dw_rpr_conv:
            out = out + branch(x)
        return out


@register_model
class GhostNetV3(GhostNetV2):
    """GhostNetV3 backbone: GhostNetV2 with branches that are merged after training.

    Source: `GhostNetV3: Exploring the Training Strategies for Compact Models
    <https://arxiv.org/abs/2404.11202>`_, section 3.1. Parameters have the names and
    shapes of the released weights. timm's files load, too; there the norms of branches
    are called ``bn1`` and not ``bn``. After :meth:`switch_to_deploy` the network and
    its parameters are those of ``GhostNetV2(deploy=True)``, which also loads released
    weights of GhostNetV3 itself.

    Args:
        args: Positional arguments of :class:`GhostNetV2`.
        num_branches (int): Branches of the full kernel size in each convolution of the
            Ghost modules and in each depth-wise convolution with stride 2. Defaults to
            3, as in the released code.
        kwargs: The other arguments of :class:`GhostNetV2`. If the norms of ``norm_cfg``
            are no batch norms, the branches cannot be merged and stay.

    Raises:
        TypeError, ValueError: An argument is of the wrong type or out of range.

    Example:
        >>> import torch
        >>> from mmghostnetv2.models import GhostNetV2, GhostNetV3
        >>> backbone = GhostNetV3(out_indices=(4, 6, 8)).eval()
        >>> features = backbone(torch.rand(1, 3, 320, 320))
        >>> backbone.switch_to_deploy()
        >>> deployed = GhostNetV2(out_indices=(4, 6, 8), deploy=True)
        >>> deployed.load_state_dict(backbone.state_dict())
        <All keys matched successfully>
    """

    def __init__(self, *args, num_branches: int = 3, **kwargs) -> None:
        if not is_int(num_branches) or num_branches < 1:
            raise ValueError(
                f'num_branches must be an int above 0, got {num_branches!r}'
            )
        self.bottleneck = partial(GhostBottleneckV3, num_branches=num_branches)
        self.ghost_modules = tuple(
            partial(module, num_branches=num_branches)
            for module in (GhostModuleV3, RecomputedGhostModuleV3)
        )
        super().__init__(*args, **kwargs)
