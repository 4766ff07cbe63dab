from copy import deepcopy

from mmcv.cnn import fuse_conv_bn
from mmengine.registry import MODELS
from torch import nn

from ..registry import MODELS as OWN_MODELS
from .packed_conv import pack_convs


def fold_norms(module: nn.Module) -> nn.Module:
    """Fold batch norms into the convolutions before them, for inference.

    Convolutions get weights and biases that do what their norms did. All is left in
    eval mode. Other norms, and batch norms behind anything else, stay.

    Heads such as RTMDet's apply one convolution with another norm on each level. It
    becomes one convolution a level.

    Args:
        module (nn.Module): Any network, changed in place. A batch norm is taken to
            belong to the convolution registered right before it in the same module, as
            everywhere in mmcv, mmpretrain, mmdet and mmseg.

    Returns:
        nn.Module: ``module`` itself.
    """
    seen = set()
    for parent in module.modules():
        # not named_children(), which leaves out what it has met
        for name, child in parent._modules.items():
            if isinstance(child, nn.Conv2d):
                if child in seen:
                    setattr(parent, name, deepcopy(child))
                seen.add(child)
    module.eval()  # mmpretrain's returns None
    return fuse_conv_bn(module)


@OWN_MODELS.register_module(name='Folded')
def build_folded(base: str, **cfg) -> nn.Module:
    """Build a model with its batch norms folded, for weights that are.

    A config of it is that of the model with ``type='mmghostnetv2.Folded'`` and the
    model's own type as ``base``; all else in it, and so all that reads it, stays.

    Args:
        base (str): Type of the model.
        cfg: The other fields of its config.

    Returns:
        nn.Module: The model, in eval mode.
    """
    return pack_convs(fold_norms(MODELS.build(dict(type=base, **cfg))))
