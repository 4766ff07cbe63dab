"""More than one process without a GPU, which mmengine's launchers take for granted.

Importing this module joins the processes that a launcher started through gloo; it does
nothing in a single process or with a GPU. ``configs/_base_/gloo_cpu.py`` does all that
a config needs for it.
"""

import atexit
import os

import torch
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS
from torch import distributed, nn


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """MMDistributedDataParallel on CPUs, with SyncBN as BN of each process's images.

    torch has SyncBN for GPUs only.

    Args:
        module (nn.Module): The model.
        device_ids: What mmengine's runner gives every wrapper; ignored.
        kwargs: As in torch's DistributedDataParallel.
    """

    def __init__(self, module: nn.Module, device_ids=None, **kwargs) -> None:
        super().__init__(revert_sync_batchnorm(module), device_ids=None, **kwargs)


def join_processes() -> None:
    """Create the process group of a launcher's processes, unless there is one already.

    mmengine's runner leaves an existing group alone; the one it would create itself
    needs a GPU. It is left at exit, as threads of a group that is still there may abort
    a process that has done its work.

    Raises:
        ValueError: WORLD_SIZE is in the environment, but not all the rest that torchrun
            and ``mim --launcher pytorch`` put there: RANK, MASTER_ADDR, MASTER_PORT.
    """
    launched = 'WORLD_SIZE' in os.environ
    if launched and not torch.cuda.is_available() and not distributed.is_initialized():
        distributed.init_process_group('gloo')
        atexit.register(_leave)


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


join_processes()
