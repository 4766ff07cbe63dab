"""Comparison of an exported model with torch and with its library's ``predict``."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from PIL import Image
from torch import Tensor, nn

from .networks import Normalize, find_task, pixel_format
from .runtimes import TOLERANCE, Session, flatten, require_equal
from .runtimes.base import largest_error

# Smallest shares of equal pixel labels and of equal boxes. Rounding may change the
# label where two classes score the same, and the suppression of a box whose overlap is
# at the threshold.
MIN_EQUAL_LABELS = 0.9999
MIN_EQUAL_BOXES = 0.99
# Smallest tolerance as a share of an output's largest value. If float32 itself rounds
# by more than that, its rounding error sets the tolerance.
MIN_TOLERANCE = 1e-5


def sample_pixels(size: tuple[int, int], image: str | Path | None = None) -> np.ndarray:
    """Read a picture, or make one of coloured blobs and noise: RGB, (H, W, 3), uint8.

    ``size`` is height and width; the picture in the file ``image`` is stretched to it.

    Raises:
        OSError: The file is missing, or is not a picture that OpenCV reads.
    """
    if image is None:
        rng = np.random.default_rng(0)
        small = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        blobs = np.asarray(Image.fromarray(small).resize(size[::-1]), np.int16)
        noise = rng.integers(-20, 21, (*size, 3), dtype=np.int16)
        return (blobs + noise).clip(0, 255).astype(np.uint8)
    try:
        with Image.open(image) as file:
            file.load()  # raises an error if the file is cut off, unlike OpenCV
    except OSError as error:
        raise OSError(f'{image} is not a readable picture: {error}') from error
    pixels = mmcv.imread(image)  # as in the pipelines of the libraries
    if pixels is None:
        raise OSError(f'{image} cannot be read by OpenCV: save it as 8-bit RGB')
    return np.asarray(Image.fromarray(pixels[..., ::-1]).resize(size[::-1]))


def network_input(model: BaseModel, pixels: np.ndarray, preprocess: bool) -> np.ndarray:
    """Turn RGB pixels (H, W, 3), uint8, into the network's images (1, 3, H, W).

    They are normalised unless the network itself does it (``preprocess``).
    """
    array = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)
    if preprocess:
        return array
    return Normalize(pixel_format(model))(torch.from_numpy(array)).numpy()


@torch.no_grad()
def library_predict(model: BaseModel, pixels: np.ndarray) -> list[np.ndarray]:
    """Predict RGB ``pixels``, (H, W, 3), uint8, by the library's own ``predict``.

    Returns:
        list[np.ndarray]: A classifier's scores (1, C); a segmentor's labels (1, H, W);
        or a detector's boxes with scores (1, K, 5) and labels (1, K) for K boxes.
    """
    task, size = find_task(model), pixels.shape[:2]
    meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
    # mmpretrain takes only samples of its own type, and makes them if it gets none.
    samples = None if task == 'classification' else [BaseDataElement(metainfo=meta)]
    bgr = torch.from_numpy(pixels[..., ::-1].transpose(2, 0, 1).copy())
    (sample,) = model.test_step(dict(inputs=[bgr], data_samples=samples))
    if task == 'classification':
        return [sample.pred_score.numpy()[None]]
    if task == 'segmentation':
        return [sample.pred_sem_seg.data.numpy()]
    found = sample.pred_instances
    dets = torch.cat([found.bboxes, found.scores[:, None]], dim=1)
    return [dets.numpy()[None], found.labels.numpy()[None]]


def require_same(
    network: nn.Module, session: Session, images: Tensor, runtime: str
) -> str:
    """Raise unless a runtime computes what torch computes in double precision.

    ``session`` runs the file on ``images``, (N, 3, H, W), and ``runtime`` is its name
    for messages. The norms of ``network`` must not be folded, so that this check also
    finds a wrong fold. The result is 'agree: ' and what was found to be equal.

    Raises:
        RuntimeError: An output differs by more than 1e-5 of its largest value and by
            more than twice the rounding of torch's float32, or by more than 1e-4; or
            more than one of 10,000 labels differs.
    """
    outputs = session(images.numpy())
    with torch.no_grad():
        expected = flatten(deepcopy(network).double()(images.double()))
        rounded = flatten(network(images))
    if all(array.dtype.kind == 'f' for array in expected):
        rounding = max(map(largest_error, rounded, expected))
        tolerance = min(max(MIN_TOLERANCE, 2 * rounding), TOLERANCE)
        require_equal(outputs, expected, tolerance, runtime)
        return f'agree: outputs within {tolerance:.1e} of their largest value'
    return _require_same_labels(outputs, expected, runtime)


def _require_same_labels(outputs, expected, runtime: str) -> str:
    if [a.shape for a in outputs] != [a.shape for a in expected]:
        raise RuntimeError(f'{runtime} returns labels of other shapes than torch')
    share = min(np.mean(a == b) for a, b in zip(outputs, expected, strict=True))
    if share < MIN_EQUAL_LABELS:
        raise RuntimeError(f'{runtime} returns {1 - share:.2%} other labels than torch')
    return f'agree: {share:.3%} of the labels'


def require_same_boxes(
    outputs: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    side: int,
    runtime: str,
) -> str:
    """Raise unless a runtime finds the boxes that are expected in an image.

    Both are dets (K, 5) and labels (K,), as
    :class:`~mmghostnetv2.deployment.networks.Detector` returns them for each image.
    Boxes of equal labels are matched one to one; errors of corners are shares of
    ``side``, the longer side of the image in pixels. The result says how many agree.

    Raises:
        RuntimeError: More than one of 100 boxes differs, or their order is wrong.
    """
    # Only detectors need SciPy, so it is part of the extra 'det' alone.
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    (dets, labels), (theirs, their_labels) = outputs, expected
    dets, labels = dets[labels >= 0], labels[labels >= 0]
    theirs, their_labels = theirs[their_labels >= 0], their_labels[their_labels >= 0]
    if (np.diff(dets[:, 4]) > 0).any():
        raise RuntimeError(f'{runtime} does not return the best boxes first')
    scale = np.array([*[side] * 4, 1])  # corners in pixels, scores from 0 to 1
    errors = (np.abs(dets[:, None] - theirs) / scale).max(-1)
    same = (errors <= TOLERANCE) & (labels[:, None] == their_labels)
    errors[~same] = 1  # more than the errors of all matched boxes together
    errors = errors[linear_sum_assignment(errors)]
    errors = errors[errors < 1]
    number, missing = len(theirs), len(theirs) - len(errors)
    others = len(dets) - len(errors)
    if max(missing, others) > (1 - MIN_EQUAL_BOXES) * number:
        raise RuntimeError(
            f'{runtime} lacks {missing} of the {number} boxes that predict finds, and '
            f'has {others} others'
        )
    if number == 0:
        return (
            'find no box in this picture, so none was compared: --image names another'
        )
    worst = errors.max() * side
    return f'agree: {number - missing} of {number} boxes within {worst:.1e} pixels'


def require_predictions(
    model: BaseModel,
    session: Session,
    pixels: np.ndarray,
    preprocess: bool,
    runtime: str,
) -> str:
    """Raise unless a runtime predicts what the model's library predicts.

    ``model`` is as it was trained, not folded. ``session`` runs the file, whose output
    is 'predictions' and which normalises if ``preprocess``; ``runtime`` is its name for
    messages. ``pixels`` are a picture, RGB, (H, W, 3), uint8. The result is 'agree: '
    and how close they are, or says that there was nothing to compare.

    Raises:
        RuntimeError: They differ.
    """
    outputs = session(network_input(model, pixels, preprocess))
    expected, task = library_predict(model, pixels), find_task(model)
    if task == 'detection':
        ours, theirs = ([array[0] for array in x] for x in (outputs, expected))
        return require_same_boxes(ours, theirs, max(pixels.shape), runtime)
    if task == 'classification':
        require_equal(outputs, expected, TOLERANCE, runtime)
        return f'agree: scores within {np.abs(outputs[0] - expected[0]).max():.1e}'
    return _require_same_labels(outputs, expected, runtime)
