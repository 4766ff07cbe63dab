"""The description of an exported model, for programs that run it without OpenMMLab.

The description of NAME.onnx is NAME.onnx.json beside it. ``tools/deployment/run.py``
reads it.
"""

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS
from mmengine.runner import CheckpointLoader
from torch import nn

from ..data_checks import inner_datasets, type_name
from ..version import __version__
from .networks import Detector, find_task, pixel_format

LIBRARIES = dict(classification='mmpretrain', detection='mmdet', segmentation='mmseg')
# Steps of a test pipeline that leave the picture as it is.
NEUTRAL = ['LoadImageFromFile', 'LoadAnnotations', 'PackInputs', 'PackDetInputs']
NEUTRAL += ['PackSegInputs']


def _test_dataset(cfg: Config) -> Any:
    """Return the config of the test dataset, the first one of several.

    Raises:
        ValueError: They prepare pictures in different ways.
    """
    if not cfg.get('test_dataloader'):
        return {}
    first, *others = inner_datasets(cfg.test_dataloader.dataset)
    if any(other.get('pipeline') != first.get('pipeline') for other in others):
        raise ValueError(
            'the datasets in test_dataloader have different pipelines: choose one by '
            '--cfg-options test_dataloader.dataset=...'
        )
    return first


def dataset_meta(cfg: Config, checkpoint: str | None = None) -> dict:
    """Look up 'classes' and 'palette', each a list or None.

    They come from the checkpoint, or else from the test dataset of the config.
    """
    meta: dict[str, Any] = {}
    if checkpoint is not None:
        saved = CheckpointLoader.load_checkpoint(checkpoint, 'cpu')
        meta = (saved.get('meta') or {}).get('dataset_meta') or {}
    if not meta.get('classes') and cfg.get('test_dataloader'):
        dataset = _test_dataset(cfg)
        known = dataset.type
        if isinstance(known, str):
            scope = cfg.get('default_scope')
            with DATASETS.switch_scope_and_registry(scope) as registry:
                known = registry.get(known)
        meta = getattr(known, 'METAINFO', {}) | dict(dataset.get('metainfo') or {})
    lists: dict[str, list | None] = dict(classes=None, palette=None)
    for key in lists:
        if isinstance(meta.get(key), (list, tuple)):
            lists[key] = [x if isinstance(x, str) else list(x) for x in meta[key]]
    return lists


def _pair(scale) -> list[int]:
    return [scale, scale] if isinstance(scale, int) else list(scale)


def preparation(cfg: Config, size: Sequence[int], dynamic: bool = False) -> dict:
    """Describe how the test pipeline turns a picture into the network's input.

    ``size`` is height and width of the network's input; if ``dynamic``, it takes other
    sizes, too.

    Returns:
        dict: 'resize' is 'stretch' (to 'size', [H, W]), 'fit' (inside 'pad_to', or,
        where sizes are free, by 'scale', the limits of the longest and the shortest
        side), 'short_edge' (the short edge to 'edge', then a crop of 'size' from the
        middle) or 'none'; 'backend' and 'interpolation' say how. 'pad_to' is [H, W] or
        None, and 'pad_value' the grey level that the pipeline pads with, or None.
        'unknown' lists the steps that are not described by this.
    """
    height_width = list(size)
    found: dict[str, Any] = dict(resize='none', backend='cv2', interpolation='bilinear')
    found |= dict(pad_value=None, pad_to=None if dynamic else height_width, unknown=[])
    edge = None
    for step in _test_dataset(cfg).get('pipeline', []):
        kind = type_name(step)
        if kind in ('Resize', 'ResizeEdge'):
            for key in ('backend', 'interpolation'):
                found[key] = step.get(key, found[key])
        if kind == 'Resize' and step.get('scale') is None:
            found['unknown'].append(kind)  # it scales by a factor
        elif kind == 'Resize' and step.get('keep_ratio'):
            found['resize'] = 'fit'
            if dynamic:
                found['scale'] = sorted(_pair(step.scale), reverse=True)
        elif kind == 'Resize':
            found |= dict(resize='stretch', size=height_width)
        elif kind == 'ResizeEdge' and step.get('edge', 'short') == 'short':
            edge = step.scale
        elif kind == 'CenterCrop' and edge is not None:
            # At any size, the crop covers the same part of the picture.
            scaled = round(edge * min(size) / min(_pair(step.crop_size)))
            found |= dict(resize='short_edge', edge=scaled, size=height_width)
        elif kind == 'Pad' and 'size' in step:
            value = step.get('pad_val', 0)
            value = value.get('img', 0) if isinstance(value, dict) else value
            found['pad_value'] = value if isinstance(value, (int, float)) else value[0]
            if dynamic:
                found['pad_to'] = _pair(step.size)[::-1]
        elif kind not in NEUTRAL:
            found['unknown'].append(kind)
    if edge is not None and found['resize'] != 'short_edge':
        found['unknown'].append('ResizeEdge')  # without a crop, sizes vary
    return found


