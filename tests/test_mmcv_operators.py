"""The stand-ins for mmcv's operators, against the compiled ones or a second method."""

import importlib
import importlib.machinery
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch

from mmghostnetv2 import mmcv_operators as ours

from .conftest import ROOT

ops = pytest.importorskip('mmcv.ops', reason='calls the operators')
compiled = importlib.import_module('mmcv._ext')
# What mmcv has and mmcv-lite has not, and what is large
IGNORED = shutil.ignore_patterns('_ext*', '__pycache__', '*.so')
needs_compiled = pytest.mark.skipif(
    compiled is ours, reason='needs mmcv with compiled operators'
)


def test_scripts_that_import_the_operators_first(tmp_path):
    """The file that the command writes serves any import, until mmcv is compiled."""
    lite = tmp_path / 'mmcv'
    shutil.copytree(Path(mmcv.__file__).parent, lite, ignore=IGNORED)
    environ = os.environ | {'PYTHONPATH': f'{tmp_path}{os.pathsep}{ROOT}'}

    def run(*args):
        command = [sys.executable, '-W', 'ignore', *args]
        return subprocess.run(command, env=environ, capture_output=True, text=True)

    first = 'import mmcv.ops, sys; print(sys.modules["mmcv._ext"].__name__)'
    assert "No module named 'mmcv._ext'" in run('-c', first).stderr
    for _ in range(2):
        written = run('-m', ours.__name__)
        assert written.stdout == f'wrote {lite / "_ext.py"}\n', written.stderr
    assert run('-c', first).stdout == f'{ours.__name__}\n'
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    (lite / f'_ext{suffix}').touch()
    refused = run('-m', ours.__name__)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: mmcv's compiled operators are installed: ")


def random_boxes(number, seed, dtype=torch.float32):
    """Boxes that overlap often, with different scores; some have no area."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(number, 2, generator=generator, dtype=dtype) * 40
    sides = torch.rand(number, 2, generator=generator, dtype=dtype) * 30
    sides[::7] = 0
    scores = torch.rand(number, generator=generator, dtype=dtype)
    return torch.cat([corners, corners + sides], dim=1), scores


def plain_overlap(box, boxes, offset):
    """Intersection over union, written out."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = (high - low + offset).clip(0).prod(1)
    areas = [(b[..., 2:] - b[..., :2] + offset).prod(-1) for b in (box, boxes)]
    with np.errstate(invalid='ignore'):  # two boxes without area
        return np.nan_to_num(shared / (areas[0] + areas[1] - shared))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('number', [0, 1, 60])
def test_nms(number, offset, dtype):
    """Boxes stay that overlap no better one that stays."""
    boxes, scores = random_boxes(number, offset, dtype)
    kept = ours.nms(boxes, scores, iou_threshold=0.4, offset=offset)
    expected = []
    for i in scores.argsort(descending=True).tolist():
        overlaps = plain_overlap(boxes[i].numpy(), boxes[expected].numpy(), offset)
        if not (overlaps > 0.4).any():
            expected.append(i)
    assert kept.tolist() == expected
    assert number < 10 or len(expected) < number


@needs_compiled
@pytest.mark.parametrize('seed', range(20))
@pytest.mark.parametrize('offset', [0, 1])
def test_nms_is_the_compiled_one(seed, offset):
    boxes, scores = random_boxes(60, seed)
    args = boxes, scores, 0.1 + seed / 25, offset
    assert torch.equal(ours.nms(*args), compiled.nms(*args))


METHODS = {'naive': 0, 'linear': 1, 'gaussian': 2}


