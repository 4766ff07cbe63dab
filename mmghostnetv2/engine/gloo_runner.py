"""Training and testing in several processes without a GPU.

mmengine's ``init_dist`` always selects a CUDA device, and its Runner gives the device
to the wrapper of the model, so neither works on a CPU.
"""

import atexit
from typing import Any

import torch
from mmengine.dist import is_distributed
from mmengine.model import is_model_wrapper, revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS
from mmengine.runner import Runner
from torch import distributed, nn

from ..registry import RUNNERS, register


@register(RUNNERS)
class GlooRunner(Runner):
    """mmengine's Runner for several processes that use gloo if there is no GPU.

    In a single process, or with a GPU, it does what mmengine's Runner does. A config
    selects it by ``runner_type``, see ``configs/_base_/gloo_cpu.py``. The training and
    test scripts of OpenMMLab read that field, except the test.py of mmseg 1.2.2; use
    this package's tools/test.py instead.

    Args:
        kwargs: As in mmengine's Runner.
    """

    @property
    def _on_cpus(self) -> bool:
        return self.distributed and not torch.cuda.is_available()

    def setup_env(self, env_cfg: dict) -> None:
        """Create the process group unless there is one; mmengine then uses it.

        Raises:
            ValueError: The launcher did not set RANK, WORLD_SIZE, MASTER_ADDR and
                MASTER_PORT in the environment, as torchrun does.
        """
        if self._on_cpus and not is_distributed():
            distributed.init_process_group('gloo')
            # Threads of a group that still exists at exit may abort the process.
            atexit.register(_destroy_process_group)
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wrap the model, in MMDistributedDataParallel unless the config says another.

        On CPUs BN replaces SyncBN, because torch has SyncBN for GPUs only. Each process
        then normalises with the statistics of its own images.
        """
        if not self._on_cpus or is_model_wrapper(model):
            return super().wrap_model(model_wrapper_cfg, model)
        wrapper: dict[str, Any] = dict(type='MMDistributedDataParallel')
        wrapper |= model_wrapper_cfg or {}
        if wrapper['type'] == 'MMDistributedDataParallel':
            # The defaults are those of mmengine's Runner.
            unused = self.cfg.get('find_unused_parameters', False)
            options = dict(broadcast_buffers=False, find_unused_parameters=unused)
            wrapper = options | wrapper
        return MODEL_WRAPPERS.build(wrapper | dict(module=revert_sync_batchnorm(model)))


def _destroy_process_group() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
