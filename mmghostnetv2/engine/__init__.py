"""What the released ImageNet recipe needs and mmengine lacks.

A config that uses it names ``mmghostnetv2.engine`` in its ``custom_imports``.
"""

from .optimizers import RMSpropTF
from .schedulers import TimmStepLR

__all__ = ['RMSpropTF', 'TimmStepLR']
