"""Quantisation of ONNX files for OpenVINO, by ONNX Runtime's quantiser."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

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


def quantize(source: Path, images: Sequence[np.ndarray], path: Path) -> None:
    """Quantise an ONNX file to 8-bit integers and write the result to ``path``.

    ``source`` is the file of a network in float32 with one input, and ``images`` are
    inputs from which the ranges of values are taken.

    Raises:
        ValueError: ``images`` is empty.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self, name: str) -> None:
            self.feeds = ({name: image} for image in images)

        def get_next(self) -> dict | None:
            return next(self.feeds, None)

    if not len(images):
        raise ValueError('calibration needs at least one image')
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder, 'prepared.onnx')
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
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
