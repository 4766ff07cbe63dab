"""RMSprop in TensorFlow's form, by timm, under mmengine's root registry."""

from mmengine.registry import OPTIMIZERS

try:
    from timm.optim import RMSpropTF
except ModuleNotFoundError as error:
    raise ImportError(
        "the released recipe's optimizer RMSpropTF comes from timm: pip install timm"
    ) from error

OPTIMIZERS.register_module(module=RMSpropTF)
