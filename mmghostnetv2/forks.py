"""OpenMMLab's libraries and their maintained forks, which are imported alike."""

from importlib.metadata import packages_distributions


def mim_package(library: str) -> str:
    """Return the name of an installed library in mim's commands.

    It is the import name of a library by OpenMMLab, ``mim train mmdet CONFIG``, and the
    distribution's name of a fork, ``mim train onedl-mmdetection CONFIG``.

    Args:
        library (str): ``'mmdet'``, ``'mmseg'`` or ``'mmpretrain'``.
    """
    names = packages_distributions().get(library, [])
    return next((name for name in names if name.startswith('onedl-')), library)
