"""The optimizer of the released weights, and mixed precision on a GPU alone."""

from collections.abc import Iterable

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch.optim import Optimizer

from ..registry import OPTIM_WRAPPERS, OPTIMIZERS, register


@register(OPTIMIZERS, 'RMSpropTF')
def rmsprop_tf(params: Iterable, **kwargs) -> Optimizer:
    """Build timm's RMSpropTF, the optimizer of the released weights.

    Unlike torch's RMSprop, it starts the mean square at one, adds epsilon inside the
    square root and applies the learning rate to the momentum, as TensorFlow does.

    Only training needs timm, so it is imported here. ``kwargs`` are those of timm.

    Raises:
        ImportError: timm is not installed.
    """
    try:
        from timm.optim import RMSpropTF
    except ModuleNotFoundError as error:
        raise ImportError(
            'RMSpropTF, the optimizer of the released recipe, is part of timm: '
            'pip install timm'
        ) from error

    class EagerRMSpropTF(RMSpropTF):
        # mmengine applies torch.compile to a whole training step, and torch.compile
        # fails in optimizers that are not torch's own.
        step = torch.compiler.disable(RMSpropTF.step)

    return EagerRMSpropTF(params, **kwargs)


@register(OPTIM_WRAPPERS, 'GPUAmpOptimWrapper')
def gpu_amp_optim_wrapper(**kwargs) -> OptimWrapper:
    """Build mmengine's AmpOptimWrapper on a GPU, its OptimWrapper on a CPU.

    mmengine supports mixed precision on GPUs only. ``kwargs`` are OptimWrapper's.
    """
    wrapper = AmpOptimWrapper if torch.cuda.is_available() else OptimWrapper
    return wrapper(**kwargs)
