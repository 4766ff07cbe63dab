"""What counts as equal and what does not, for runtimes that are made up here."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from mmghostnetv2 import config_path, init_model
from mmghostnetv2.deployment.check import (
    library_predict,
    network_input,
    require_predictions,
    require_same,
    sample_pixels,
)
from mmghostnetv2.deployment.networks import deployable

from .conftest import make_model

SIZE = (96, 128)


def test_pictures(tmp_path):
    """A generated one has all kinds of pixels and is the same each time."""
    pixels = sample_pixels(SIZE)
    assert pixels.shape == (*SIZE, 3) and pixels.dtype == np.uint8
    assert (pixels == sample_pixels(SIZE)).all()
    assert (pixels.std((0, 1)) > 30).all()
    path = tmp_path / 'a.png'
    Image.fromarray(pixels).save(path)
    assert (sample_pixels(SIZE, path) == pixels).all()
    assert sample_pixels((5, 7), path).shape == (5, 7, 3)
    Image.fromarray(pixels[..., 0] * np.uint16(256) + 99).save(path)  # 16-bit
    assert (sample_pixels(SIZE, path) == pixels[..., :1]).all()
    path = tmp_path / 'a.tif'
    Image.fromarray(np.float32(pixels[..., 0])).save(path)
    with pytest.raises(OSError, match='a.tif cannot be read by OpenCV: save it as'):
        sample_pixels(SIZE, path)


def two_pictures():
    pixels = sample_pixels(SIZE)
    return np.stack([pixels, pixels[::-1]])


def outcome(model, change=None, output='predictions', preprocess=False):
    """Check outputs of torch, as ``change`` makes them others in place."""
    network = deployable(model, output, preprocess)

    @torch.no_grad()
    def session(images):
        outputs = network(torch.from_numpy(images))
        outputs = [outputs] if torch.is_tensor(outputs) else outputs
        outputs = [output.numpy().copy() for output in outputs]
        if change is not None:
            change(outputs)
        return outputs

    pixels = sample_pixels(SIZE)
    if output == 'predictions':
        return require_predictions(model, session, pixels, preprocess, 'it')
    images = torch.from_numpy(network_input(model, pixels, preprocess))
    return require_same(network, session, images, 'it')


@pytest.fixture(scope='module')
def detector():
    pytest.importorskip('mmdet', reason='needs mmdet')
    return make_model('ssdlite_ghostnetv2_coco', two_pictures())


def test_boxes(detector):
    assert re.match(
        r'agree: [1-9]\d* of \d+ boxes within', outcome(detector, preprocess=True)
    )

    def move(outputs):  # three of a hundred pixels
        outputs[0][:, ::30, 2] += 0.05 * SIZE[1]

    def relabel(outputs):
        outputs[1][:, ::30] += 1

    def weaken(outputs):
        outputs[0][..., 4] *= 0.99

    def drop(outputs):
        outputs[1][:, -10:] = -1

    for change in (move, relabel, weaken, drop):
        with pytest.raises(RuntimeError, match=r'it lacks [1-9]\d* of the \d+ boxes'):
            outcome(detector, change)

    def swap(outputs):
        for output in outputs:
            output[:, [0, -1]] = output[:, [-1, 0]]

    with pytest.raises(RuntimeError, match='does not return the best boxes first'):
        outcome(detector, swap)


def test_boxes_that_predict_does_not_find(detector):
    """A surplus counts as well."""
    cfg = detector.bbox_head.test_cfg
    network, pixels = deployable(detector), sample_pixels(SIZE)
    few = library_predict(detector, pixels)[1].size // 2

    @torch.no_grad()
    def session(images):
        outputs = [output.numpy() for output in network(torch.from_numpy(images))]
        cfg.max_per_img = few
        return outputs

    before = cfg.max_per_img
    try:
        with pytest.raises(RuntimeError, match=r'lacks 0 .* has [1-9]\d* others'):
            require_predictions(detector, session, pixels, False, 'it')
    finally:
        cfg.max_per_img = before


def test_no_boxes_are_no_agreement(detector, monkeypatch):
    monkeypatch.setitem(detector.bbox_head.test_cfg, 'score_thr', 1.0)
    assert 'find no box' in outcome(detector)

    def invent(outputs):
        outputs[1][:, 0] = 0

    with pytest.raises(RuntimeError, match='lacks 0 of the 0 .* has 1 others'):
        outcome(detector, invent)


def test_pixels():
    pytest.importorskip('mmseg', reason='needs mmseg')
    model = make_model('fpn_ghostnetv2_ade20k', two_pictures())
    assert '100.000% of the labels' in outcome(model)

    def relabel(outputs):
        outputs[0][:, 0, :2] += 1  # two of 12288

    with pytest.raises(RuntimeError, match=r'it returns 0.02% other labels'):
        outcome(model, relabel)


def test_scores_and_features():
    pytest.importorskip('mmpretrain', reason='needs mmpretrain')
    model = init_model(config_path('ghostnetv2_100_in1k'))
    assert 'scores within' in outcome(model, preprocess=True)
    assert 'outputs within' in outcome(model, output='features')

    def change(outputs):
        outputs[0][0, 5] += 2e-4 * outputs[0].max()

    for output in ('predictions', 'features'):
        with pytest.raises(RuntimeError, match='output 0 of it differs'):
            outcome(model, change, output)


def test_labels_without_a_library():
    """One of 10000 may differ."""
    labels = torch.zeros(1, 100, 200, dtype=torch.int64)

    class Network(torch.nn.Module):
        def forward(self, x):
            return labels

    for errors in (2, 3):
        found = labels.numpy().copy()
        found[0, 0, :errors] = 1
        options = Network(), lambda x, out=found: [out], torch.zeros(1), 'it'
        if errors == 2:
            assert '99.990%' in require_same(*options)
        else:
            with pytest.raises(RuntimeError, match='it returns 0.0.% other labels'):
                require_same(*options)
