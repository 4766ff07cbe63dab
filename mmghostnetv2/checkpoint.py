"""Reading weights: released files, timm's files and those that a training saved.

Importing this module changes six things in mmengine:

- A checkpoint may be ``ghostnet://NAME``, for example ``ghostnet://ghostnetv2-100``:
  the released weights of a model in ``configs/metafile.yml``.
- It may be a ``*.safetensors`` file.
- From timm's checkpoints the averaged weights (``state_dict_ema``) are read.
- Files are loaded weights-only, whatever mmengine or a fork of it would do, and those
  from URLs are cached by their URL.
- Weights-only loading accepts what mmengine's own trainings save beside weights, and
  nothing else, see :mod:`mmghostnetv2.safe_loading`.
- A file that cannot be read is named in the error.
"""

import hashlib
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mmengine
import torch
from mmengine.dist import all_gather_object, get_rank
from mmengine.logging import print_log
from mmengine.model.weight_init import PretrainedInit, update_init_info
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from .paths import data_root
from .safe_loading import require_plain_config, training_objects


@CheckpointLoader.register_scheme(prefixes=r'.*\.safetensors$', force=True)
def load_from_safetensors(filename: str, map_location=None) -> dict[str, Tensor]:
    """Load a local safetensors file, such as timm's ``model.safetensors``.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: safetensors is not installed.
        RuntimeError: The file cannot be read.
    """
    try:
        from safetensors.torch import load_file
    except ModuleNotFoundError as error:
        raise ImportError(
            f'reading {filename} needs safetensors: pip install safetensors'
        ) from error
    filename = _existing(filename)
    try:
        weights = load_file(filename, str(map_location or 'cpu'))
    except Exception as error:
        raise _unreadable(filename, error) from error
    _check_weights(weights, filename)
    return weights


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_from_file(filename: str, map_location=None):
    """Load a local checkpoint, with timm's averaged weights under ``state_dict``.

    timm evaluates and publishes a moving average of the weights. Its checkpoints hold
    the average as ``state_dict_ema``, often beside the raw weights in ``state_dict``,
    which mmengine would load.

    Raises:
        FileNotFoundError: There is no such file.
        RuntimeError: The file cannot be read, is unsafe to read, or holds weights that
            are none.
    """
    filename = _existing(filename)
    # Forks of mmengine load with `weights_only=False`. Their contexts, like torch's,
    # remove from torch's list what they allowed, even if it stood there before.
    known = torch.serialization.get_safe_globals()
    lacking = [x for x in training_objects() if x not in known]
    try:
        with torch.serialization.safe_globals(lacking):
            checkpoint = torch.load(filename, map_location, weights_only=True)
    except Exception as error:
        # A damaged file can fail in any way.
        raise _unreadable(filename, error) from error
    if isinstance(checkpoint, MutableMapping):
        if 'state_dict_ema' in checkpoint:
            checkpoint['state_dict'] = checkpoint.pop('state_dict_ema')
        for text in _configs(checkpoint):
            try:
                require_plain_config(text)
            except ValueError as error:
                raise RuntimeError(f'{filename} is unsafe to load: {error}') from error
        _check_weights(checkpoint.get('state_dict', checkpoint), filename)
    return checkpoint


def _existing(filename: str) -> str:
    """Return the path of a file; raise FileNotFoundError if there is none."""
    path = os.path.expanduser(filename)
    if not os.path.isfile(path):
        raise FileNotFoundError(f'{filename} can not be found.')
    return path


def _unreadable(filename: str, error: Exception) -> RuntimeError:
    """Say why a file cannot be read, without torch's advice to disable safety."""
    with open(filename, 'rb') as file:
        start = file.read(512).lstrip()
    found = re.search(r'WeightsUnpickler error:\s*(.*)', str(error))
    if not start:
        reason = 'it is empty'
    elif start.startswith((b'<', b'version https://git-lfs')):
        reason = 'it is a web page or a link, not the file itself; download it again'
    elif found:
        reason = f'it is not a checkpoint, or it is unsafe to unpickle: {found[1]}'
    else:
        text = ' '.join(f'{type(error).__name__}: {error}'.split())
        reason = f'it is damaged or cut off: {text[:200]}'
    return RuntimeError(f'cannot read weights from {filename}: {reason}')


def _configs(checkpoint: Mapping) -> Iterator[Any]:
    """Yield the configs of a checkpoint that mmengine would run."""
    meta, hub = checkpoint.get('meta'), checkpoint.get('message_hub')
    info = hub.get('runtime_info') if isinstance(hub, Mapping) else None
    for holder, name in (meta, 'cfg'), (meta, 'config'), (info, 'cfg'):
        if isinstance(holder, Mapping) and name in holder:
            yield holder[name]


