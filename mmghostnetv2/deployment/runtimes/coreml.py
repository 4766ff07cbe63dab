"""Core ML, which runs only on macOS and iOS. The conversion also works on Linux."""

from pathlib import Path

import torch
from torch import Tensor, nn

from .base import Runtime, Session, export_program, tensors


def _write(network: nn.Module, images: Tensor, path: Path, half: bool = False) -> None:
    """Write NAME.mlpackage, a folder, and compare its input and outputs with torch's.

    It computes in float32. If ``half`` it computes in float16, as the Neural Engine
    requires.

    Raises:
        RuntimeError: The network cannot be converted, or shapes differ.
    """
    import coremltools

    program = export_program(network, images).run_decompositions({})
    precision = coremltools.precision
    try:
        model = coremltools.convert(
            program,
            compute_precision=precision.FLOAT16 if half else precision.FLOAT32,
            minimum_deployment_target=coremltools.target.iOS16,
        )
    except Exception as error:  # the converter raises many types
        raise RuntimeError(f'Core ML cannot convert the network: {error}') from error
    model.save(str(path))
    with torch.no_grad():
        expected = [images, *tensors(network(images))]
    found = interface(path)
    if [shape for _, shape in found] != [tuple(x.shape) for x in expected]:
        raise RuntimeError(f'Core ML has another input or other outputs: {found}')


def interface(path: Path) -> list[tuple[str, tuple[int, ...]]]:
    """Read the names and shapes of the input and of the outputs, in this order."""
    import coremltools

    model = coremltools.models.MLModel(str(path), skip_model_load=True)
    description = model.get_spec().description
    return [
        (array.name, tuple(array.type.multiArrayType.shape))
        for array in (*description.input, *description.output)
    ]


def _open(path: Path, threads: int) -> Session:
    raise NotImplementedError('Core ML runs only on macOS and iOS')


COREML = Runtime(
    'coreml',
    'Core ML',
    _open,
    _write,
    format='coreml',
    suffix='.mlpackage',
    modules=('coremltools',),
    runs=False,
    suppresses=False,
    compress={'half': _write},
)
