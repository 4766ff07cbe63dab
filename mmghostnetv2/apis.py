"""Configs by their names, and the models of model-index.yml in mmpretrain's hub."""

import warnings
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path


def _root() -> Path:
    """Return the folder of ``configs/`` and model-index.yml.

    That is ``.mim`` in an installed package; in a checkout, to which an editable
    install's ``.mim`` links, the checkout.
    """
    package = Path(__file__).resolve().parent
    configs = package / '.mim' / 'configs'
    return configs.resolve().parent if configs.is_dir() else package.parent


def _configs() -> dict[str, Path]:
    root = _root() / 'configs'
    return {
        path.stem: path
        for path in sorted(root.rglob('*.py'), key=lambda path: path.stem)
        if '_base_' not in path.relative_to(root).parts
    }


def list_configs() -> list[str]:
    """Return the names of all configs to train and test with, sorted.

    A name is the file's without ``.py``; it is unique in the package.
    """
    return list(_configs())


def config_path(name: str) -> str:
    """Return the absolute path of a config.

    Args:
        name (str): One of :func:`list_configs`, with or without ``.py``.

    Raises:
        ValueError: There is no such config; close matches are named.
    """
    configs = _configs()
    stem = name.removesuffix('.py')
    if stem not in configs:
        close = get_close_matches(stem, configs) or configs
        raise ValueError(f'no config is named {name!r}; there are: {", ".join(close)}')
    return str(configs[stem])


def register_models() -> None:
    """Add the models of model-index.yml to mmpretrain's ModelHub, if it is there.

    Then ``mmpretrain.get_model``, ``list_models`` and the inferencers know them by
    name. An mmpretrain that cannot be imported causes a warning, not an error, since
    nothing else here needs it.
    """
    if find_spec('mmpretrain') is None:
        return
    try:
        from mmpretrain.apis.model import ModelHub

        root = _root()
        # a reload of the package finds them there
        if not ModelHub.has('ghostnetv2-100_3rdparty_in1k'):
            ModelHub.register_model_index(root / 'model-index.yml', config_prefix=root)
    except Exception as error:
        warnings.warn(
            'mmpretrain is installed, but its get_model and list_models will not know '
            f'the models of mmghostnetv2: {type(error).__name__}: {error}',
            stacklevel=2,
        )
