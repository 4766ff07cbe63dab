"""Parts of a network that are computed again in the backward pass."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # torch has no public name for it
from torch.utils.checkpoint import checkpoint


class _RunningStatsKept:
    """Context in which the batch norms of a block keep their running statistics.

    It is a class, because each backward pass through the same graph enters it again,
    and a function with ``@contextmanager`` makes a context for one use only.
    """

    def __init__(self, block: nn.Module) -> None:
        self.norms: list[Any] = [
            module
            for module in block.modules()
            if isinstance(module, _BatchNorm)
            and module.training
            and module.track_running_stats
        ]

    def __enter__(self) -> None:
        self.kept = [(n.momentum, n.num_batches_tracked.clone()) for n in self.norms]
        for norm in self.norms:
            norm.momentum = 0.0

    def __exit__(self, *exc_info) -> None:
        # All norms are restored here, because the recomputation stops before the last
        # ones if no gradient needs them.
        for norm, (momentum, batches) in zip(self.norms, self.kept, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)


def recompute(
    block: nn.Module, *inputs: Tensor, function: Callable[..., Tensor] | None = None
) -> Tensor:
    """Run a block that is recomputed in the backward pass, to save memory.

    Args:
        block (nn.Module): The block. Its batch norms update their running statistics
            only once for each batch.
        inputs (Tensor): Its inputs.
        function (Callable, optional): Function to run instead of the block's forward.
            Its batch norms must be part of ``block``.

    Returns:
        Tensor: The output.
    """
    options: dict[str, Any] = {}
    if not torch.compiler.is_compiling():  # compiled code updates statistics once
        options['context_fn'] = lambda: (nullcontext(), _RunningStatsKept(block))
    return checkpoint(function or block, *inputs, use_reentrant=False, **options)
