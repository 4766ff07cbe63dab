from .dfc_attention import DFCAttention
from .ghost_module import GhostBottleneck, GhostModule, SqueezeExcite
from .ghostnet import GhostNet
from .ghostnetv2 import GhostNetV2

__all__ = [
    'DFCAttention',
    'GhostBottleneck',
    'GhostModule',
    'GhostNet',
    'GhostNetV2',
    'SqueezeExcite',
]
