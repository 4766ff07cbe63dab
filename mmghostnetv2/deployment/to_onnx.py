"""Export of networks to ONNX, with sizes fixed or free."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
    if 'mmseg' not in sys.modules:
        yield
        return
    from mmseg.models.utils import Upsample

    original, Upsample.forward = Upsample.forward, _up_sample
    try:
        yield
    finally:
        Upsample.forward = original


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
