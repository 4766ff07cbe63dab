from collections.abc import Sequence
from copy import deepcopy

import torch
from mmcv.cnn import Conv2d, ConvModule
from mmengine.model.utils import _BatchNormXd
from mmengine.registry import MODELS
from mmengine.utils.dl_utils.parrots_wrapper import SyncBatchNorm
from torch import nn

from ..registry import MODELS as OWN_MODELS
from .ghost_module import DepthwiseConcat
from .packed_conv import PackedConv2d, pack_convs

# What subclasses of these compute is not known: one normalises its weights, another
# has an activation.
CONVS = (nn.Conv2d, Conv2d, DepthwiseConcat, PackedConv2d)
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, SyncBatchNorm, _BatchNormXd)


def _is_followed_by_norm(order: Sequence[str]) -> bool:
    return order.index('norm') == order.index('conv') + 1


def _are_foldable(conv: nn.Module | None, norm: nn.Module | None) -> bool:
    return (
        type(conv) in CONVS
        and type(norm) in NORMS
        and norm.running_mean is not None
        and norm.num_features == conv.out_channels
        and 'weight' in conv._parameters  # not made at each call, as by spectral norm
        and not getattr(conv, 'relu', False)  # of a packed one
    )


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: nn.Module) -> None:
    """Give a convolution its norm; in double precision, so that it is rounded once."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean * scale
    if norm.affine:
        scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
    if conv.bias is not None:
        shift += scale * conv.bias
    weight = conv.weight * scale.view(-1, 1, 1, 1)
    conv.weight, conv.bias = (
        nn.Parameter(value.to(conv.weight.dtype)) for value in (weight, shift)
    )


def fold_norms(module: nn.Module) -> nn.Module:
    """Fold batch norms into the convolutions before them, for inference.

    Convolutions get weights and biases that do what their norms did. All is left in
    eval mode. Other norms, and batch norms behind anything else, stay, subclasses of
    both among them, which may compute something of their own.

    Heads such as RTMDet's apply one convolution with another norm on each level. It
    becomes one convolution a level.

    Args:
        module (nn.Module): Any network, changed in place. A batch norm is taken to
            belong to the convolution registered right before it in the same module, as
            everywhere in mmpretrain, mmdet and mmseg, except where the ``order`` of
            mmcv's ConvModule says otherwise.

    Returns:
        nn.Module: ``module`` itself.
    """
    seen = set()
    for parent in module.modules():
        # not named_children(), which leaves out what it has met
        for name, child in parent._modules.items():
            if type(child) in CONVS:
                if child in seen:
                    setattr(parent, name, deepcopy(child))
                seen.add(child)
    module.eval()  # mmpretrain's returns None
    for parent in module.modules():
        if isinstance(parent, ConvModule) and not _is_followed_by_norm(parent.order):
            continue
        last = None
        for name, child in parent._modules.items():
            if _are_foldable(last, child):
                _fold(last, child)
                child = nn.Identity()
                setattr(parent, name, child)
            last = child
    return module


@OWN_MODELS.register_module(name='Folded')
def build_folded(base: str, **cfg) -> nn.Module:
    """Build a model with its batch norms folded, for weights that are.

    A config of it is that of the model with ``type='mmghostnetv2.Folded'`` and the
    model's own type as ``base``; all else in it, and so all that reads it, stays.

    Args:
        base (str): Type of the model.
        cfg: The other fields of its config.

    Returns:
        nn.Module: The model, in eval mode.
    """
    return pack_convs(fold_norms(MODELS.build(dict(type=base, **cfg))))
