"""Configs by their names and their models, and mmpretrain's hub."""

import warnings
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from .checkpoint import read_weights


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


def read_config(name: str | Path) -> Config:
    """Read a config by its path or, if there is no such file, by its name.

    Args:
        name (str | Path): Path, or one of :func:`list_configs`.

    Raises:
        ValueError: It is neither; close matches are named.
    """
    return Config.fromfile(name if Path(name).is_file() else config_path(str(name)))


def init_model(
    config: str | Path | Config,
    checkpoint: str | None = None,
    cfg_options: dict | None = None,
) -> nn.Module:
    """Build the model of a config of mmpretrain, mmdet or mmseg, on the CPU.

    Unlike the libraries' own functions it is one for all of them, and it takes no
    checkpoint that leaves a parameter at random values.

    Args:
        config (str | Path | Config): Config, or its file or name.
        checkpoint (str, optional): File or URL with all weights; released ones and
            timm's are fine for a classifier. Random weights by default.
        cfg_options (dict, optional): Changes of the config, keys with dots.

    Returns:
        nn.Module: The model in eval mode; its config is ``cfg``.

    Raises:
        ValueError: There is no such config.
        FileNotFoundError: There is no such checkpoint.
        RuntimeError: The checkpoint cannot be read, or is one of another model.
    """
    if not isinstance(config, Config):
        config = read_config(config)
    cfg = config.copy()
    cfg.merge_from_dict(cfg_options or {})
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    model_cfg = cfg.model.copy()
    if 'data_preprocessor' in cfg:
        model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = MODELS.build(model_cfg)
    if checkpoint is not None:
        weights = read_weights(checkpoint)
        try:
            lacking = model.load_state_dict(weights, strict=False).missing_keys
        except RuntimeError as error:  # a line for each parameter of another shape
            first = str(error).splitlines()[1].strip()
            raise RuntimeError(
                f'{checkpoint} is of another network: {first}'
            ) from error
        lacking = [key for key in lacking if not key.endswith('num_batches_tracked')]
        if lacking:
            raise RuntimeError(
                f'{checkpoint} is of another network: it lacks {len(lacking)} '
                f'parameters, {lacking[0]} among them'
            )
    model.cfg = cfg
    return model.eval()


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
