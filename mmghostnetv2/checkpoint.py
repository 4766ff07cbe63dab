"""Weights from files: released ones, timm's and those that training saved.

Importing this module teaches mmengine four things: to read ``*.safetensors`` wherever
it takes the path of a checkpoint, to take the averaged weights of timm's checkpoints,
to unpickle nothing but weights from URLs, as torch >= 2.6 does from files, and to read
what its own trainings save nevertheless.
"""

import hashlib
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging import HistoryBuffer, print_log
from mmengine.model.weight_init import PretrainedInit, update_init_info
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import load_from_local, load_state_dict
from torch import Tensor, nn


@CheckpointLoader.register_scheme(prefixes=r'.*\.safetensors$', force=True)
def load_safetensors(filename: str, map_location=None) -> dict[str, Tensor]:
    """Load a local safetensors file, such as timm's ``model.safetensors``.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: safetensors is not installed.
    """
    try:
        from safetensors.torch import load_file
    except ModuleNotFoundError as error:
        raise ImportError(
            f'reading {filename} needs safetensors: pip install safetensors'
        ) from error
    filename = os.path.expanduser(filename)
    if not os.path.isfile(filename):
        raise FileNotFoundError(f'{filename} can not be found.')
    return load_file(filename, str(map_location or 'cpu'))


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_from_file(filename: str, map_location=None):
    """Load a local checkpoint as mmengine does, with timm's EMA weights as its own.

    timm saves a moving average of the weights, which it evaluates and publishes, as
    ``state_dict_ema``, often beside the ``state_dict`` that mmengine would take.

    Raises:
        FileNotFoundError: There is no such file.
    """
    checkpoint = load_from_local(filename, map_location)
    if isinstance(checkpoint, Mapping) and 'state_dict_ema' in checkpoint:
        checkpoint['state_dict'] = checkpoint.pop('state_dict_ema')
    return checkpoint


@CheckpointLoader.register_scheme(prefixes=['http://', 'https://'], force=True)
def load_from_url(filename: str, map_location=None):
    """Load a checkpoint by its URL, weights-only, which mmengine's own loader is not.

    The download is kept where :mod:`torch.hub` keeps its own. Of several processes the
    first downloads and the others wait for it.

    Raises:
        OSError: The URL cannot be reached; an HTTPError names the status.
        RuntimeError: What was downloaded cannot be read.
    """
    if get_rank() == 0:
        _download(filename)
    barrier()
    path = _download(filename)
    try:
        return CheckpointLoader.load_checkpoint(str(path), map_location)
    except Exception as error:
        # a proxy's error page, for example, which would be met again every time
        raise RuntimeError(
            f'{path}, the download of {filename}, cannot be read; if it is damaged, '
            f'remove it to download it again: {_reason(error)}'
        ) from error


def _reason(error: Exception) -> str:
    """Return why a file cannot be read, without torch's advice to unpickle unsafely."""
    found = re.search(r'WeightsUnpickler error:\s*(.*)', str(error))
    if found:
        return f'it is no checkpoint, or unsafe to unpickle: {found[1]}'
    return f'{type(error).__name__}: {error}'


def _download(url: str) -> Path:
    name = Path(urlsplit(url).path).name
    if name.endswith('.safetensors'):  # timm's files are all called model.safetensors
        name = f'{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}'
    path = Path(torch.hub.get_dir(), 'checkpoints', name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=os.isatty(0))
    return path


def read_weights(filename: str, map_location='cpu') -> dict[str, Tensor]:
    """Read the state dict of a checkpoint, under the parameters' own names.

    Takes a plain state dict, one under ``state_dict`` as mmengine and timm save it, or
    timm's ``state_dict_ema``, which is preferred where both are there, as timm does.
    The ``module.`` of a parallel wrapper is removed.

    Args:
        filename (str): File or URL, anything that mmengine's CheckpointLoader takes.
        map_location: As in :func:`torch.load`.

    Raises:
        FileNotFoundError: There is no such file.
        RuntimeError: The file cannot be read, or holds something else than weights.
    """
    try:
        checkpoint = CheckpointLoader.load_checkpoint(filename, map_location)
    except (FileNotFoundError, ImportError):
        raise
    except Exception as error:
        # a damaged file can fail in any way; the reader must learn which file
        raise RuntimeError(
            f'cannot read weights from {filename}: {_reason(error)}'
        ) from error
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


# Left in released files by a FLOPs counter, beside every layer's weights
_COUNTERS = ('total_ops', 'total_params')
# The classifier's layers: released names and those in mmpretrain's StackedLinearClsHead
_HEAD = {
    'conv_head.': 'head.layers.0.fc.',
    'classifier.': 'head.layers.1.fc.',
}


