"""OpenVINO, which reads ONNX graphs."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..quantize import quantize
from .base import Runtime, Session
from .onnxruntime import write as write_onnx


@cache
def _core() -> Any:
    """Return OpenVINO's core, the same one for the whole process.

    Each core's CPU plugin sets an alternate stack for signals. If a process has several
    and the first one is destroyed first, the last one restores a stack that is gone,
    and the next signal ends the process (OpenVINO 2026.4).
    """
    import openvino

    return openvino.Core()


def _write(
    network: nn.Module, images: Tensor, path: Path, batches: Tensor | None = None
) -> None:
    """Write NAME.xml and NAME.bin in float32.

    ``batches``, (number, N, 3, H, W), quantise the network to 8-bit integers.
    """
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, 'model.onnx')
        write_onnx(network, images, source)
        if batches is not None:
            quantize(source, batches)
        model = _core().read_model(source)
        openvino.save_model(model, path, compress_to_fp16=False)


# The names by which OpenVINO lists what the CPU has
CAPABILITIES = {'f32': 'FP32', 'bf16': 'BF16', 'f16': 'FP16'}


def _open(path: Path, threads: int, precision: str = 'f32') -> Session:
    """Open a file to be computed in a precision.

    Raises:
        ValueError: The CPU does not have it. OpenVINO would compute in float32.
    """
    known = _core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    if CAPABILITIES[precision] not in known:
        raise ValueError(
            f'OpenVINO has no {precision} on this CPU, only {", ".join(known)}'
        )
    options = {
        'INFERENCE_NUM_THREADS': threads,
        'NUM_STREAMS': 1,
        'PERFORMANCE_HINT': 'LATENCY',
        # The default is bfloat16 on CPUs that have it.
        'INFERENCE_PRECISION_HINT': precision,
        # Pinning would also affect other code in this process.
        'ENABLE_CPU_PINNING': False,
    }
    model = _core().compile_model(path, 'CPU', options)
    return lambda x: [array.copy() for array in model([x]).values()]


OPENVINO = Runtime(
    'openvino',
    'OpenVINO',
    _open,
    _write,
    format='openvino',
    suffix='.xml',
    companions=('.bin',),
    modules=('onnx', 'onnxscript', 'openvino'),
    precisions=('f32', 'bf16', 'f16'),
    compress={'int8': _write},
)
