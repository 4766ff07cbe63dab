"""The networks and their layers; of OpenMMLab they need mmengine and mmcv.cnn."""

from .cbam import CBAM
from .coordinate_attention import CoordinateAttention
from .dfc_attention import DFCAttention
from .fold_norms import fold_norms
from .ghost_module import GhostBottleneck, GhostModule
from .ghostnet import GhostNet
from .ghostnetv2 import GhostNetV2
from .ghostnetv3 import GhostNetV3
from .self_attention import GhostNetSelfAttention, SelfAttention
from .squeeze_excite import SqueezeExcite

__all__ = [
    'CBAM',
    'CoordinateAttention',
    'DFCAttention',
    'GhostBottleneck',
    'GhostModule',
    'GhostNet',
    'GhostNetSelfAttention',
    'GhostNetV2',
    'GhostNetV3',
    'SelfAttention',
    'SqueezeExcite',
    'fold_norms',
]
