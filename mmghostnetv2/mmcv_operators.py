"""Replacements of mmcv's compiled operators in torchvision and plain torch.

mmcv has no wheels for current versions of torch, so its operators must be compiled.
This takes minutes and, for a GPU, a CUDA toolkit. ``mmcv-lite`` is mmcv without them.
With it, importing the package puts this module in the place of ``mmcv._ext``, the
compiled module from which ``mmcv.ops`` takes its functions. The functions here have the
signatures that ``mmcv.ops`` calls, and write their results into the tensors that it
passes. An operator that is not here raises an error when it is called.

Some scripts import ``mmcv.ops`` before they read the config that imports this package,
as mmdet's test does. For them, ``python -m mmghostnetv2.mmcv_operators`` writes a file
``mmcv/_ext.py`` that puts this module in its place at any import. Compiled operators
that are installed later take precedence over the file.
"""

import sys
from collections.abc import Callable
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import mmcv
import torch
import torch.nn.functional as F
import torchvision
from mmengine.logging import print_log
from torch import Tensor

# What `install` writes
EXT = '''"""In the place of mmcv's compiled operators; written by mmghostnetv2."""

import sys

from mmghostnetv2 import mmcv_operators

sys.modules[__name__] = mmcv_operators
'''


def provide_operators() -> None:
    """Put this module in the place of ``mmcv._ext``."""
    mmcv._ext = sys.modules['mmcv._ext'] = sys.modules[__name__]


def install() -> None:
    """Write ``mmcv/_ext.py`` beside mmcv-lite, and print its path.

    Raises:
        ValueError: mmcv's compiled operators are installed.
    """
    path = Path(mmcv.__path__[0], '_ext.py')
    spec = PathFinder.find_spec('mmcv._ext', mmcv.__path__)
    if spec and spec.origin != str(path):
        raise ValueError(f"mmcv's compiled operators are installed: {spec.origin}")
    path.write_text(EXT)
    print(f'wrote {path}')


def _missing(name: str) -> NotImplementedError:
    return NotImplementedError(
        f"mmcv's operator {name!r} needs mmcv with compiled operators, but mmcv-lite "
        'is installed: `make setup OPS=compiled`, or in any environment `python '
        'tools/compile_mmcv.py`, replaces it'
    )


def __getattr__(name: str) -> Callable:
    """Return a function that raises, for an operator that is not here."""
    if name.startswith('_'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def operator(*args, **kwargs):
        raise _missing(name)

    return operator


@cache
def _log_once() -> None:
    print_log(
        "mmcv's compiled operators are not installed; torchvision's and plain torch "
        'take their place',
        logger='current',
    )


def get_compiler_version() -> str:
    """Return the library that computes the operators; mmcv returns its compiler."""
    return f'torchvision {torchvision.__version__}'


def get_compiling_cuda_version() -> str:
    """Return the CUDA version of torch, whose build torchvision's kernels share."""
    return torch.version.cuda or 'not available'


def _with_offset(boxes: Tensor, offset: int) -> Tensor:
    """Make the sides of boxes (N, 4) longer by an offset of 0 or 1 pixel."""
    return boxes + boxes.new_tensor([0, 0, offset, offset])


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the indices of the boxes (N, 4) that stay, best score first."""
    _log_once()
    return torchvision.ops.nms(_with_offset(boxes, offset), scores, iou_threshold)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lower the scores of boxes that overlap a better one (Soft-NMS).

    Args:
        boxes (Tensor): (N, 4).
        scores (Tensor): (N,).
        dets (Tensor): (N, 5); its first K rows become the boxes and their new scores.
        iou_threshold (float): Smallest overlap (IoU) at which methods 0 and 1 act.
        sigma (float): Width of the Gaussian of method 2.
        min_score (float): Boxes whose score falls below it are removed.
        method (int): 0 sets the score of the box to zero, 1 multiplies it by one minus
            the overlap, and 2 multiplies it by a Gaussian of the overlap.
        offset (int): Pixels, 0 or 1, added to the sides of the boxes.

    Returns:
        Tensor: Indices of the K boxes that stay, best score first.
    """
    _log_once()
    sized, scores = _with_offset(boxes, offset), scores.clone()
    left, kept = torch.arange(len(scores)), list[Tensor]()
    while len(left):
        best = left[scores[left].argmax()]
        dets[len(kept)] = torch.cat([boxes[best], scores[best, None]])
        kept.append(best)
        left = left[left != best]
        overlap = torchvision.ops.box_iou(sized[best, None], sized[left])[0]
        overlap = overlap.nan_to_num()  # it is NaN for two boxes without area
        if method == 2:
            weight = torch.exp(-(overlap**2) / sigma)
        else:
            lowered = 1 - overlap if method == 1 else torch.zeros_like(overlap)
            weight = lowered.where(overlap >= iou_threshold, 1)
        scores[left] *= weight
        left = left[scores[left] >= min_score]
    return torch.stack(kept) if kept else left


def _roi_align(
    features: Tensor,
    rois: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> Tensor:
    if pool_mode == 0:
        raise _missing('roi_align of pool_mode="max"')
    size = aligned_height, aligned_width
    return torchvision.ops.roi_align(
        features, rois, size, spatial_scale, sampling_ratio, aligned
    )


def roi_align_forward(
    features: Tensor, rois: Tensor, output: Tensor, argmax_y, argmax_x, **options
) -> None:
    """Pool features (N, C, H, W) in boxes (K, 5) into ``output`` (K, C, h, w)."""
    _log_once()
    output.copy_(_roi_align(features, rois, **options))


def roi_align_backward(
    grad_output: Tensor, rois: Tensor, argmax_y, argmax_x, grad_input: Tensor, **options
) -> None:
    """Write the gradient of the features into ``grad_input`` (N, C, H, W)."""
    with torch.enable_grad():
        # RoI align is linear, so its gradient does not depend on the features.
        features = torch.zeros_like(grad_input, requires_grad=True)
        output = _roi_align(features, rois, **options)
    (grad,) = torch.autograd.grad(output, features, grad_output)
    grad_input.copy_(grad)


def _focal_loss(
    logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float
) -> Tensor:
    """Compute the loss (N, C) of logits (N, C) and classes (N,); C is background."""
    classes = logits.shape[1]
    truth = F.one_hot(target, classes + 1)[:, :classes].to(logits.dtype)
    loss = torchvision.ops.sigmoid_focal_loss(logits, truth, alpha, gamma)
    if len(weight):  # one value a class; background has the weight 1
        loss = loss * F.pad(weight, (0, 1), value=1)[target, None]
    return loss


def sigmoid_focal_loss_forward(
    logits: Tensor, target: Tensor, weight: Tensor, output: Tensor, **options: Any
) -> None:
    """Write the loss of each class into ``output`` (N, C)."""
    _log_once()
    output.copy_(_focal_loss(logits, target, weight, **options))


def sigmoid_focal_loss_backward(
    logits: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, **options: Any
) -> None:
    """Write the gradient of the loss of each class into ``grad_input`` (N, C)."""
    with torch.enable_grad():
        logits = logits.detach().requires_grad_()
        loss = _focal_loss(logits, target, weight, **options).sum()
    (grad,) = torch.autograd.grad(loss, logits)
    grad_input.copy_(grad)


if __name__ == '__main__':
    from .arguments import run_tool

    run_tool(install)
