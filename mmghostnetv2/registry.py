"""The package's registries, and the one way in which its types are registered.

A registered type builds by its bare name (``type='GhostNetV2'``) wherever the package
has been imported, and by ``type='mmghostnetv2.GhostNetV2'`` also where it has not:
mmengine imports this module when it meets the scope ``mmghostnetv2``. Both names work
under the default scope of mmpretrain, mmdet, mmseg and any other library whose
registries are children of mmengine's.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

from mmengine import registry as roots
from mmengine.registry import Registry

T = TypeVar('T', bound=Callable[..., Any])


def _child(root: Registry) -> Registry:
    return Registry(root.name, parent=root, scope='mmghostnetv2')


MODELS = _child(roots.MODELS)
FUNCTIONS = _child(roots.FUNCTIONS)
HOOKS = _child(roots.HOOKS)
OPTIMIZERS = _child(roots.OPTIMIZERS)
OPTIM_WRAPPERS = _child(roots.OPTIM_WRAPPERS)
PARAM_SCHEDULERS = _child(roots.PARAM_SCHEDULERS)
RUNNERS = _child(roots.RUNNERS)


def register(registry: Registry, name: str | None = None) -> Callable[[T], T]:
    """Make a decorator that registers a class or a function under both names.

    The bare name is registered in mmengine's root, where every library looks for a name
    that its own registry lacks.

    Args:
        registry (Registry): A registry of this module.
        name (str, optional): Name to register. Defaults to the type's own name.

    Raises:
        KeyError: The name is already registered.
    """

    def decorator(cls: T) -> T:
        registry.register_module(name, module=cls)
        registry.root.register_module(name, module=cls)
        return cls

    return decorator


register_model = register(MODELS)  # the decorator of networks, layers and heads


def _register_lazily(registry: Registry, name: str, module: str) -> None:
    """Register a class whose module is imported when the class is built."""

    def build(*args, **kwargs):
        return getattr(import_module(module), name)(*args, **kwargs)

    register(registry, name)(build)


# The base classes of these come from mmpretrain and mmdet, which are slow to import and
# may not be installed.
_register_lazily(HOOKS, 'DualEMAHook', 'mmghostnetv2.engine.ema_hook')
_register_lazily(MODELS, 'DistilledClassifier', 'mmghostnetv2.distilled_classifier')
_register_lazily(MODELS, 'MobileNetV2Attention', 'mmghostnetv2.mobilenetv2_attention')
_register_lazily(MODELS, 'PredictingSSDHead', 'mmghostnetv2.ssd_head')
