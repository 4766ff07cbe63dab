"""ONNX Runtime, and the export of networks to ONNX with sizes fixed or free."""

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import networks  # noqa: F401  it registers mmghostnetv2::batch_nms
from .base import Runtime, Session


def _free_sizes() -> AbstractContextManager:
    """Replace mmseg's Upsample, which fixes sizes because it calls int() on them."""
    if 'mmseg' not in sys.modules:
        return nullcontext()
    from mmseg.models.utils import Upsample

    def upsample(self, x: Tensor) -> Tensor:
        return F.interpolate(
            x,
            scale_factor=self.scale_factor,
            mode=self.mode,
            align_corners=self.align_corners,
        )

    return patch.object(Upsample, 'forward', upsample)


def write(
    network: nn.Module, images: Tensor, path: Path, dynamic: bool = False
) -> None:
    """Write a network as an ONNX file with the input 'images'.

    ``network`` is in eval mode; its outputs get the names in its ``output_names`` where
    it has them. ``images`` have the shape that it will take, (N, C, H, W). ``dynamic``
    leaves N, H and W free. Each side must then have at least 33 pixels, so that all
    features have at least two, and YOLOv3 needs multiples of 32.

    Raises:
        RuntimeError: The network has an operation that ONNX lacks, or one that takes
            fixed sizes.
    """
    import onnxscript

    op: Any = onnxscript.opset18

    def suppress(boxes, scores, iou_threshold: float, number: int):
        limit = op.Constant(value_ints=[number])
        threshold = op.Constant(value_floats=[iou_threshold])
        lowest = op.Constant(value_floats=[0.0])
        return op.NonMaxSuppression(boxes, scores, limit, threshold, lowest)

    free = None
    if dynamic:
        # torch.export takes dimensions of 1 for fixed. At stride 32 these leave 3.
        sides = (max(side, 96) for side in images.shape[2:])
        images = torch.rand(2, images.shape[1], *sides)
        free = ({0: 'batch', 2: 'height', 3: 'width'},)
    try:
        with torch.no_grad(), _free_sizes() if dynamic else nullcontext():
            torch.onnx.export(
                network,
                (images,),
                path,
                input_names=['images'],
                output_names=getattr(network, 'output_names', None),
                dynamic_shapes=free,
                custom_translation_table={
                    torch.ops.mmghostnetv2.batch_nms.default: suppress
                },
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        first = str(error.__cause__ or error).strip().partition('\n')[0]
        raise RuntimeError(f'the network cannot be exported: {first}') from error


def _open(path: Path, threads: int) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads wait for the next operator in a busy loop, as in deployment, but stop
    # after the last one, so that they do not slow down the next network.
    options.add_session_config_entry('session.force_spinning_stop', '1')
    session = onnxruntime.InferenceSession(
        path, options, providers=['CPUExecutionProvider']
    )
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})


ONNXRUNTIME = Runtime(
    'onnxruntime',
    'ONNX Runtime',
    _open,
    write,
    format='onnx',
    suffix='.onnx',
    modules=('onnx', 'onnxscript', 'onnxruntime'),
    dynamic=True,
)
