from contextlib import nullcontext

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from .concat import is_traced


class _RunningStatsKept:
    """Context in which a block's batch norms leave their running statistics alone.

    A class, since each further backward pass through one graph enters it again.
    """

    def __init__(self, block: nn.Module) -> None:
        self.norms = [
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
        # the forward pass may have ended early, where the rest needs no gradient
        for norm, (momentum, batches) in zip(self.norms, self.kept, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)


def recompute(block: nn.Module, x: Tensor) -> Tensor:
    """Run a block that recomputes itself in the backward pass, to save memory.

    Args:
        block (nn.Module): The block; its batch norms count the batch once.
        x (Tensor): Its input.

    Returns:
        Tensor: Its output.
    """
    options = {}
    if not is_traced():  # a compiler updates the statistics once by itself
        options['context_fn'] = lambda: (nullcontext(), _RunningStatsKept(block))
    return checkpoint(block, x, use_reentrant=False, **options)
