from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from mmcv.cnn import Conv2d, ConvModule
from mmengine.model.utils import _BatchNormXd
from mmengine.utils.dl_utils.parrots_wrapper import SyncBatchNorm
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

from ..registry import MODELS, register

# Only these exact types are folded, because a subclass may normalise its weights or
# apply an activation. mmcv.cnn.fuse_conv_bn folds these and also norms that do not come
# directly after a convolution, so it is not used. mmengine has no public name for
# _BatchNormXd, the class by which its revert_sync_batchnorm replaces SyncBN.
CONVS = (nn.Conv2d, Conv2d)
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, SyncBatchNorm, _BatchNormXd)


def _is_followed_by_norm(order: Sequence[str]) -> bool:
    return order.index('norm') == order.index('conv') + 1


def _are_foldable(conv: Any, norm: Any) -> bool:
    return (
        type(conv) in CONVS
        and type(norm) in NORMS
        and norm.running_mean is not None
        and norm.num_features == conv.out_channels
        # Spectral norm, for example, computes the weight at each call. Then it is no
        # parameter and cannot be replaced.
        and 'weight' in dict(conv.named_parameters(recurse=False))
    )


@torch.no_grad()
def _fold(conv: Any, norm: Any) -> None:
    """Fold a norm into a convolution, in double precision to round only once."""
    fused = fuse_conv_bn_eval(deepcopy(conv).double(), deepcopy(norm).double())
    is_trained = conv.weight.requires_grad  # frozen parameters stay frozen
    conv.weight, conv.bias = (
        nn.Parameter(value.to(conv.weight.dtype), is_trained)
        for value in (fused.weight, fused.bias)
    )


def fold_norms(module: nn.Module) -> nn.Module:
    """Fold batch norms into the convolutions before them, for inference.

    The convolutions get new weights and biases, and nn.Identity replaces the norms. The
    outputs stay the same up to rounding. Other norms, batch norms behind other layers,
    and subclasses of convolutions and batch norms stay as they are.

    Heads such as RTMDet's share one convolution between levels, each with its own norm.
    Then every level gets its own convolution.

    Args:
        module (nn.Module): Any network; it is changed in place and left in eval mode. A
            batch norm is folded into the convolution that is registered right before it
            in the same module. This is right everywhere in mmpretrain, mmdet and mmseg
            except in mmcv's ConvModule, whose ``order`` is read instead.

    Returns:
        nn.Module: ``module`` itself.
    """
    seen = set()
    for name, child in list(module.named_modules(remove_duplicate=False)):
        if type(child) in CONVS:
            if child in seen:
                module.set_submodule(name, deepcopy(child))
            seen.add(child)
    module.eval()  # not chained, because mmpretrain's backbones return None
    for parent in module.modules():
        if isinstance(parent, ConvModule) and not _is_followed_by_norm(parent.order):
            continue
        last = None
        for name, child in parent.named_children():
            if _are_foldable(last, child):
                _fold(last, child)
                child = nn.Identity()
                setattr(parent, name, child)
            last = child
    return module


@register(MODELS, 'Folded')
def build_folded(base: str, **cfg) -> nn.Module:
    """Build a model with folded batch norms in eval mode, to load folded weights.

    The config is that of the model, with ``type='mmghostnetv2.Folded'`` and the model's
    own type as ``base``. All other fields stay, so code that reads them still works.

    Args:
        base (str): Type of the model.
        cfg: The other fields of its config.
    """
    return fold_norms(MODELS.build(dict(type=base, **cfg)))
