import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from torch import nn

from mmghostnetv2 import config_path, init_model
from mmghostnetv2.analysis import randomize_norms
from mmghostnetv2.deployment.networks import Normalize, deployable, pixel_format
from mmghostnetv2.deployment.runtimes import check_runtime
from mmghostnetv2.models import GhostNetV2
from mmghostnetv2.registry import register_model

from ..conftest import ROOT
from ..test_tools.conftest import load_tool

# Two computations in float32 may differ in pixels and in scores by three times what
# torch's differs from float64, see rounding(), and by no more than this. Norms with the
# statistics of flat, drawn pictures amplify rounding.
PIXELS = 1e-3 if 'COCO_MINI' in os.environ else 5e-3
SCORES = 2e-5


def read_pictures(folder: Path, size: tuple[int, int], number: int = 8) -> np.ndarray:
    """Read pictures of COCO's layout, RGB, (N, H, W, 3), as (H, W) or stretched."""
    paths = sorted((folder / 'val2017').iterdir())[:number]
    images = [Image.open(path).convert('RGB').resize(size[::-1]) for path in paths]
    return np.stack([np.asarray(image) for image in images])


def to_images(model: nn.Module, pixels: np.ndarray, preprocess=False) -> torch.Tensor:
    """Make the network's input of pixels (N, H, W, 3)."""
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    return images if preprocess else Normalize(pixel_format(model))(images)


class _Looking(nn.Module):
    """Computes what a model does, on given pictures instead of the noise asked for."""

    def __init__(self, network, images):
        super().__init__()
        self.network, self.images = network, images

    def forward(self, x):
        return self.network(self.images)


def make_model(
    config: Config | str, pixels: np.ndarray, spread=1.5, **cfg_options
) -> nn.Module:
    """Build a model without training whose predictions vary as those of a trained one.

    Its norms have random weights and the statistics of the pictures (N, H, W, 3), and
    what its head returns is spread out, so that scores differ by more than rounding.
    """
    torch.manual_seed(0)
    if isinstance(config, str):
        config = Config.fromfile(config_path(config))
    model = init_model(config, cfg_options=cfg_options)
    head = getattr(model, 'bbox_head', None)
    if head is not None:
        output = 'dense'
    else:
        head = getattr(model, 'decode_head', None) or model.head
        output, spread = 'predictions', 4
    with torch.no_grad():
        for layer in head.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None:
                layer.weight.mul_(spread)
        # YOLOv3's boxes are of about the size of its anchors, of up to 373 pixels, as
        # after a training: rounding grows with it
        for layer in getattr(head, 'convs_pred', ()):
            layer.weight.unflatten(0, (3, -1))[:, 2:4].mul_(0.2)
    network = deployable(model, output)
    randomize_norms(_Looking(network, to_images(model, pixels)))
    return model


@torch.no_grad()
def rounding(model: nn.Module, pixels: np.ndarray) -> np.ndarray:
    """Measure how far a detector's float32 is from float64: in pixels, and of scores.

    It is the largest difference among all boxes before suppression of the pictures
    (N, H, W, 3).
    """
    found, images = [], to_images(model, pixels)
    for dtype in (torch.float64, torch.float32):
        network = deployable(copy.deepcopy(model), 'dense').to(dtype)
        boxes, scores, *factors = (x.double() for x in network(images.to(dtype)))
        found.append((boxes, scores * factors[0][..., None] if factors else scores))
    return np.array([float((a - b).abs().max()) for a, b in zip(*found, strict=True)])


def assert_same_detections(actual, expected, rounded, factor=3, scale=1):
    """Compare pairs of boxes with scores (K, 5), best first, and labels (K,).

    The tolerance is ``factor`` times what :func:`rounding` returned, but at most PIXELS
    and SCORES; boxes are ``scale`` times as large as those that it was measured on.
    Only among scores that differ by rounding the order may be another one.
    """
    tolerance = np.minimum(factor * rounded, [PIXELS, SCORES])
    pixels, score = tolerance * [scale, 1]
    (ours, labels), (theirs, their_labels) = actual, expected
    assert len(ours) == len(theirs) == len(labels)
    scores = ours[:, 4]
    assert (np.diff(scores) <= 0).all()
    assert np.abs(scores - theirs[:, 4]).max(initial=0) <= score
    errors = np.abs(ours[:, None, :4] - theirs[None, :, :4]).max(-1)
    far = np.abs(scores[:, None] - theirs[None, :, 4]) > score
    errors[far | (labels[:, None] != their_labels[None])] = np.inf
    if not len(theirs):
        return
    assert (errors.min(0) <= pixels).all()
    assert len(set(errors.argmin(0))) == len(theirs)


