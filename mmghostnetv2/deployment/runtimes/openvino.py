"""OpenVINO, which reads ONNX graphs."""

import tempfile
from pathlib import Path

from torch import Tensor, nn

from .base import Runtime, Session
from .onnxruntime import write as write_onnx


def _write(network: nn.Module, images: Tensor, path: Path) -> None:
    """Write NAME.xml and NAME.bin in float32."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, 'model.onnx')
        write_onnx(network, images, source)
        model = openvino.Core().read_model(source)
        openvino.save_model(model, path, compress_to_fp16=False)


def _open(path: Path, threads: int) -> Session:
    import openvino

    options = {
        'INFERENCE_NUM_THREADS': threads,
        'NUM_STREAMS': 1,
        'PERFORMANCE_HINT': 'LATENCY',
        # The default is bfloat16 on CPUs that have it.
        'INFERENCE_PRECISION_HINT': 'f32',
        # Pinning would also affect other code in this process.
        'ENABLE_CPU_PINNING': False,
    }
    model = openvino.Core().compile_model(path, 'CPU', options)
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
)
