"""LiteRT, formerly TensorFlow Lite. The converter runs in its own environment."""

import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .base import Runtime, Session, export_program


def litert_python() -> Path:
    """Return the Python of the environment that ``make litert`` builds.

    Raises:
        ImportError: The environment is missing.
    """
    caches = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    root = os.environ.get('MMGHOSTNETV2_CACHE') or Path(caches, 'mmghostnetv2')
    folder = Path(root, 'litert').expanduser().absolute()
    python = folder / 'bin' / 'python'
    if not python.is_file():
        raise ImportError(
            f'converting to LiteRT needs an environment of its own, {folder}: '
            'make litert builds it'
        )
    return python


def _run_worker(*arguments: str | Path) -> None:
    """Run litert_worker.py in its environment; raise with the last line it printed."""
    worker = Path(__file__).with_name('litert_worker.py')
    command = [litert_python(), worker, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().rpartition('\n')[2]
        raise RuntimeError(f'LiteRT cannot {arguments[0]} the network: {last}')


def _upsample_nearest(x: Tensor, size: list[int] | None, scale_factors=None) -> Tensor:
    """Up-sample by selecting rows and columns by index.

    LiteRT's own operator selects different pixels than torch's if the new size is not a
    multiple of the old one.
    """
    if size is None or all(
        new % old == 0 for new, old in zip(size, x.shape[-2:], strict=True)
    ):
        return NotImplemented  # torch.export keeps the operator
    for dim, new in zip((-2, -1), size, strict=True):
        index = torch.arange(new, device=x.device) * x.shape[dim] // new
        x = x.index_select(dim, index)
    return x


def _write(network: nn.Module, images: Tensor, path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, 'program.pt2')
        nearest = torch.ops.aten.upsample_nearest2d.vec
        program = export_program(network, images)
        program = program.run_decompositions({nearest: _upsample_nearest})
        torch.export.save(program, source)
        _run_worker('convert', source, path)


def _quantize(network: nn.Module, images: Tensor, path: Path, batches: Tensor) -> None:
    """Quantise a file to 8-bit integers in place.

    ``batches``, (number, N, 3, H, W), tell the ranges of values.
    """
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, 'images.npy'), batches.numpy())
        _run_worker('quantize', path, Path(folder, 'images.npy'))


def _open(path: Path, threads: int) -> Session:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]['index']
    targets = [details['index'] for details in interpreter.get_output_details()]

    def run(x: np.ndarray) -> list[np.ndarray]:
        interpreter.set_tensor(source, x)
        interpreter.invoke()
        return [interpreter.get_tensor(target) for target in targets]

    return run


LITERT = Runtime(
    'litert',
    'LiteRT',
    _open,
    _write,
    format='litert',
    suffix='.tflite',
    modules=('ai_edge_litert',),
    suppresses=False,
    compress={'int8': _quantize},
    check=litert_python,
)