@pytest.fixture(scope='session')
def pictures(coco_mini):
    """Read pictures of a size: ``pictures((H, W))`` is (8, H, W, 3)."""
    return lambda size, number=8: read_pictures(coco_mini, size, number)


def load(name):
    """Import a tool of tools/deployment."""
    return load_tool(ROOT / 'tools' / 'deployment' / f'{name}.py')


def needs(runtime: str) -> None:
    """Skip the test where a runtime is not installed."""
    try:
        check_runtime(runtime)
    except ImportError as error:
        pytest.skip(str(error))


@register_model
class ShortGhostNetV2(GhostNetV2):
    """Has one block in each stage: the time of a conversion grows with the blocks."""

    arch_settings = tuple(rows[-1:] for rows in GhostNetV2.arch_settings)


# Small models; the pictures are resized to squares of 128 pixels, or to fit in them.
SMALL = 'model = dict(backbone=dict(type="ShortGhostNetV2", widen_factor=0.3), {})'
CONFIGS = {
    'detector': f"""
_base_ = '{ROOT}/configs/digits/yolov3_ghostnetv2_320_digits.py'
{SMALL.format('neck=dict(in_channels=[48, 32, 12])')}
""",
    'segmentor': f"""
_base_ = '{ROOT}/configs/digits/fpn_ghostnetv2_digits.py'
{SMALL.format('neck=dict(in_channels=[8, 12, 32, 48])')}
""",
    'classifier': f"""
_base_ = '{ROOT}/configs/ghostnetv2_100_in1k.py'
{SMALL.format('head=dict(in_channels=288, num_classes=20)')}
""",
}
LIBRARIES = dict(detector='mmdet', segmentor='mmseg', classifier='mmpretrain')
SIDE = 128


def _walk(node):
    """List a config's dicts."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for part in node:
            yield from _walk(part)


@pytest.fixture(scope='session')
def trained(tmp_path_factory, coco_mini):
    """Make a model of each kind once: ``trained(kind)`` is a folder of a.py and a.pth.

    ``trained.models[kind]`` is the model.
    """

    def make(kind):
        pytest.importorskip(LIBRARIES[kind], reason=f'needs {LIBRARIES[kind]}')
        if kind in folders:
            return folders[kind]
        folder = folders[kind] = tmp_path_factory.mktemp(kind)
        (folder / 'base.py').write_text(CONFIGS[kind])
        cfg = Config.fromfile(folder / 'base.py')
        for node in _walk([cfg.test_pipeline, cfg.test_dataloader]):
            for key in {'scale', 'img_scale', 'crop_size'} & node.keys():
                scale = node[key]
                node[key] = SIDE if isinstance(scale, int) else (SIDE, SIDE)
        cfg.dump(folder / 'a.py')
        pixels = read_pictures(coco_mini, (SIDE, SIDE))
        model = make_model(Config.fromfile(folder / 'a.py'), pixels)
        classes = [f'kind {i}' for i in range(20)]
        palette = [[i, 200 - 3 * i, 7 * i % 256] for i in range(20)]
        meta = dict(dataset_meta=dict(classes=classes, palette=palette))
        torch.save(dict(meta=meta, state_dict=model.state_dict()), folder / 'a.pth')
        make.models[kind] = model
        return folder

    folders, make.models = {}, {}
    return make


@pytest.fixture(scope='session')
def exported(trained):
    """Export each kind to ONNX once: ``exported(kind)`` also has a.onnx.

    The detector takes pixels; the classifier's sizes are fixed.
    """
    done = set()

    def export(kind):
        needs('onnxruntime')
        folder = trained(kind)
        if kind not in done:
            options = {'detector': ['--dynamic', '--with-preprocess']}
            options |= {'segmentor': ['--dynamic', '--check']}
            args = [folder / 'a.py', folder / 'a.pth', '--shape', SIDE]
            args += ['--out', folder / 'a.onnx', *options.get(kind, ['--check'])]
            load('export').main([*map(str, args)])
            done.add(kind)
        return folder

    return export
