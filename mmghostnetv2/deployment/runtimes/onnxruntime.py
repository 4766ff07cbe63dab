"""ONNX Runtime, and the export of networks to ONNX with sizes fixed or free."""

import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import networks  # noqa: F401  it registers mmghostnetv2::batch_nms
from ..quantize import quantize
from .base import Runtime, Session


def _with_free_sizes(network: nn.Module) -> nn.Module:
    """Copy a network with torch's Upsample in place of mmseg's.

    mmseg's calls int() on the sizes, and then the exporter takes them for constants.
    """
    if 'mmseg' not in sys.modules:
        return network
    from mmseg.models.utils import Upsample

    network = deepcopy(network)
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if isinstance(module, Upsample) and not module.size:
            options = module.scale_factor, module.mode, module.align_corners
            network.set_submodule(name, nn.Upsample(None, *options))
    return network


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
    from onnxscript.rewriter import rewrite
    from onnxscript.rewriter.rules.common import fuse_hardswish_rules

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
        network = _with_free_sizes(network)
    try:
        with torch.no_grad():
            program: Any = torch.onnx.export(
                network,
                (images,),
                input_names=['images'],
                output_names=getattr(network, 'output_names', None),
                dynamic_shapes=free,
                custom_translation_table={
                    torch.ops.mmghostnetv2.batch_nms.default: suppress
                },
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        first = str(error.__cause__ or error).strip().partition('\n')[0]
        raise RuntimeError(f'the network cannot be exported: {first}') from error
    # The hard sigmoid of squeeze-and-excitation becomes one operator in place of three.
    rules = fuse_hardswish_rules()
    program.model = rewrite(program.model, pattern_rewrite_rules=rules)
    program.save(path, external_data=False)


def _quantize(network: nn.Module, images: Tensor, path: Path, batches: Tensor) -> None:
    """Quantise a file in place by ``batches``, (number, N, 3, H, W)."""
    quantize(path, batches)


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
    compress={'int8': _quantize},
)
