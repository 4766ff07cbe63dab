"""The plugin's own registry, a child of mmengine's root.

mmengine imports this module by itself when it meets the scope ``mmghostnetv2``, so
``type='mmghostnetv2.GhostNetV2'`` builds without ``custom_imports``.
"""

from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry

MODELS = Registry(
    'model',
    parent=MMENGINE_MODELS,
    scope='mmghostnetv2',
    locations=['mmghostnetv2.models'],
)


def register_model(cls):
    """Register a class here and in mmengine's root.

    The root is where mmpretrain, mmdet, mmseg and every other child look for a name
    that their own registries lack, so the bare name builds under any default scope.
    """
    MODELS.register_module(module=cls)
    MMENGINE_MODELS.register_module(module=cls)
    return cls