def describe(
    model: BaseModel,
    network: Any,
    output: str,
    shape: Sequence[int],
    dynamic: bool = False,
    checkpoint: str | None = None,
) -> dict:
    """Describe an exported network.

    ``network`` is what :func:`deployable` returned for ``model`` and ``output``. It
    takes images of ``shape``, (N, 3, H, W), and if ``dynamic`` of other sizes, too.
    ``checkpoint`` is the file or URL of its weights.

    Returns:
        dict: Values for JSON: the task, the names of the outputs, the input, how to
        prepare a picture and the classes. For detectors it has 'clip', whether to clip
        boxes to the picture, and for the output 'dense' also 'suppression', the number
        of boxes on each level for images of ``shape`` and the thresholds of the NMS.
    """
    cfg, preprocessor = model.cfg, model.data_preprocessor
    task, pixels = find_task(model), pixel_format(model)
    library = LIBRARIES[task]
    prepare = preparation(cfg, shape[2:], dynamic)
    value = getattr(preprocessor, 'pad_value', getattr(preprocessor, 'pad_val', 0))
    # Padding comes after the normalisation, except where the pipeline pads.
    grey = prepare.pop('pad_value')
    colour = [value * s + m for m, s in zip(pixels.mean, pixels.std, strict=True)]
    colour = colour if grey is None else [float(grey)] * 3
    prepare['pad_colour'] = colour if pixels.rgb else colour[::-1]
    prepare['divisor'] = getattr(preprocessor, 'pad_size_divisor', 1) or 1
    meta = dict(
        task=task,
        output=output,
        outputs=list(network.output_names),
        config=cfg.filename and Path(cfg.filename).stem,
        checkpoint=checkpoint and Path(checkpoint).name,
        input=dict(
            name='images',
            shape=list(shape),
            dynamic=dynamic,
            preprocess=isinstance(network, nn.Sequential),
            **pixels._asdict(),
        ),
        prepare=prepare,
        **dataset_meta(cfg, checkpoint),
        versions={
            'mmghostnetv2': __version__,
            'torch': torch.__version__,
            library: import_module(library).__version__,
        },
    )
    last: Any = network[-1] if isinstance(network, nn.Sequential) else network
    if isinstance(last, Detector):
        # The network clips boxes to its input, which includes padding. The libraries
        # clip them to the picture, which includes only the padding by the pipeline.
        meta['clip'] = last.clip and grey is None
    if output == 'dense':
        with torch.no_grad():
            levels = [level.boxes.shape[1] for level in last.decode(torch.zeros(shape))]
        meta['suppression'] = dict(levels=levels, **last.settings)
    return meta


def metadata_path(model_file: Path) -> Path:
    """Return the path of an exported file's description, NAME.onnx.json for one."""
    return model_file.with_name(f'{model_file.name}.json')


def save_metadata(meta: dict, model_file: Path) -> Path:
    """Write the description of an exported file beside it and return its path."""
    path = metadata_path(model_file)
    path.write_text(json.dumps(meta, indent=1) + '\n')
    return path


def load_metadata(model_file: Path) -> dict:
    """Read the description of an exported file.

    Raises:
        FileNotFoundError: The file or its description is missing.
        ValueError: The description is not JSON.
    """
    path = metadata_path(model_file)
    for file in (model_file, path):
        if not file.is_file():
            raise FileNotFoundError(f'no such file: {file}; export.py writes both')
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f'{path} is not a description of a model: {error}') from error
