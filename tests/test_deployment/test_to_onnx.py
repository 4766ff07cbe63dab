"""ONNX files of whole models, run by ONNX Runtime, against the libraries' predict."""

import numpy as np
import pytest
import torch
from torch import nn

from mmghostnetv2.deployment.check import library_predict
from mmghostnetv2.deployment.networks import deployable
from mmghostnetv2.deployment.to_onnx import to_onnx
from mmghostnetv2.models import fold_norms

from .conftest import assert_same_detections, make_model, to_images
from .test_networks import DETECTORS, SEGMENTORS, SIZE

onnx = pytest.importorskip('onnx', reason='needs onnx')
onnxruntime = pytest.importorskip('onnxruntime', reason='needs onnxruntime')
# others than the example's, (96, 128); of the second one sides are no multiples of 64
SIZES = [SIZE, (96, 224)]


def open_file(path):
    """Check what the file is made of; return a function of images."""
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} <= {'', 'ai.onnx'}
    assert {(i.domain) for i in model.opset_import} <= {'', 'ai.onnx'}
    assert 'BatchNormalization' not in {node.op_type for node in model.graph.node}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        path, options, providers=['CPUExecutionProvider']
    )
    names = [output.name for output in session.get_outputs()]

    def run(images):
        return dict(zip(names, session.run(None, {'images': images}), strict=True))

    run.input_shape = session.get_inputs()[0].shape
    return run


def export(model, path, dynamic, output='predictions', size=(96, 128)):
    network = deployable(fold_norms(model), output)
    to_onnx(network, (1, 3, *size), path, dynamic)
    return open_file(path)


@pytest.mark.parametrize('name', DETECTORS)
def test_detectors_of_any_size(name, pictures, tmp_path):
    pytest.importorskip('mmdet', reason='needs mmdet')
    options = {'model.test_cfg.max_per_img': 60, **DETECTORS[name]}
    model = make_model(name, pictures(SIZE), **options)
    expected = {
        size: [library_predict(model, p) for p in pictures(size, 2)] for size in SIZES
    }
    run = export(model, tmp_path / 'a.onnx', dynamic=True)
    assert run.input_shape == ['batch', 3, 'height', 'width']
    for size in SIZES:
        outputs = run(to_images(model, pictures(size, 2)).numpy())
        assert outputs['dets'].shape == (2, 60, 5)
        assert outputs['labels'].dtype == np.int64
        for i, theirs in enumerate(expected[size]):
            theirs = [output[0] for output in theirs]
            assert len(theirs[0]) == 60  # as many as there may be
            ours = outputs['dets'][i], outputs['labels'][i]
            assert_same_detections(ours, theirs)


@pytest.mark.parametrize('name', SEGMENTORS)
def test_segmentors_of_any_size(name, pictures, tmp_path):
    pytest.importorskip('mmseg', reason='needs mmseg')
    model = make_model(name, pictures(SIZE), **SEGMENTORS[name])
    sizes = [SIZE, (99, 145)]
    expected = {
        size: [library_predict(model, p)[0] for p in pictures(size, 2)]
        for size in sizes
    }
    run = export(model, tmp_path / 'a.onnx', dynamic=True)
    for size in sizes:
        (labels,) = run(to_images(model, pictures(size, 2)).numpy()).values()
        theirs = np.concatenate(expected[size])
        assert labels.shape == theirs.shape
        assert (labels == theirs).mean() >= 0.9999 and len(np.unique(labels)) > 5


def test_classifier_of_any_size(pictures, tmp_path):
    """Also of odd features, and of the two pixels that an attention takes at least."""
    pytest.importorskip('mmpretrain', reason='needs mmpretrain')
    model = make_model('ghostnetv2_100_in1k', pictures((96, 96)))
    sizes = [(96, 96), (75, 131), (33, 33)]
    expected = {
        size: [library_predict(model, p)[0] for p in pictures(size, 3)]
        for size in sizes
    }
    run = export(model, tmp_path / 'a.onnx', dynamic=True, size=(64, 64))
    for size in sizes:
        outputs = run(to_images(model, pictures(size, 3)).numpy())
        theirs = np.concatenate(expected[size])
        assert np.abs(outputs['scores'] - theirs).max() < 1e-4 * theirs.max()


@pytest.fixture(scope='module')
def static(pictures, tmp_path_factory):
    """A detector, its predictions, and its file of fixed size and pixels as input."""
    pytest.importorskip('mmdet', reason='needs mmdet')
    pixels = pictures(SIZE)
    model = make_model('yolov3_ghostnetv2_320', pixels)
    expected = [output[0] for output in library_predict(model, pixels[0])]
    path = tmp_path_factory.mktemp('static') / 'a.onnx'
    network = deployable(fold_norms(model), preprocess=True)
    to_onnx(network, (1, 3, *SIZE), path)
    return model, pixels, expected, path


def test_fixed_size_and_pixels_as_input(static):
    model, pixels, expected, path = static
    run = open_file(path)
    assert run.input_shape == [1, 3, *SIZE]
    outputs = run(to_images(model, pixels[:1], preprocess=True).numpy())
    assert_same_detections((outputs['dets'][0], outputs['labels'][0]), expected)
    with pytest.raises(Exception, match='INVALID_ARGUMENT'):
        run(np.zeros((1, 3, 160, 160), np.float32))


def test_a_file_holds_the_post_processing_once(static):
    """Decoded boxes are suppressed by one operator."""
    kinds = [node.op_type for node in onnx.load(static[3]).graph.node]
    assert kinds.count('NonMaxSuppression') == 1


def test_nothing_to_detect(static, tmp_path):
    """All of what comes out is filling, where the library returns nothing."""
    model, pixels, _, _ = static
    model.bbox_head.test_cfg.score_thr = 0.9999
    assert library_predict(model, pixels[0])[1].size == 0
    run = export(model, tmp_path / 'a.onnx', False, size=SIZE)
    outputs = run(to_images(model, pixels[:1]).numpy())
    assert (outputs['labels'] == -1).all() and not outputs['dets'].any()


def test_patches_for_free_sizes_are_undone(tmp_path):
    utils = pytest.importorskip('mmseg.models.utils', reason='needs mmseg')
    before = utils.Upsample.forward
    network = nn.Conv2d(3, 2, 1).eval()
    network.output_names = ('maps',)
    to_onnx(network, (1, 3, 4, 5), tmp_path / 'a.onnx', dynamic=True)
    assert utils.Upsample.forward is before


def test_plain_network_and_what_cannot_be_exported(tmp_path):
    to_onnx(nn.Conv2d(3, 2, 1).eval(), (1, 3, 4, 5), tmp_path / 'a.onnx')
    assert list(open_file(tmp_path / 'a.onnx')(np.ones((1, 3, 4, 5), np.float32)))

    class Unknown(nn.Module):
        def forward(self, x):
            return torch.linalg.eigvals(x)

    with pytest.raises(RuntimeError, match='cannot be exported: .*eigvals'):
        to_onnx(Unknown(), (1, 1, 4, 4), tmp_path / 'b.onnx')
