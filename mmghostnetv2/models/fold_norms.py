"""Batch norms folded into the convolutions before them, for inference."""

from collections.abc import Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any, cast

import torch
from mmcv.cnn import Conv2d, ConvModule
from mmengine.model.utils import _BatchNormXd
from mmengine.utils.dl_utils.parrots_wrapper import SyncBatchNorm
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval, fuse_conv_bn_weights

from ..registry import MODELS, register

# Only these exact types are folded, because a subclass may normalise its weights or
# apply an activation. mmcv.cnn.fuse_conv_bn folds these and also norms that do not come
# directly after a convolution, so it is not used. mmengine has no public name for
# _BatchNormXd, the class by which its revert_sync_batchnorm replaces SyncBN.
CONVS = (nn.Conv2d, Conv2d)
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, SyncBatchNorm, _BatchNormXd)


def _is_followed_by_norm(order: Sequence[str]) -> bool:
    return order.index('norm') == order.index('conv') + 1


def is_batch_norm(norm: Any) -> bool:
    """Return whether a module is a batch norm with statistics, and no subclass."""
    return type(norm) in NORMS and norm.running_mean is not None


def _are_foldable(conv: Any, norm: Any) -> bool:
    return (
        type(conv) in CONVS
        and is_batch_norm(norm)
        and norm.num_features == conv.out_channels
        # Spectral norm, for example, computes the weight at each call. Then it is no
        # parameter and cannot be replaced.
        and 'weight' in dict(conv.named_parameters(recurse=False))
    )


@torch.no_grad()
def _fold(conv: Any, norm: Any) -> None:
    """Fold a norm into a convolution, in double precision to round only once."""
    fused = fuse_conv_bn_eval(deepcopy(conv).double(), deepcopy(norm).double())
    set_weights(conv, fused.weight, fused.bias)


def set_weights(conv: Any, weight: Tensor, bias: Tensor) -> None:
    """Give a convolution a new weight and bias of the old type."""
    is_trained = conv.weight.requires_grad  # frozen parameters stay frozen
    dtype = conv.weight.dtype
    conv.weight, conv.bias = (
        nn.Parameter(value.to(dtype), is_trained) for value in (weight, bias)
    )


class FoldedNorm(nn.Identity):
    """What :func:`fold_norms` leaves in the place of a norm.

    Args:
        norm (nn.Module): The norm. Its ``eps`` and ``affine`` are kept for weights that
            are folded when they are loaded.
    """

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.eps, self.affine = norm.eps, norm.affine


def fold_norms(module: nn.Module) -> nn.Module:
    """Fold batch norms into the convolutions before them, for inference.

    The convolutions get new weights and biases, and FoldedNorm replaces the norms. The
    outputs stay the same up to rounding. Other norms, batch norms behind other layers,
    and subclasses of convolutions and batch norms stay as they are.

    The branches of GhostNetV3's convolutions are summed first.

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
    for block in module.modules():
        if hasattr(block, 'merge_branches'):
            cast(Any, block).merge_branches()
    for parent in module.modules():
        if isinstance(parent, ConvModule) and not _is_followed_by_norm(parent.order):
            continue
        last = None
        for name, child in parent.named_children():
            if _are_foldable(last, child):
                _fold(last, child)
                child = FoldedNorm(child)
                setattr(parent, name, child)
            last = child
    return module


def pop_folded(
    weights: dict[str, Tensor], kernel: Tensor, name: str, norm: Any
) -> tuple[Tensor, Tensor]:
    """Remove the norm ``name`` from a state dict, and fold it into a kernel.

    ``norm`` has its ``eps`` and ``affine``.

    Returns:
        tuple[Tensor, Tensor]: The convolution's weight and bias, in double precision.

    Raises:
        KeyError: An entry of the norm is missing.
    """
    weights.pop(f'{name}.num_batches_tracked', None)
    entries = ['running_mean', 'running_var']
    if norm.affine:
        entries += ['weight', 'bias']
    mean, var, *affine = (weights.pop(f'{name}.{x}').double() for x in entries)
    scale, bias = affine or (None, None)
    return fuse_conv_bn_weights(kernel.double(), None, mean, var, norm.eps, scale, bias)


def fold_weights(network: nn.Module, weights: dict[str, Tensor], prefix: str) -> None:
    """Fold norms in a state dict where they are folded in a network.

    Args:
        network (nn.Module): The network.
        weights (dict[str, Tensor]): State dict, changed in place.
        prefix (str): Prefix of the network's names in it.

    Raises:
        KeyError: A norm is incomplete.
    """
    modules = network.named_modules(prefix=prefix.removesuffix('.'))
    for name, parent in modules:
        name = f'{name}.' if name else ''
        for (conv, _), (norm, layer) in pairwise(parent.named_children()):
            is_trained = f'{name}{norm}.running_var' in weights
            if isinstance(layer, FoldedNorm) and is_trained:
                kernel = weights.pop(f'{name}{conv}.weight')
                folded = pop_folded(weights, kernel, name + norm, layer)
                weights[f'{name}{conv}.weight'], weights[f'{name}{conv}.bias'] = folded


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
