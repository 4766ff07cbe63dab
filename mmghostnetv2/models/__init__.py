"""The networks and their layers, in plain torch.

Three private names of other libraries are used in this package, because there are no
public ones: torch's ``_BatchNorm``, the base of all its batch norms, SyncBatchNorm
included; ``_BatchNormXd``, by which mmengine replaces SyncBatchNorm; and mmengine's
``_ParamScheduler``, from which others derive schedules. Each is imported at the top of
a file, so that all tests of that file fail if one is renamed.
"""

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
