"""What the recipes need and mmengine lacks.

Importing mmghostnetv2 registers all of it but the optimizer, which needs timm: a config
that uses that names ``mmghostnetv2.engine.optimizers`` in its ``custom_imports``.
"""

from .hooks import ChannelsLastHook
from .schedulers import TimmStepLR

__all__ = ['ChannelsLastHook', 'TimmStepLR']
