"""Convolutions that are sums of branches in training, and one convolution afterwards.

This is the structural re-parameterisation of `MobileOne
<https://arxiv.org/abs/2206.04040>`_. The branches have the names of GhostNetV3's
released weights: those of ``primary_conv`` begin with ``primary_rpr_``.
"""

import re
from collections import OrderedDict
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint import authors_name
from .fold_norms import (
    FoldedNorm,
    fold_weights,
    is_batch_norm,
    pop_folded,
    set_weights,
)

# The convolution and the norm that the branches of each name replace
_LAYERS = {
    'primary': ('primary_conv.0', 'primary_conv.1'),
    'cheap': ('cheap_operation.0', 'cheap_operation.1'),
    'dw': ('conv_dw', 'bn_dw'),
}
_BRANCH = re.compile(r'(.*?)(primary|cheap|dw)_rpr_(conv\.\d+|scale|skip)\.')


def conv_norm(conv: nn.Conv2d, norm: nn.Module) -> nn.Sequential:
    """Build a branch: a copy of the convolution with new weights, and of the norm."""
    conv = deepcopy(conv)
    conv.reset_parameters()
    return nn.Sequential(OrderedDict(conv=conv, bn=deepcopy(norm)))


def sum_branches(weights: dict[str, Tensor], norm: Any, prefix: str = '') -> None:
    """Replace branches in a state dict by the convolutions that compute their sums.

    A 1x1 branch becomes the centre of a larger kernel, and a norm without a convolution
    a kernel of zeros with a one at the centre. The new values have double precision.

    Args:
        weights (dict[str, Tensor]): State dict, changed in place.
        norm (nn.Module): One of the norms, or the FoldedNorm in its place.
        prefix (str): Prefix of the names to look at.

    Raises:
        KeyError: A branch is incomplete.
    """
    found = (_BRANCH.match(key) for key in weights if key.startswith(prefix))
    branches = {match[0]: match for match in found if match}
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    # In this order the convolutions come first, and all of them have the full size.
    for branch, match in sorted(branches.items()):
        layer = match[1] + _LAYERS[match[2]][0]
        if match[3] == 'skip':
            kernel, name = torch.zeros_like(sums[layer][0]), branch.removesuffix('.')
            nn.init.dirac_(kernel, groups=len(kernel))
        else:
            kernel, name = weights.pop(f'{branch}conv.weight'), f'{branch}bn'
        weight, bias = pop_folded(weights, kernel, name, norm)
        if layer in sums:
            full_weight, full_bias = sums[layer]
            margin = (full_weight.shape[-1] - weight.shape[-1]) // 2
            weight = full_weight + F.pad(weight, [margin] * 4)
            bias = full_bias + bias
        sums[layer] = weight, bias
    for layer, (weight, bias) in sums.items():
        weights[f'{layer}.weight'], weights[f'{layer}.bias'] = weight, bias


class BranchedBlock(nn.Module):
    """Base of blocks whose convolutions are sums of branches.

    The branches are children of the block; their names are those of the layer with
    ``_rpr_conv``, ``_rpr_scale`` or ``_rpr_skip``. Until they are merged, nn.Identity
    is in the place of the layer. Afterwards the children are None.
    """

    def _branches(self) -> dict[str, Any]:
        return {name: child for name, child in self.named_children() if '_rpr_' in name}

    def branch_norms(self) -> list[Any]:
        """Return the norms of all branches of this block."""
        modules = chain(*(child.modules() for child in self._branches().values()))
        return [m for m in modules if hasattr(m, 'weight') and type(m) is not nn.Conv2d]

    @torch.no_grad()
    def merge_branches(self) -> None:
        """Replace the branches by convolutions that compute their sums, for inference.

        If a norm is no batch norm, it cannot be folded, and nothing happens.
        """
        norms = self.branch_norms()
        if not norms or not all(map(is_batch_norm, norms)):
            return
        branches = self._branches()
        weights = {
            f'{name}.{key}': value
            for name, child in branches.items()
            for key, value in child.state_dict().items()
        }
        sum_branches(weights, norms[0])
        for name, (layer, norm) in _LAYERS.items():
            if f'{name}_rpr_conv' in branches:
                conv = deepcopy(branches[f'{name}_rpr_conv'][0].conv)
                set_weights(conv, weights[f'{layer}.weight'], weights[f'{layer}.bias'])
                self.set_submodule(layer, conv)
                self.set_submodule(norm, FoldedNorm(norms[0]))
        for name in branches:
            setattr(self, name, None)


def adapt_weights(
    network: Any, weights: dict[str, Tensor], prefix: str, *rest: Any
) -> None:
    """Adapt weights to a network, as a pre-hook of its ``load_state_dict``.

    Norms of branches get the authors' name ``bn`` instead of timm's ``bn1``. For a
    network with folded norms, branches are merged and norms are folded.

    Args:
        network (nn.Module): A backbone of this package.
        weights (dict[str, Tensor]): State dict, changed in place.
        prefix (str): Prefix of the network's names in it.
        rest: Other arguments of such hooks, not used.

    Raises:
        RuntimeError: A part of a branch or norm is missing.
    """
    for key in list(weights):
        weights[authors_name(key)] = weights.pop(key)
    if isinstance(network.bn1, FoldedNorm):
        try:
            sum_branches(weights, network.bn1, prefix)
            fold_weights(network, weights, prefix)
        except KeyError as error:
            raise RuntimeError(
                f'these are weights of a different network: {error} is missing'
            ) from error
