"""torch itself as a runtime: eager and compiled."""

from copy import deepcopy

import numpy as np
import torch
from torch import nn

from .base import Runtime, Session, flatten


def _open_eager(network: nn.Module, threads: int) -> Session:
    @torch.inference_mode()
    def run(x: np.ndarray) -> list[np.ndarray]:
        torch.set_num_threads(threads)
        return flatten(network(torch.from_numpy(x)))

    return run


def _open_compiled(network: nn.Module, threads: int) -> Session:
    """Compile with weights as constants, in channels_last, at the first call."""
    network = deepcopy(network).to(memory_format=torch.channels_last)
    compiled = torch.compile(
        network, fullgraph=True, dynamic=False, options={'freezing': True}
    )

    @torch.no_grad()  # freezing does not work in inference mode
    def run(x: np.ndarray) -> list[np.ndarray]:
        torch.set_num_threads(threads)  # compiled code uses torch's threads, too
        image = torch.from_numpy(x).contiguous(memory_format=torch.channels_last)
        return flatten(compiled(image))

    return run


EAGER = Runtime('torch', 'torch', _open_eager)
COMPILED = Runtime('compiled', 'torch.compile', _open_compiled)
