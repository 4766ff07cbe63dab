"""The record that describes a runtime, and the comparison of its outputs with torch."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

# Takes a batch of images, (N, 3, H, W), and returns the outputs as a flat list.
Session = Callable[[np.ndarray], list[np.ndarray]]

# Largest difference from torch as a share of an output's largest value. It leaves room
# for the rounding of folded norms and of other kernels.
TOLERANCE = 1e-4


class Runtime(NamedTuple):
    """Describes a runtime: how to write a network for it and how to run the file.

    ``write(network, images, path)`` writes a file for images of one shape, and
    ``open(path, threads)`` returns a :data:`Session` that computes in float32, and
    ``open(path, threads, precision)`` one of another of its ``precisions``, or raises a
    ValueError where the CPU does not have it. torch's own runtimes have no files: their
    ``write`` is None and their ``open`` takes the network itself.
    """

    name: str  # key of RUNTIMES
    title: str  # name for messages
    open: Callable[..., Session]
    write: Callable[..., object] | None = None  # RuntimeError if it cannot convert
    format: str = ''  # name of the file format, for export.py --format
    suffix: str = ''  # of the file, with the dot
    companions: tuple[str, ...] = ()  # suffixes of further files that are written
    modules: tuple[str, ...] = ()  # that it imports beside torch
    runs: bool = True  # whether files can be run, and so compared with torch
    suppresses: bool = True  # whether it has NMS, and so takes whole detectors
    precisions: tuple[str, ...] = ('f32',)  # that it computes in
    dynamic: bool = False  # whether write takes dynamic=True: free batch, height, width
    # Options of export.py, each with a function (network, images, path, value) that
    # rewrites the checked file smaller.
    compress: Mapping[str, Callable] = MappingProxyType({})
    # Raises an ImportError if something else than the modules is missing.
    check: Callable[[], object] = lambda: None

    def convert(self, network: nn.Module, x: Tensor, path: Path) -> Path | nn.Module:
        """Convert a network in eval mode to what :attr:`open` takes.

        ``x`` are images of the shape that it will take, (N, 3, H, W). The result is a
        file, ``path`` with the runtime's name and suffix, or the network itself if the
        runtime has no files.
        """
        if self.write is None:
            return network
        # The name keeps OpenVINO's NAME.bin apart from ncnn's.
        path = path.with_name(f'{path.name}.{self.name}{self.suffix}')
        self.write(network, x, path)
        return path


def export_program(network: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    """Export a network by torch.export for images of one shape.

    Raises:
        RuntimeError: The network cannot be exported.
    """
    try:
        with torch.no_grad():
            return torch.export.export(network, (images,))
    except Exception as error:  # torch.export has dozens of exception types
        first = str(error).strip().partition('\n')[0]
        raise RuntimeError(
            f'torch.export cannot export the network: {first}'
        ) from error


def tensors(outputs: Tensor | Sequence) -> list[Tensor]:
    """List the tensors in a network's outputs: tensors, or sequences of them."""
    if isinstance(outputs, Tensor):
        return [outputs]
    return [tensor for output in outputs for tensor in tensors(output)]


def flatten(outputs: Tensor | Sequence) -> list[np.ndarray]:
    """List the tensors in a network's outputs as arrays."""
    return [tensor.numpy() for tensor in tensors(outputs)]


def largest_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference as a share of the largest value of ``theirs``."""
    error, largest = (np.abs(a).max(initial=0) for a in (ours - theirs, theirs))
    return float(error / largest) if error else 0.0


def require_equal(
    outputs: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    tolerance: float,
    runtime: str,
) -> None:
    """Raise unless the outputs of a runtime are those of torch.

    ``tolerance`` is the largest difference as a share of an output's largest value, and
    ``runtime`` is the name of the runtime for the message.

    Raises:
        RuntimeError: Number, shapes or values differ, or values are not finite.
    """
    shapes, expected_shapes = ([a.shape for a in o] for o in (outputs, expected))
    if shapes != expected_shapes:
        raise RuntimeError(
            f'{runtime} returns outputs of the shapes {shapes}, torch {expected_shapes}'
        )
    for i, (ours, theirs) in enumerate(zip(outputs, expected, strict=True)):
        error = largest_error(ours, theirs)
        if not error <= tolerance:  # NaN is an error, too
            raise RuntimeError(
                f'output {i} of {runtime} differs from that of torch by up to '
                f'{error:.1e} of its largest value, more than {tolerance:.1e}'
            )
