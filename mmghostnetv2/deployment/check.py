"""Comparison of an exported model with the ``predict`` of its library."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn

from .networks import Normalize, deployable, find_task, pixel_format
from .runtimes import TOLERANCE, Session, flatten, require_equal

# rounding decides between classes that are equally likely, and about boxes that overlap
# by just the threshold
PIXELS_EQUAL = 0.9999
BOXES_EQUAL = 0.99


def sample_pixels(size: tuple[int, int], image: str | Path | None = None) -> np.ndarray:
    """Return a picture, or make one of coloured blobs and noise.

    Args:
        size (tuple[int, int]): Height and width; a picture is stretched to it.
        image (str | Path, optional): File of a picture.

    Returns:
        np.ndarray: RGB, (H, W, 3), uint8.

    Raises:
        OSError: The file is missing, or no picture.
    """
    if image is None:
        rng = np.random.default_rng(0)
        small = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        blobs = np.asarray(Image.fromarray(small).resize(size[::-1]), np.int16)
        noise = rng.integers(-20, 21, (*size, 3), dtype=np.int16)
        return (blobs + noise).clip(0, 255).astype(np.uint8)
    with Image.open(image) as picture:
        picture = ImageOps.exif_transpose(picture).convert('RGB')
        return np.asarray(picture.resize(size[::-1]))


def network_input(model: nn.Module, pixels: np.ndarray, preprocess: bool) -> np.ndarray:
    """Make images (1, 3, H, W) of pixels for what :func:`deployable` returns."""
    images = torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32))
    return (images if preprocess else Normalize(pixel_format(model))(images)).numpy()


@torch.no_grad()
def library_predict(model: nn.Module, pixels: np.ndarray) -> list[np.ndarray]:
    """Predict by the library's data preprocessor and ``predict``.

    Args:
        model (nn.Module): What :func:`mmghostnetv2.init_model` returned.
        pixels (np.ndarray): RGB, (H, W, 3), uint8.

    Returns:
        list[np.ndarray]: Of a classifier the scores (1, C); of a segmentor labels
        (1, H, W); of a detector boxes and scores (1, K, 5) and labels (1, K), where K
        is the number of boxes.
    """
    task, size = find_task(model), pixels.shape[:2]
    if task == 'classification':
        from mmpretrain.structures import DataSample
    elif task == 'detection':
        from mmdet.structures import DetDataSample as DataSample
    else:
        from mmseg.structures import SegDataSample as DataSample
    sample = DataSample(
        metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
    )
    bgr = torch.from_numpy(pixels[..., ::-1].transpose(2, 0, 1).copy())
    (sample,) = model.test_step(dict(inputs=[bgr], data_samples=[sample]))
    if task == 'classification':
        return [sample.pred_score.numpy()[None]]
    if task == 'segmentation':
        return [sample.pred_sem_seg.data.numpy()]
    found = sample.pred_instances
    dets = torch.cat([found.bboxes, found.scores[:, None]], dim=1)
    return [dets.numpy()[None], found.labels.numpy()[None]]


def _require_same_boxes(outputs, expected, side: int, runtime: str) -> str:
    """Match boxes of equal labels one to one; corners are compared by the side."""
    dets, labels = (output[0] for output in outputs)
    dets, labels = dets[labels >= 0], labels[labels >= 0]
    if (np.diff(dets[:, 4]) > 0).any():
        raise RuntimeError(f'{runtime} does not return the best boxes first')
    scale = np.array([*[side] * 4, 1])  # scores are of 1
    free, worst, missing = np.ones(len(dets), bool), 0.0, 0
    for det, label in zip(*(output[0] for output in expected), strict=True):
        (same,) = (free & (labels == label)).nonzero()
        errors = (np.abs(dets[same] - det) / scale).max(1, initial=0)
        if len(same) and errors.min() <= TOLERANCE:
            free[same[errors.argmin()]] = False
            worst = max(worst, errors.min())
        else:
            missing += 1
    number = expected[1].size
    if max(missing, free.sum()) > (1 - BOXES_EQUAL) * number:
        raise RuntimeError(
            f'{runtime} lacks {missing} of the {number} boxes that predict finds, and '
            f'has {free.sum()} others'
        )
    return f'{number - missing} of {number} boxes within {worst * side:.1e} pixels'


def check(
    model: nn.Module,
    session: Session,
    pixels: np.ndarray,
    output: str,
    preprocess: bool,
    runtime: str,
) -> str:
    """Compare an exported model in its runtime with torch.

    Args:
        model (nn.Module): The model as it was trained, not folded.
        session (Session): Runs the exported one on images (1, 3, H, W).
        pixels (np.ndarray): Picture, RGB, (H, W, 3), uint8.
        output (str): What the exported one returns, see :func:`deployable`.
        preprocess (bool): Whether it normalises.
        runtime (str): Name of the runtime, for messages.

    Returns:
        str: What was found to be equal.

    Raises:
        RuntimeError: They differ.
    """
    images = network_input(model, pixels, preprocess)
    outputs = session(images)
    if output != 'predictions':
        network = deployable(model, output, preprocess)
        with torch.no_grad():
            expected = flatten(network(torch.from_numpy(images)))
        require_equal(outputs, expected, TOLERANCE, runtime)
        return f'{len(outputs)} outputs within {TOLERANCE} of their largest value'
    expected, task = library_predict(model, pixels), find_task(model)
    if task == 'detection':
        return _require_same_boxes(outputs, expected, max(pixels.shape), runtime)
    if task == 'classification':
        require_equal(outputs, expected, TOLERANCE, runtime)
        return f'scores within {np.abs(outputs[0] - expected[0]).max():.1e}'
    share = (outputs[0] == expected[0]).mean()
    if not share >= PIXELS_EQUAL:
        raise RuntimeError(
            f"{runtime} labels {1 - share:.2%} of the pixels otherwise than torch's "
            'predict'
        )
    return f'{share:.3%} of the pixels have the same label'
