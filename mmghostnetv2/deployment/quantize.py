"""Quantisation of ONNX files by ONNX Runtime's quantiser."""

import tempfile
from pathlib import Path

from torch import Tensor

WEIGHTED = ['Conv', 'Gemm', 'MatMul']


def before_the_last_layers(model) -> list[str]:
    """Name the nodes on which a later convolution or linear layer depends.

    ``model`` is an onnx.ModelProto with its nodes in the order of execution.
    """
    names: list[str] = []
    wanted: set[str] = set()
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            names.append(node.name)
            wanted.update(node.input)
        elif node.op_type in WEIGHTED:
            wanted.update(node.input)
    return names


def quantize(path: Path, batches: Tensor) -> None:
    """Quantise an ONNX file to 8-bit integers in place.

    The file is that of a network in float32 with one input. The ranges of values come
    from ``batches`` of images, (number, N, 3, H, W). Weights have one scale for each
    channel, and activations one for each tensor. The last convolutions and linear
    layers and all that follows, such as the decoding of boxes, stay in float32, because
    eight bits cost the most accuracy and save the least time there.

    Raises:
        ImportError: ONNX Runtime is not installed.
        ValueError: There are no images.
    """
    import onnx

    try:
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:  # OpenVINO does not need it otherwise
        text = '8 bits need ONNX Runtime: pip install onnxruntime'
        raise ImportError(text) from error

    class Reader(quantization.CalibrationDataReader):
        def __init__(self, name: str) -> None:
            self.feeds = ({name: images.numpy()} for images in batches)

        def get_next(self) -> dict | None:
            return next(self.feeds, None)

    if not len(batches):
        raise ValueError('calibration needs at least one image')
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder, 'prepared.onnx')
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        model = onnx.load(prepared)
        quantization.quantize_static(
            prepared,
            path,
            Reader(model.graph.input[0].name),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=WEIGHTED,
            nodes_to_quantize=before_the_last_layers(model),
            # OpenVINO fuses this pattern: inputs are quantised, outputs are not.
            extra_options=dict(
                OpTypesToExcludeOutputQuantization=WEIGHTED, QuantizeBias=False
            ),
        )
