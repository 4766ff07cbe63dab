"""What the recipes need and mmengine lacks.

Importing mmghostnetv2 registers the hook ``ChannelsLastHook``, the schedule
``TimmStepLR`` and the optimizer ``RMSpropTF``. The other modules, which need more or do
more, are named where they are used: ``ema_hook`` needs mmpretrain, ``gloo`` joins
processes.
"""

from .channels_last_hook import ChannelsLastHook
from .optimizers import rmsprop_tf
from .schedulers import TimmStepLR

__all__ = ['ChannelsLastHook', 'TimmStepLR', 'rmsprop_tf']