def released_to_mmpretrain(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename released weights to those of ImageClassifier with StackedLinearClsHead.

    The 1x1 convolution ``conv_head``, weight (1280, C, 1, 1), becomes a linear layer,
    weight (1280, C). What FLOPs counters left is dropped.
    """
    renamed = {}
    for key, value in weights.items():
        if key.endswith(_COUNTERS):
            continue
        for released, own in _HEAD.items():
            if key.startswith(released):
                key = own + key.removeprefix(released)
                value = value.flatten(1) if value.ndim == 4 else value
                break
        else:
            key = f'backbone.{key}'
        renamed[key] = value
    return renamed


def mmpretrain_to_released(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo :func:`released_to_mmpretrain`.

    Raises:
        ValueError: A key is neither the backbone's nor that head's.
    """
    names = {own: released for released, own in {'': 'backbone.', **_HEAD}.items()}
    renamed = {}
    for key, value in weights.items():
        own = next(filter(key.startswith, names), None)
        if own is None:
            raise ValueError(
                f'{key} is neither of the backbone nor of a StackedLinearClsHead with '
                'two layers'
            )
        key = names[own] + key.removeprefix(own)
        renamed[key] = value[..., None, None] if key == 'conv_head.weight' else value
    return renamed


class ReleasedInit(PretrainedInit):
    """``init_cfg=dict(type='Pretrained', ...)`` of the backbones.

    Unlike mmengine's, it knows the layouts of :func:`read_weights`, passes over the
    classifier and stages that are not built, ignores a ``prefix`` that the file does
    not use (released files have none), and leaves no parameter untouched.
    """

    def __call__(self, module: nn.Module) -> None:
        """Load the checkpoint into a backbone.

        Raises:
            ValueError: The file lacks a parameter, or has it in another shape.
        """
        print_log(f'load backbone from: {self.checkpoint}', logger='current')
        weights = read_weights(self.checkpoint, self.map_location)
        prefix = f'{self.prefix}.'.replace('..', '.') if self.prefix else ''
        if any(key.startswith(prefix) for key in weights):
            weights = {
                key.removeprefix(prefix): value
                for key, value in weights.items()
                if key.startswith(prefix)
            }
        self._check(module.state_dict(), weights)
        weights = {k: v for k, v in weights.items() if not _is_left_out(k, module)}
        load_state_dict(module, weights, strict=False, logger='current')
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())

    def _check(self, own: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
        common = own.keys() & weights.keys()
        if not common:
            raise ValueError(
                f'nothing in {self.checkpoint} belongs to the backbone: its keys are '
                f"{_some(weights)}, the backbone's are {_some(own)}. If a prefix "
                'stands before them, name it: init_cfg=dict(type="Pretrained", '
                'checkpoint=..., prefix="backbone.")'
            )
        # older files have no such counters
        lacking = [
            key
            for key in own
            if key not in common and not key.endswith('num_batches_tracked')
        ]
        if lacking:
            raise ValueError(
                f'{self.checkpoint} lacks {len(lacking)} of {len(own)} parameters of '
                f'the backbone: {_some(lacking)}. Is it of the same network (GhostNet '
                'or GhostNetV2)?'
            )
        wrong = [
            f'{key} {tuple(weights[key].shape)} instead of {tuple(own[key].shape)}'
            for key in own
            if key in common and weights[key].shape != own[key].shape
        ]
        if wrong:
            raise ValueError(
                f'{len(wrong)} of {len(own)} parameters in {self.checkpoint} have '
                f'another shape: {_some(wrong)}. Is widen_factor that of the file?'
            )


def use_released_init(init_cfg):
    """Replace mmengine's ``Pretrained`` in an ``init_cfg`` by :class:`ReleasedInit`.

    It comes last, as in mmengine, so that nothing overwrites what was loaded.
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


def _is_left_out(key: str, backbone: nn.Module) -> bool:
    """Tell what is the classifier's, of a stage not built, or a FLOPs counter's."""
    stage = re.match(r'blocks\.(\d+)\.', key)
    return (
        key.startswith(tuple(_HEAD))
        or key.endswith(_COUNTERS)
        or (stage is not None and int(stage[1]) >= len(backbone.blocks))
    )


def _some(names) -> str:
    names = list(names)
    return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')


# The methods that mmengine's objects refer to, pickled as getattr(class, name)
_METHODS = {
    HistoryBuffer: ('min', 'max', 'mean', 'current'),
    OneCycleParamScheduler: ('_annealing_cos', '_annealing_linear'),
}


def _pickled_method(obj, name: str):
    """Stand in for ``getattr`` while a checkpoint is unpickled: refuse all others."""
    if isinstance(obj, type) and name in _METHODS.get(obj, ()):
        return getattr(obj, name)
    raise pickle.UnpicklingError(
        f'the checkpoint asks for attribute {name!r} of {obj!r}, which no training of '
        'mmengine saves'
    )


def allow_training_checkpoints() -> None:
    """Let weights-only loading accept what mmengine's trainings save beside weights.

    That is log buffers with their numpy arrays, under the names that numpy 1 and 2 give
    to what rebuilds them, and the one-cycle schedule. Loading stays weights-only.
    """
    multiarray = np._core.multiarray if hasattr(np, '_core') else np.core.multiarray
    allowed = [
        *_METHODS,
        np.ndarray,
        np.dtype,
        *{type(np.dtype(code)) for code in np.typecodes['All']},
        (_pickled_method, 'builtins.getattr'),
    ]
    for function in (multiarray._reconstruct, multiarray.scalar):
        for package in ('numpy._core', 'numpy.core'):
            allowed.append((function, f'{package}.multiarray.{function.__name__}'))
    torch.serialization.add_safe_globals(allowed)


allow_training_checkpoints()