def _check_weights(weights: Any, filename: str) -> None:
    """Refuse weights that no network has; warn of those that are not finite.

    Raises:
        RuntimeError: A name is not text, or a value is complex.
    """
    if not isinstance(weights, Mapping):
        return
    tensors = {k: v for k, v in weights.items() if isinstance(v, Tensor)}
    wrong = [
        repr(k) for k, v in tensors.items() if not isinstance(k, str) or v.is_complex()
    ]
    if wrong:
        raise RuntimeError(
            f'{filename} holds no weights of a network: they have names that are not '
            f'text, or complex values{_some(wrong)}'
        )
    bad = [
        key
        for key, value in tensors.items()
        if value.is_floating_point() and not value.double().isfinite().all()
    ]
    if bad:
        print_log(
            f'{filename} has NaN or infinite values in {len(bad)} of its tensors'
            f'{_some(bad)}; what wrote it had diverged',
            logger='current',
            level=logging.WARNING,
        )


@CheckpointLoader.register_scheme(prefixes='ghostnet://', force=True)
def load_from_ghostnet(filename: str, map_location=None):
    """Load the released weights of a model by its name.

    Args:
        filename (str): ``ghostnet://`` and a name of ``configs/metafile.yml``, where
            ``_3rdparty_in1k`` may be left out: ``ghostnet://ghostnetv2-100``.
        map_location: As in :func:`torch.load`.

    Raises:
        ValueError: There is no such model; the error lists those that exist.
        OSError: The weights cannot be downloaded.
        RuntimeError: The downloaded file cannot be read.
    """
    models = mmengine.load(data_root() / 'configs' / 'metafile.yml')['Models']
    urls = {model['Name']: model['Weights'] for model in models}
    suffix = '_3rdparty_in1k'
    name = filename.removeprefix('ghostnet://')
    url = urls.get(name) or urls.get(name + suffix)
    if url is None:
        names = [known.removesuffix(suffix) for known in urls if suffix in known]
        raise ValueError(
            f'there are no released weights named {name!r}; there are: '
            f'{", ".join(names)}'
        )
    return load_from_url(url, map_location)


@CheckpointLoader.register_scheme(prefixes=['http://', 'https://'], force=True)
def load_from_url(filename: str, map_location=None):
    """Load a checkpoint from a URL, weights-only, which mmengine's own loader is not.

    The file is kept in torch.hub's folder ``checkpoints``. Its name there begins with a
    hash of the URL, because files of different URLs often have the same name. A file
    without this hash, which another program may have put there, is not used, because it
    may come from a different URL.

    In a distributed run every process must call this function. Rank 0 downloads first,
    and the others find its file unless they are on another machine.

    Raises:
        OSError: The download failed in one of the processes; all of them raise.
        RuntimeError: The downloaded file cannot be read.
    """
    path = _download(filename)
    try:
        return CheckpointLoader.load_checkpoint(str(path), map_location)
    except RuntimeError as error:
        # The file may be a proxy's error page, and it stays in the cache.
        raise RuntimeError(
            f'cannot read weights from {filename}; if its download is damaged, remove '
            f'it to download it again: {error}'
        ) from error


def _download(url: str) -> Path:
    name = Path(urlsplit(url).path).name
    digest = hashlib.sha256(url.encode()).hexdigest()[:8]
    path = Path(torch.hub.get_dir(), 'checkpoints', f'{digest}-{name}')
    for is_turn in (get_rank() == 0, get_rank() != 0):
        error = None
        if is_turn and not path.exists():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(
                    url, str(path), progress=sys.stderr.isatty()
                )
            except Exception as caught:
                error = caught
        # If only one process raised, the others would wait for it forever.
        failures = [text for text in all_gather_object(error and repr(error)) if text]
        if failures:
            raise OSError(
                f'cannot download {url}: {failures[0]}. Without a network, save the '
                f'file by hand as {path}, or anywhere and name it: --cfg-options '
                'model.backbone.init_cfg.checkpoint=FILE'
            ) from error
    return path


def read_weights(filename: str, map_location='cpu') -> dict[str, Tensor]:
    """Read the state dict of a checkpoint, with the parameters' own names.

    The file may hold a state dict itself, one under ``state_dict`` as mmengine and timm
    save it, or timm's ``state_dict_ema``, which is preferred if there are both. The
    ``module.`` of a parallel wrapper is removed from the names.

    Args:
        filename (str): File, URL, ``ghostnet://NAME`` or anything else that mmengine's
            CheckpointLoader takes.
        map_location: As in :func:`torch.load`.

    Raises:
        FileNotFoundError: There is no such file.
        RuntimeError: The file cannot be read, or does not hold weights.
    """
    try:
        checkpoint = CheckpointLoader.load_checkpoint(filename, map_location)
    except (FileNotFoundError, ImportError, RuntimeError):
        raise
    except Exception as error:
        raise RuntimeError(f'cannot read weights from {filename}: {error}') from error
    weights = checkpoint
    if isinstance(checkpoint, Mapping):
        weights = checkpoint.get('state_dict', checkpoint)
    if not isinstance(weights, Mapping) or not all(
        isinstance(v, Tensor) for v in weights.values()
    ):
        raise RuntimeError(
            f'{filename} holds no state dict, neither by itself nor under '
            '"state_dict" or "state_dict_ema"'
        )
    return {key.removeprefix('module.'): value for key, value in weights.items()}


