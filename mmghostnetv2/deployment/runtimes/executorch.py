"""ExecuTorch, PyTorch's runtime for phones, with the kernels of XNNPACK."""

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .base import Runtime, Session, export_program


def _write(network: nn.Module, images: Tensor, path: Path) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
        XnnpackPartitioner,
    )
    from executorch.exir import to_edge_transform_and_lower

    program = export_program(network, images)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # ExecuTorch calls deprecated functions
            program = to_edge_transform_and_lower(
                program, partitioner=[XnnpackPartitioner()]
            )
            path.write_bytes(program.to_executorch().buffer)
    except Exception as error:  # its passes raise exceptions of many types
        raise RuntimeError(f'ExecuTorch cannot convert the network: {error}') from error


def _quantize(network: nn.Module, images: Tensor, path: Path, batches: Tensor) -> None:
    """Write a network in 8-bit integers.

    ``batches``, (number, N, 3, H, W), tell the ranges of values. Weights have one scale
    for each channel, and activations one for each tensor.
    """
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as xnnpack
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    config = xnnpack.get_symmetric_quantization_config(is_per_channel=True)
    quantizer = xnnpack.XNNPACKQuantizer().set_global(config)
    module = prepare_pt2e(export_program(network, images).module(), quantizer)
    with torch.no_grad():
        for batch in batches:
            module(batch)
    _write(convert_pt2e(module), images, path)


_threads_of_process: int | None = None


def _set_threads(threads: int) -> None:
    """Set the number of threads that all programs of this process share.

    Raises:
        RuntimeError: A program was opened with another number. ExecuTorch crashes or
            hangs where its pool of threads is reset while a program is loaded.
    """
    global _threads_of_process
    from executorch.extension.pybindings import portable_lib

    if _threads_of_process is None:
        # No public function sets the number of threads.
        if portable_lib._threadpool_get_thread_count() != threads:
            portable_lib._unsafe_reset_threadpool(threads)
        _threads_of_process = threads
    if _threads_of_process != threads:
        raise RuntimeError(
            f'ExecuTorch runs with {_threads_of_process} thread(s) in this process and '
            f'cannot change to {threads}: use a process for each number of threads'
        )


def _open(path: Path, threads: int) -> Session:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # ExecuTorch warns that its API may change
        from executorch.runtime import Runtime as ExecuTorch

        _set_threads(threads)
    method = ExecuTorch.get().load_program(path).load_method('forward')

    def run(x: np.ndarray) -> list[np.ndarray]:
        # ExecuTorch ignores strides. Its outputs are overwritten by the next call.
        outputs = method.execute([torch.from_numpy(np.ascontiguousarray(x))])
        return [output.numpy().copy() for output in outputs]

    return run


EXECUTORCH = Runtime(
    'executorch',
    'ExecuTorch',
    _open,
    _write,
    format='executorch',
    suffix='.pte',
    modules=('executorch', 'torchao'),
    suppresses=False,
    compress={'int8': _quantize},
)
