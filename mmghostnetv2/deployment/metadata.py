"""The description of an exported model, for programs that run it without OpenMMLab.

The description of NAME.onnx is NAME.onnx.json beside it. ``tools/deployment/run.py``
reads it.
"""

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS
from mmengine.runner import CheckpointLoader
from torch import nn

from ..version import __version__
from .networks import Detector, find_task, pixel_format

LIBRARIES = dict(
    classification='mmpretrain', detection='mmdet', segmentation='mmsegmentation'
)
# Steps of a test pipeline that leave the picture as it is.
NEUTRAL = ['LoadImageFromFile', 'LoadAnnotations', 'PackInputs', 'PackDetInputs']
NEUTRAL += ['PackSegInputs']


def _type_name(cfg: dict) -> str:
    """Return the bare name of a type: configs hold names, with scopes, or classes."""
    kind = cfg['type']
    return kind.rpartition('.')[2] if isinstance(kind, str) else kind.__name__


def _test_dataset(cfg: Config) -> Any:
    dataset: Any = cfg.test_dataloader.dataset if cfg.get('test_dataloader') else {}
    while 'dataset' in dataset:  # a wrapper, such as RepeatDataset
        dataset = dataset.dataset
    return dataset


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
    return {
        key: [part if isinstance(part, str) else list(part) for part in meta[key]]
        if isinstance(meta.get(key), (list, tuple))
        else None
        for key in ('classes', 'palette')
    }


def _pair(scale) -> list[int]:
    return [scale, scale] if isinstance(scale, int) else list(scale)


def preparation(cfg: Config, size: Sequence[int], dynamic: bool = False) -> dict:
    """Describe how the test pipeline turns a picture into the network's input.

    Args:
        cfg (Config): Config of a model.
        size (Sequence[int]): Height and width of the network's input.
        dynamic (bool): Whether the network takes other sizes, too.

    Returns:
        dict: 'resize' is 'stretch' (to 'size', [H, W]), 'fit' (inside 'size', or,
        where sizes are free, by 'scale', the limits of the longest and the shortest
        side), 'short_edge' (the short edge to 'edge', then a crop of 'size' from the
        middle) or 'none'; 'backend' and 'interpolation' say how. 'pad_value' is the
        grey level that the pipeline pads with, or None. 'unknown' lists the steps that
        are not described by this.
    """
    found: dict[str, Any] = dict(resize='none', backend='cv2', interpolation='bilinear')
    found |= dict(pad_value=None, pad_to=None if dynamic else list(size), unknown=[])
    edge = None
    for step in _test_dataset(cfg).get('pipeline', []):
        kind = _type_name(step)
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
            found |= dict(resize='stretch', size=list(size))
        elif kind == 'ResizeEdge' and step.get('edge', 'short') == 'short':
            edge = step.scale
        elif kind == 'CenterCrop' and edge is not None:
            # At any size, the crop covers the same part of the picture.
            part = min(size) / min(_pair(step.crop_size))
            found |= dict(resize='short_edge', edge=round(edge * part))
            found['size'] = list(size)
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

    Args:
        model (BaseModel): What :func:`mmghostnetv2.init_model` returned.
        network (nn.Module): What :func:`deployable` returned for the model.
        output (str): The ``output`` that was passed to :func:`deployable`.
        shape (Sequence[int]): Shape of the images, (N, 3, H, W).
        dynamic (bool): Whether the network takes other sizes, too.
        checkpoint (str, optional): File or URL of its weights.

    Returns:
        dict: Values for JSON: the task, the names of the outputs, the input, how to
        prepare a picture and the classes. For detectors it has 'clip', whether to clip
        boxes to the picture, and for the output 'dense' also 'suppression'.
    """
    cfg, preprocessor = model.cfg, model.data_preprocessor
    task = find_task(model)
    pixels = pixel_format(model)
    prepare = preparation(cfg, shape[2:], dynamic)
    names = ('pad_value', 'pad_val')
    value = next(getattr(preprocessor, n) for n in names if hasattr(preprocessor, n))
    # Padding comes after the normalisation, except where the pipeline pads.
    grey = prepare.pop('pad_value')
    colour = [value * s + m for m, s in zip(pixels.mean, pixels.std, strict=True)]
    colour = [float(grey)] * 3 if grey is not None else colour
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
        versions=dict(mmghostnetv2=__version__, torch=torch.__version__),
    )
    meta['versions'][LIBRARIES[task]] = version(LIBRARIES[task])
    last: Any = network[-1] if isinstance(network, nn.Sequential) else network
    if isinstance(last, Detector):
        # The network clips boxes to its input, which includes padding. The libraries
        # clip them to the picture, which includes only the padding by the pipeline.
        meta['clip'] = last.clip and grey is None
    if output == 'dense':
        meta['suppression'] = describe_suppression(last, shape)
    return meta


@torch.no_grad()
def describe_suppression(detector: Detector, shape: Sequence[int]) -> dict:
    """Describe the non-maximum suppression that must follow the 'dense' output.

    Returns:
        dict: 'levels', the number of boxes on each level for images of ``shape``, and
        the thresholds.
    """
    cfg, levels = detector.cfg, detector.decode(torch.zeros(*shape))
    return dict(
        levels=[level.boxes.shape[1] for level in levels],
        score_thr=cfg.get('score_thr', 0),
        conf_thr=cfg.get('conf_thr', -1),
        nms_pre=cfg.get('nms_pre', -1),
        min_bbox_size=cfg.get('min_bbox_size', -1),
        iou_threshold=detector.iou_threshold,
        max_per_img=cfg.max_per_img,
    )


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
