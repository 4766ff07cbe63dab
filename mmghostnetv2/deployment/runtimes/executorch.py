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
            warnings.simplefilter('ignore')  # of what ExecuTorch itself calls in torch
            program = to_edge_transform_and_lower(
                program, partitioner=[XnnpackPartitioner()]
            )
            path.write_bytes(program.to_executorch().buffer)
    except Exception as error:  # its passes raise exceptions of many types
        raise RuntimeError(f'ExecuTorch cannot convert the network: {error}') from error


def _open(path: Path, threads: int) -> Session:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # ExecuTorch says that its API may change
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime as ExecuTorch

        # No public function sets the number of threads. The whole process shares them.
        if portable_lib._threadpool_get_thread_count() != threads:
            portable_lib._unsafe_reset_threadpool(threads)
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
)
