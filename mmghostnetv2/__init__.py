"""GhostNetV2 as a backbone for every OpenMMLab 2.x library.

Importing the package

- registers the networks and what their recipes need;
- adds the released models to mmpretrain's hub;
- lets mmengine read more checkpoints, see :mod:`mmghostnetv2.checkpoint`;
- provides mmcv's operators where mmcv-lite lacks them, see
  :mod:`mmghostnetv2.mmcv_operators`.

A config needs only
``custom_imports = dict(imports=['mmghostnetv2'], allow_failed_imports=False)``.
"""

import gc
import re
import sys
import warnings
from importlib import import_module
from importlib.util import find_spec

from .version import __version__

# `python -m mmghostnetv2.doctor` imports this package first. It must also start where
# torch, mmengine or mmcv is missing or broken, so it runs before they are imported.
if 'mmghostnetv2.doctor' in sys.orig_argv and sys.argv[0] == '-m':
    from .doctor import main

    sys.exit(main())

# torch 2.6 is the first release that loads weights-only by default.
MINIMUM_VERSIONS = {'torch': '2.6.0', 'mmengine': '0.10.4', 'mmcv': '2.0.0'}


# mmengine's digit_version is not used, because it sorts pre-releases such as 2.6.0a0 of
# NVIDIA's containers before 2.6.0.
def _release(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r'\d+', version)[:3]))


def _check_dependencies() -> None:
    """Check the versions of the libraries, and warn of a known conflict.

    Raises:
        ImportError: A library is missing or too old.
    """
    for name, minimum in MINIMUM_VERSIONS.items():
        remedy = f'pip install "{name}>={minimum}"'
        if name == 'mmcv':
            remedy += ', or mmcv-lite, which needs no compiler'
        try:
            version = import_module(name).__version__
        except ModuleNotFoundError as error:
            raise ImportError(
                f'mmghostnetv2 needs {name}, but found no module named '
                f'{error.name!r}: {remedy}'
            ) from error
        if _release(version) < _release(minimum):
            raise ImportError(
                f'mmghostnetv2 needs {name}>={minimum}, found {version}: {remedy}'
            )
    # mmengine up to 0.10.7, its last release, finds `_base_ = 'mmdet::...'` through
    # pkg_resources.
    mmengine = import_module('mmengine')
    if _release(mmengine.__version__) <= (0, 10, 7) and not find_spec('pkg_resources'):
        warnings.warn(
            'configs that inherit from another library (_base_ = "mmdet::...") need '
            'pkg_resources, which setuptools 82 removed: pip install "setuptools<81"',
            stacklevel=3,
        )


# The libraries make 300 000 objects when they are imported, and Python would search
# them for garbage again and again, half a second in all.
_was_collecting = gc.isenabled()
gc.disable()
try:
    _check_dependencies()

    if find_spec('mmcv._ext') is None and find_spec('torchvision'):
        from .mmcv_operators import provide_operators

        provide_operators()

    from . import checkpoint, engine, models
    from .apis import config_path, init_model, list_configs, register_models
    from .models import *  # noqa: F403

    register_models()
finally:
    if _was_collecting:
        gc.enable()

__all__ = [
    '__version__',
    'checkpoint',
    'config_path',
    'engine',
    'init_model',
    'list_configs',
    'models',
]
__all__ += models.__all__
