"""Configs by name, the models that they describe, and mmpretrain's hub."""

import warnings
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from .checkpoint import load_weights, read_weights
from .paths import data_root


def _configs() -> dict[str, Path]:
    root = data_root() / 'configs'
    return {
        path.stem: path
        for path in sorted(root.rglob('*.py'), key=lambda path: path.stem)
        if '_base_' not in path.relative_to(root).parts
    }


def list_configs() -> list[str]:
    """Return the names of all configs to train and test with, sorted.

    A config's name is that of its file without ``.py``. It is unique in the package.
    """
    return list(_configs())


def config_path(name: str) -> str:
    """Return the absolute path of a config of :func:`list_configs`.

    Args:
        name (str): The name, with or without ``.py``.

    Raises:
        ValueError: There is no such config; the error names close matches.
    """
    configs = _configs()
    stem = name.removesuffix('.py')
    if stem not in configs:
        close = get_close_matches(stem, configs) or configs
        raise ValueError(f'no config is named {name!r}; there are: {", ".join(close)}')
    return str(configs[stem])


def read_config(name: str | Path) -> Config:
    """Read a config by its path or, if there is no such file, by its name.

    A config of another library is named as in ``_base_``, such as
    ``mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py``.

    Raises:
        ValueError: There is neither such a file nor such a name; the error names close
            matches.
    """
    library, _, file = str(name).partition('::')
    if file:
        # mmengine.hub.get_config would install a library that is missing.
        spec = find_spec(library) if library.isidentifier() else None
        for folder in (spec and spec.submodule_search_locations) or ():
            path = Path(folder, '.mim', 'configs', file)
            if path.is_file():
                return Config.fromfile(path)
        raise ValueError(f'no config is named {name!r}: {library} has no such file')
    return Config.fromfile(name if Path(name).is_file() else config_path(str(name)))


def change_config(config: Config, options: dict | None) -> None:
    """Change a config in place by options such as ``{'model.head.num_classes': 3}``.

    Raises:
        ValueError: The options do not fit the config; the error names them.
    """
    try:
        config.merge_from_dict(options or {})
    except Exception as error:  # mmengine raises KeyError, TypeError and others
        raise ValueError(f'cannot change the config by {options}: {error}') from error


def require_model(config: Config) -> None:
    """Raise a ValueError if a config has no model."""
    if not isinstance(config.get('model'), dict):
        raise ValueError(f'{config.filename} has no model: it needs model = dict(...)')


def init_model(
    config: str | Path | Config,
    checkpoint: str | None = None,
    cfg_options: dict | None = None,
) -> nn.Module:
    """Build the model of a config of mmpretrain, mmdet or mmseg, on the CPU.

    The libraries' own functions for this accept a checkpoint that lacks parameters and
    leave these at random values. This function does not.

    Args:
        config (str | Path | Config): Config, or its file or name.
        checkpoint (str, optional): File, URL or ``ghostnet://NAME`` of all weights. A
            classifier takes released files and timm's as they are. Random weights by
            default.
        cfg_options (dict, optional): Changes of the config; the keys may have dots.

    Returns:
        nn.Module: The model in eval mode; its config is ``cfg``.

    Raises:
        ValueError: There is no such config, it has no model, or the checkpoint belongs
            to a different network: parameters are missing, left over or of a different
            shape.
        FileNotFoundError: There is no such checkpoint.
        RuntimeError: The checkpoint cannot be read.
    """
    if not isinstance(config, Config):
        config = read_config(config)
    cfg = config.copy()
    change_config(cfg, cfg_options)
    require_model(cfg)
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    model_cfg = cfg.model.copy()
    if 'data_preprocessor' in cfg:
        model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = MODELS.build(model_cfg)
    if checkpoint is not None:
        load_weights(model, read_weights(checkpoint), checkpoint)
    model.cfg = cfg
    return model.eval()


def register_models() -> None:
    """Add the models of model-index.yml to mmpretrain's ModelHub.

    ``mmpretrain.get_model``, ``list_models`` and the inferencers then know them by
    name. Without mmpretrain this does nothing. If mmpretrain cannot be imported, it
    warns, because nothing else in this package needs mmpretrain.
    """
    if find_spec('mmpretrain') is None:
        return
    try:
        from mmpretrain.apis.model import ModelHub

        root = data_root()
        # When the package is reloaded, the models are registered already.
        if not ModelHub.has('ghostnetv2-100_3rdparty_in1k'):
            ModelHub.register_model_index(root / 'model-index.yml', config_prefix=root)
    except Exception as error:
        warnings.warn(
            'mmpretrain is installed, but its get_model and list_models will not know '
            f'the models of mmghostnetv2: {type(error).__name__}: {error}',
            stacklevel=2,
        )