def require_training(checkpoint: Any, filename: object) -> None:
    """Check that a training can be resumed from a checkpoint.

    Raises:
        RuntimeError: It holds no epoch and iteration, as files of plain weights.
    """
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    lacking = [key for key in ('epoch', 'iter') if key not in (meta or {})]
    if lacking:
        raise RuntimeError(
            f'{filename} cannot be resumed: it holds no {" and ".join(lacking)} of a '
            'training. To start a new training from its weights, do not resume but set '
            f'load_from: --cfg-options load_from={filename}'
        )


# A FLOPs counter left these entries in released files, beside every layer's weights.
_COUNTERS = ('total_ops', 'total_params')


def load_weights(module: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load a state dict that must hold all parameters and nothing else.

    There are two exceptions: ``num_batches_tracked`` of batch norms, which older files
    lack, may be missing, and entries of FLOPs counters are ignored. Errors name the
    file ``source``.

    Raises:
        ValueError: A parameter is missing, left over or of a different shape. The
            network may then be loaded in part.
    """
    try:
        with partial_loading():
            keys = module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        # torch's message has a line for each wrong shape, after the first line.
        first = str(error).splitlines()[:2][-1].strip()
        raise ValueError(
            f'{source} belongs to a different network or width: {first}'
        ) from error
    missing = [k for k in keys.missing_keys if not k.endswith('num_batches_tracked')]
    left_over = [k for k in keys.unexpected_keys if not k.endswith(_COUNTERS)]
    if missing or left_over:
        raise ValueError(
            f'{source} belongs to a different network: it lacks {len(missing)} '
            f'parameters{_some(missing)} and has {len(left_over)} others'
            f'{_some(left_over)}'
        )


def _some(names: Iterable[str]) -> str:
    names = list(names)
    if not names:
        return ''
    return f' ({", ".join(names[:3])}{", ..." if len(names) > 3 else ""})'


_is_partial = ContextVar('_is_partial', default=False)


@contextmanager
def partial_loading() -> Iterator[None]:
    """Let backbones load weights that do not fit them, and log what is left out.

    Without it a backbone refuses them, because mmengine's ``load_from``, ``--resume``,
    ``mim test`` and inferencers only log what a file lacks and go on with random
    weights. Example:
    ``with partial_loading(): model.load_state_dict(weights, strict=False)``.
    """
    token = _is_partial.set(True)
    try:
        yield
    finally:
        _is_partial.reset(token)


def refuse_other_networks(
    backbone: nn.Module, weights: dict[str, Tensor], prefix: str, *rest: Any
) -> None:
    """Refuse weights of another network, as a pre-hook of a backbone's load_state_dict.

    Raises:
        RuntimeError: A parameter is missing, left over or of a different shape.
    """
    own = {prefix + key: value.shape for key, value in backbone.state_dict().items()}
    given = {key: value.shape for key, value in weights.items() if key in own}
    missing = [k for k in own if k not in given and 'num_batches_tracked' not in k]
    left_over = [
        key
        for key in weights
        if key.startswith(prefix) and key not in own
        if not key.endswith(_COUNTERS)
        and not _is_left_out(key.removeprefix(prefix), backbone)
    ]
    shapes = [
        f'{key} is {tuple(shape)} and not {tuple(own[key])}'
        for key, shape in given.items()
        if shape != own[key]
    ]
    if not (missing or left_over or shapes):
        return
    found = (
        f'of this {type(backbone).__name__} {len(missing)} parameters are '
        f'missing{_some(missing)}, {len(left_over)} others are left over'
        f'{_some(left_over)} and {len(shapes)} have a different shape{_some(shapes)}'
    )
    if not _is_partial.get():
        raise RuntimeError(
            f'these are weights of a different network: {found}. To load what fits: '
            'mmghostnetv2.checkpoint.partial_loading()'
        )
    print_log(found, logger='current', level=logging.WARNING)


def refuse_other_heads(weights: dict[str, Tensor], prefix: str) -> None:
    """Refuse a detector's or segmentor's weights, as a pre-hook of a classifier.

    Raises:
        RuntimeError: There are weights of another kind of head, and none of a
            classifier's.
    """
    kinds = {key.removeprefix(prefix).partition('.')[0] for key in weights}
    others = sorted(k for k in kinds if k.endswith('_head') and k != 'conv_head')
    if others and 'head' not in kinds and not _is_partial.get():
        raise RuntimeError(
            'these weights belong to a detector or segmentor, with '
            f'{", ".join(others)}, and not to a classifier. To load the backbone: '
            'init_cfg=dict(type="Pretrained", checkpoint=..., prefix="backbone.")'
        )


# Prefixes of the classifier's layers: in released files, and in ImageClassifier with
# mmpretrain's StackedLinearClsHead
_HEAD = {
    'conv_head.': 'head.layers.0.fc.',
    'classifier.': 'head.layers.1.fc.',
}


def authors_name(key: str) -> str:
    """Return the authors' name of a parameter; timm calls the norms of branches bn1."""
    return re.sub(r'(_rpr_(conv\.\d+|scale)\.)bn1\.', r'\1bn.', key)


def released_to_mmpretrain(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename released weights to those of ImageClassifier with StackedLinearClsHead.

    The 1x1 convolution ``conv_head``, weight (1280, C, 1, 1), becomes a linear layer,
    weight (1280, C). Entries of FLOPs counters are dropped.
    """
    names = {**_HEAD, '': 'backbone.'}
    renamed = {}
    for key, value in weights.items():
        if key.endswith(_COUNTERS):
            continue
        released = next(filter(key.startswith, names))
        own = names[released] + authors_name(key.removeprefix(released))
        renamed[own] = value.flatten(1) if key == 'conv_head.weight' else value
    return renamed


def mmpretrain_to_released(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo :func:`released_to_mmpretrain`.

    Raises:
        ValueError: A key belongs neither to the backbone nor to that head.
    """
    names = {own: released for released, own in {'': 'backbone.', **_HEAD}.items()}
    renamed = {}
    for key, value in weights.items():
        own = next(filter(key.startswith, names), None)
        if own is None:
            raise ValueError(
                f'{key} belongs neither to the backbone nor to a StackedLinearClsHead '
                'with two layers'
            )
        key = names[own] + key.removeprefix(own)
        renamed[key] = value[..., None, None] if key == 'conv_head.weight' else value
    return renamed


class ReleasedInit(PretrainedInit):
    """``init_cfg=dict(type='Pretrained', ...)`` of the backbones.

    Unlike mmengine's class, it reads the layouts of :func:`read_weights`, ignores a
    ``prefix`` that the file does not use (released files have none), and raises if the
    file does not fit. It skips the classifier and stages that are not built.
    """

    def __call__(self, module: nn.Module) -> None:
        """Load the checkpoint into a backbone.

        Raises:
            ValueError: A parameter is missing, left over or of a different shape.
        """
        print_log(f'load backbone from: {self.checkpoint}', logger='current')
        weights = read_weights(self.checkpoint, self.map_location)
        # As in mmengine, the prefix may end in a dot.
        prefix = f'{self.prefix}.'.replace('..', '.') if self.prefix else ''
        prefixed = [key for key in weights if key.startswith(prefix)]
        if prefixed:
            weights = {key.removeprefix(prefix): weights[key] for key in prefixed}
        own = module.state_dict()
        if not own.keys() & weights.keys():
            raise ValueError(
                f'nothing in {self.checkpoint} belongs to the backbone: it has'
                f'{_some(weights)}, the backbone has{_some(own)}. If the names in the '
                'file have a prefix, give it: init_cfg=dict(type="Pretrained", '
                'checkpoint=..., prefix="backbone.")'
            )
        weights = {k: v for k, v in weights.items() if not _is_left_out(k, module)}
        load_weights(module, weights, self.checkpoint)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())


def use_released_init(init_cfg):
    """Replace mmengine's ``Pretrained`` in an ``init_cfg`` by :class:`ReleasedInit`.

    It is moved to the end, as in mmengine, so that nothing overwrites loaded weights.
    """
    if init_cfg is None:
        return None
    others, released = [], []
    for cfg in [init_cfg] if isinstance(init_cfg, dict) else init_cfg:
        if cfg['type'] in ('Pretrained', PretrainedInit, ReleasedInit):
            released.append({**cfg, 'type': ReleasedInit})
        else:
            others.append(cfg)
    return others + released


def _is_left_out(key: str, backbone: Any) -> bool:
    """Return whether an entry belongs to the classifier or to a stage not built."""
    stage = re.match(r'blocks\.(\d+)\.', key)
    return key.startswith(tuple(_HEAD)) or (
        stage is not None and int(stage[1]) >= len(backbone.blocks)
    )


# For code that calls torch.load itself
torch.serialization.add_safe_globals(training_objects())
