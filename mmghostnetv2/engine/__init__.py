"""Hooks, optimizers, schedules and a runner that the recipes need and mmengine lacks.

``ema_hook`` is not imported here, because it needs mmpretrain.
"""

from .channels_last_hook import ChannelsLastHook
from .check_classes_hook import CheckClassesHook
from .gloo_runner import GlooRunner
from .optimizers import gpu_amp_optim_wrapper, rmsprop_tf
from .safe_checkpoint_hook import SafeCheckpointHook, keep_torch_seeds
from .schedulers import TimmStepLR

__all__ = [
    'ChannelsLastHook',
    'CheckClassesHook',
    'GlooRunner',
    'SafeCheckpointHook',
    'TimmStepLR',
    'gpu_amp_optim_wrapper',
    'keep_torch_seeds',
    'rmsprop_tf',
]
