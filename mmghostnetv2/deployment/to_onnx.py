"""Export of networks to ONNX, with sizes fixed or free."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import dfc_attention


def _restore(x: Tensor, size: Sequence, up_sampling: str = 'nearest') -> Tensor:
    """Up-sample as :func:`dfc_attention.restore` for sides of two pixels and more."""
    if up_sampling != 'nearest':
        return F.interpolate(x, size=size, mode=up_sampling)
    x = F.interpolate(x, scale_factor=2.0, mode='nearest')
    for dim, side in zip((-2, -1), size, strict=True):
        # the first row or column once more, and then what is too much goes again
        x = torch.cat([x.narrow(dim, 0, 1), x], dim)
        x = x.narrow(dim, x.shape[dim] - side, side)
    return x


def _up_sample(self, x: Tensor) -> Tensor:
    """Up-sample as mmseg's Upsample by a whole factor, with no size as a number."""
    return F.interpolate(
        x,
        scale_factor=self.scale_factor,
        mode=self.mode,
        align_corners=self.align_corners,
    )


@contextmanager
def _free_sizes() -> Iterator[None]:
    """Replace what a trace would bind to the sizes of the images it sees."""
    swaps = [(dfc_attention, 'restore', _restore)]
    if 'mmseg' in sys.modules:
        from mmseg.models.utils import Upsample

        swaps.append((Upsample, 'forward', _up_sample))
    originals = [getattr(owner, name) for owner, name, _ in swaps]
    for owner, name, value in swaps:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for (owner, name, _), value in zip(swaps, originals, strict=True):
            setattr(owner, name, value)


def to_onnx(
    network: nn.Module, shape: Sequence[int], path: Path, dynamic: bool = False
) -> None:
    """Write a network as an ONNX file with the input 'images'.

    Args:
        network (nn.Module): Network in eval mode. Its outputs get the names in
            ``output_names``, see :func:`mmghostnetv2.deployment.networks.deployable`,
            where it has them; for free sizes it must.
        shape (Sequence[int]): Shape of the images, (N, C, H, W).
        path (Path): File to write.
        dynamic (bool): Leave N, H and W free. An attention takes features of two pixels
            and more, so that images must have 33 pixels a side, where the network takes
            the sizes at all: YOLOv3 needs multiples of 32.

    Raises:
        RuntimeError: The network has an operation that ONNX lacks, or that takes fixed
            sizes.
    """
    images = torch.rand(*shape)
    names = list(getattr(network, 'output_names', []))
    axes = None
    if dynamic:
        # a trace of no side that is special: 3 pixels are left of 96 at stride 32
        images = torch.rand(*shape[:2], *(max(side, 96) for side in shape[2:]))
        free = {0: 'batch', 2: 'height', 3: 'width'}
        axes = {name: {0: 'batch'} for name in names}
        axes['images'] = free
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter('ignore')  # deprecated; sizes become constants
            with _free_sizes() if dynamic else nullcontext():
                torch.onnx.export(
                    network,
                    (images,),
                    path,
                    dynamo=False,
                    input_names=['images'],
                    output_names=names or None,
                    dynamic_axes=axes,
                )
    except torch.onnx.errors.OnnxExporterError as error:
        first = str(error).strip().splitlines()[0]
        raise RuntimeError(f'the network cannot be exported: {first}') from error