def soft_nms(module, boxes, scores, method, offset):
    """Call an operator as mmcv.ops does; return boxes with scores, and indices."""
    dets = boxes.new_empty(len(boxes), 5)
    kept = module.softnms(
        boxes, scores, dets, iou_threshold=0.3, sigma=0.5, min_score=0.05,
        method=METHODS[method], offset=offset,
    )  # fmt: skip
    return dets[: len(kept)], kept


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('number', [0, 1, 40])
def test_soft_nms(number, method):
    """The best box that is left lowers the scores of the others."""
    boxes, scores = random_boxes(number, seed=3)
    dets, kept = soft_nms(ours, boxes, scores, method, offset=0)
    boxes, scores = boxes.numpy().astype('f8'), scores.numpy().astype('f8')
    left, order, final = {*range(number)}, [], []
    while left:
        best = max(left, key=lambda i: scores[i])
        left.remove(best)
        order.append(best)
        final.append(scores[best])
        for i in list(left):
            (overlap,) = plain_overlap(boxes[best], boxes[[i]], 0)
            far = overlap if overlap >= 0.3 else 0
            scores[i] *= {
                'naive': float(far == 0),
                'linear': 1 - far,
                'gaussian': np.exp(-overlap * overlap / 0.5),
            }[method]
            if scores[i] < 0.05:
                left.remove(i)
    assert kept.tolist() == order
    np.testing.assert_allclose(dets[:, 4], final, rtol=1e-5)
    assert np.array_equal(dets[:, :4], boxes[order].astype('f4'))


@needs_compiled
@pytest.mark.parametrize('seed', range(10))
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('method', METHODS)
def test_soft_nms_is_the_compiled_one(seed, offset, method):
    boxes, scores = random_boxes(60, seed)
    boxes[:, 2:] += 1  # the compiled one returns NaN for two boxes without area
    dets, kept = soft_nms(ours, boxes, scores, method, offset)
    expected, indices = soft_nms(compiled, boxes, scores, method, offset)
    assert torch.equal(kept, indices)
    torch.testing.assert_close(dets, expected)


def random_rois(number, seed, dtype=torch.float32):
    """Boxes with the index of an image; some reach out of the image."""
    boxes, _ = random_boxes(number, seed, dtype)
    return torch.cat([torch.arange(number)[:, None] % 2, boxes - 5], dim=1).to(dtype)


ROI_OPTIONS = ['aligned_height', 'aligned_width', 'spatial_scale', 'sampling_ratio']
ROI_OPTIONS += ['pool_mode', 'aligned']


def roi_align(module, features, rois, ratio, aligned):
    """Call both directions as mmcv.ops does; return output and gradient."""
    options = dict(aligned_height=3, aligned_width=4, spatial_scale=0.25)
    options |= dict(sampling_ratio=ratio, pool_mode=1, aligned=aligned)
    output = features.new_zeros(len(rois), features.shape[1], 3, 4)
    unused = features.new_zeros(0)
    module.roi_align_forward(features, rois, output, unused, unused, **options)
    grad, slope = torch.zeros_like(features), torch.linspace(-1, 1, output.numel())
    slope = slope.view_as(output).to(features.dtype)
    module.roi_align_backward(slope, rois, unused, unused, grad, **options)
    return output, grad


@needs_compiled
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('ratio', [0, 1, 2])
def test_roi_align_is_the_compiled_one(ratio, aligned, dtype):
    features = torch.randn(2, 5, 13, 17, dtype=dtype)
    args = features, random_rois(30, ratio, dtype), ratio, aligned
    for actual, expected in zip(
        roi_align(ours, *args), roi_align(compiled, *args), strict=True
    ):
        torch.testing.assert_close(actual, expected)
        assert expected.abs().max() > 0.1


def test_roi_align_interpolates():
    """With a point in each cell: bilinear, by another function of mmcv."""
    features = torch.randn(2, 5, 40, 40)
    rois = torch.tensor([[0, 4.0, 8, 100, 60], [1, 10, 10, 50, 120]])
    output, _ = roi_align(ours, features, rois, 1, True)
    expected = ops.SimpleRoIAlign((3, 4), 0.25)(features, rois)
    torch.testing.assert_close(output, expected)


def test_roi_align_has_the_right_gradient():
    align = ops.RoIAlign((2, 3), 0.5, 2)
    rois = random_rois(4, 0, torch.float64)
    features = torch.randn(2, 2, 7, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: align(x, rois), features)


@pytest.mark.parametrize('weighted', [False, True])
def test_focal_loss(weighted, monkeypatch):
    """The formula of the paper on RetinaNet; C stands for the background."""
    # mmcv's own runs on GPUs alone
    monkeypatch.setattr(sys.modules['mmcv.ops.focal_loss'], 'ext_module', ours)
    logits = torch.randn(50, 4, dtype=torch.float64, requires_grad=True)
    target = torch.randint(5, (50,))
    weight = torch.rand(4, dtype=torch.float64) if weighted else None
    loss = ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, weight, 'sum')
    loss.backward()
    mine = logits.detach().clone().requires_grad_()
    p, is_class = mine.sigmoid(), target[:, None] == torch.arange(4)
    right = torch.where(is_class, p, 1 - p)
    alpha = torch.where(is_class, 0.25, 0.75)
    expected = -alpha * (1 - right) ** 2 * right.log()
    if weighted:
        expected = expected * torch.cat([weight, weight.new_ones(1)])[target, None]
    expected.sum().backward()
    torch.testing.assert_close(loss, expected.sum())
    torch.testing.assert_close(logits.grad, mine.grad)


def test_other_operators_say_what_to_do():
    with pytest.raises(
        NotImplementedError, match="'deform_conv_forward'.*OPS=compiled"
    ):
        ours.deform_conv_forward(torch.ones(1))
    with pytest.raises(AttributeError, match='_nothing'):
        ours._nothing  # noqa: B018
    with pytest.raises(NotImplementedError, match='pool_mode="max".*OPS=compiled'):
        ours.roi_align_forward(*[torch.ones(1)] * 5, **dict.fromkeys(ROI_OPTIONS, 0))


def run(code):
    """Run Python code in a process of its own; return what it prints."""
    return subprocess.check_output(
        [sys.executable, '-W', 'ignore', '-c', code], text=True
    )


def test_compiled_operators_stay():
    """The stand-ins serve only where there is nothing else."""
    code = "import mmghostnetv2, mmcv._ext; print(mmcv._ext.__file__.endswith('.py'))"
    assert run(code) == f'{compiled is ours}\n'


def test_one_line_says_that_they_are_used():
    code = """
import torch
from mmengine.logging import MMLogger
MMLogger.get_instance('run', log_level='INFO')
from mmghostnetv2 import mmcv_operators
for _ in range(3):
    mmcv_operators.nms(torch.zeros(1, 4), torch.ones(1), 0.5, 0)
"""
    assert run(code).count('take their place') == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_on_a_gpu(dtype):
    """Called as heads do, the operators give there what they give on the CPU."""

    def results(device):
        boxes, scores = (t.to(device) for t in random_boxes(60, 0))
        yield from ops.nms(boxes, scores, iou_threshold=0.4)
        yield from ops.soft_nms(boxes, scores, iou_threshold=0.4)
        labels = torch.arange(60, device=device) % 3
        nms_cfg = dict(type='nms', iou_threshold=0.4, class_agnostic=False)
        yield from ops.batched_nms(boxes, scores, labels, nms_cfg)
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(2, 5, 12, 9, generator=generator).to(device, dtype)
        logits = torch.randn(60, 4, generator=generator).to(device, dtype)
        features.requires_grad_(), logits.requires_grad_()
        pooled = ops.roi_align(
            features, random_rois(20, 1).to(device, dtype), (3, 4), 0.25
        )
        target = torch.arange(60, device=device) % 5
        losses = ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, None, 'none')
        (pooled.square().sum() + losses.sum()).backward()
        yield from (pooled, losses, features.grad, logits.grad)

    for gpu, cpu in zip(results('cuda'), results('cpu'), strict=True):
        tolerance = dict(rtol=2e-2, atol=2e-2) if gpu.dtype == torch.half else {}
        torch.testing.assert_close(gpu.cpu(), cpu, **tolerance)
