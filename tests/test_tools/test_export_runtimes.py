"""export_openvino.py, export_ncnn.py, export_tflite.py on models of the libraries."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mmghostnetv2 import config_path
from mmghostnetv2.deployment import convert, export
from mmghostnetv2.deployment.check import (
    library_predict,
    network_input,
    sample_pixels,
)
from mmghostnetv2.deployment.runtimes import RUNTIMES, check_runtime

from ..conftest import ROOT
from ..test_deployment.conftest import make_model, read_pictures
from .conftest import load_tool

CLASSIFIER = 'ghostnetv2_100_digits'
DETECTOR = 'yolov3_ghostnetv2_320'
SUFFIXES = {'openvino': '.xml', 'ncnn': '.param', 'tflite': '.tflite'}


def load(runtime):
    try:
        check_runtime('litert' if runtime == 'tflite' else runtime)
    except ImportError as error:
        pytest.skip(str(error))
    return load_tool(ROOT / 'tools' / 'deployment' / f'export_{runtime}.py')


@pytest.fixture(scope='module')
def trained(tmp_path_factory, coco_mini):
    """A config's model, and its weights as a file: ``trained(name, size)``."""
    made, folder = {}, tmp_path_factory.mktemp('weights')

    def make(name, size):
        if name not in made:
            model = make_model(name, read_pictures(coco_mini, (size, size)))
            path = folder / f'{name}.pth'
            torch.save(dict(state_dict=model.state_dict()), path)
            made[name] = model, str(path)
        return made[name]

    return make


@pytest.fixture
def classifier(trained):
    pytest.importorskip('mmpretrain')
    return trained(CLASSIFIER, 96)


@pytest.fixture
def detector(trained):
    pytest.importorskip('mmdet')
    return trained(DETECTOR, 96)


def arguments(name, weights, size, out, *more):
    options = ['--shape', str(size), '--out', str(out), '--with-preprocess']
    return [config_path(name), weights, *options, *more]


def run(runtime, path, pixels):
    """Run a file that normalises."""
    runtime = 'litert' if runtime == 'tflite' else runtime
    images = pixels.transpose(2, 0, 1)[None].astype('f4')
    return RUNTIMES[runtime].open(path, 1)(images)


@pytest.mark.parametrize('runtime', SUFFIXES)
def test_classifier(runtime, classifier, tmp_path, capsys):
    """Scores are those of the library, for another picture than the tool looked at."""
    tool, (model, weights) = load(runtime), classifier
    out = tmp_path / 'new' / f'digits{SUFFIXES[runtime]}'
    tool.main(arguments(CLASSIFIER, weights, 96, out, '--check'))
    weights_file = [] if runtime == 'tflite' else ['digits.bin']
    names = sorted([out.name, f'{out.name}.json', *weights_file])
    assert sorted(path.name for path in out.parent.iterdir()) == names
    pixels = sample_pixels((96, 96))[::-1].copy()
    (scores,) = run(runtime, out, pixels)
    (expected,) = library_predict(model, pixels)
    assert scores.shape == (1, 10) and np.ptp(expected) > 0.1
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    meta = json.loads(out.with_name(f'{out.name}.json').read_text())
    assert meta['task'] == 'classification' and meta['input']['shape'] == [1, 3, 96, 96]
    said = capsys.readouterr().out
    assert 'torch agree' in said and "the library's predict agree" in said


@pytest.mark.parametrize('runtime', SUFFIXES)
def test_dense_detector(runtime, detector, tmp_path):
    """Boxes and scores of torch's own decoding, before suppression."""
    tool, (model, weights) = load(runtime), detector
    out = tmp_path / f'yolo{SUFFIXES[runtime]}'
    tool.main(arguments(DETECTOR, weights, 96, out, '--output', 'dense'))
    pixels = sample_pixels((96, 96))[::-1].copy()
    boxes, scores, objectness = run(runtime, out, pixels)
    number = 3 * (3**2 + 6**2 + 12**2)
    assert boxes.shape == (1, number, 4) and scores.shape == (1, number, 80)
    found, labels = library_predict(model, pixels)
    joint = (scores * objectness[..., None])[0]
    assert len(found[0]) > 3
    for (*box, score), label in zip(found[0][:10], labels[0][:10], strict=True):
        match = np.abs(boxes[0] - box).max(1).argmin()
        np.testing.assert_allclose(boxes[0, match], box, atol=2e-3)
        np.testing.assert_allclose(joint[match, label], score, atol=1e-5)


def test_detector_with_suppression(detector, tmp_path):
    tool, (model, weights) = load('openvino'), detector
    out = tmp_path / 'yolo.xml'
    tool.main(arguments(DETECTOR, weights, 96, out))
    pixels = sample_pixels((96, 96))[::-1].copy()
    dets, labels = run('openvino', out, pixels)
    expected, expected_labels = library_predict(model, pixels)
    number = expected_labels.size
    assert number > 3
    np.testing.assert_allclose(dets[:, :number], expected, atol=2e-3)
    assert (labels[:, :number] == expected_labels).all()
    assert (labels[:, number:] == -1).all()


@pytest.mark.parametrize('runtime', ['ncnn', 'tflite'])
def test_detector_whose_runtime_has_no_suppression(runtime, detector, tmp_path):
    tool, (_, weights) = load(runtime), detector
    out = tmp_path / f'yolo{SUFFIXES[runtime]}'
    with pytest.raises(SystemExit, match='no non-maximum suppression: .*dense'):
        tool.main(arguments(DETECTOR, weights, 96, out))
    assert not list(tmp_path.iterdir())


def test_features_in_ncnn(detector, tmp_path):
    tool, (model, weights) = load('ncnn'), detector
    out = tmp_path / 'yolo.param'
    tool.main(arguments(DETECTOR, weights, 96, out, '--output', 'features'))
    pixels = sample_pixels((96, 96))
    outputs = run('ncnn', out, pixels)
    assert [x.shape[1:] for x in outputs] == [(40, 12, 12), (112, 6, 6), (160, 3, 3)]
    images = torch.from_numpy(network_input(model, pixels, False))
    with torch.no_grad():
        expected = model.backbone(images)
    for ours, theirs in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=3e-5 * theirs.abs().max())


def test_segmentor(trained, tmp_path):
    pytest.importorskip('mmseg')
    tool, name = load('openvino'), 'fpn_ghostnetv2_digits'
    model, weights = trained(name, 96)
    out = tmp_path / 'fpn.xml'
    tool.main(arguments(name, weights, 96, out))
    pixels = sample_pixels((96, 96))[::-1].copy()
    (labels,) = run('openvino', out, pixels)
    (expected,) = library_predict(model, pixels)
    assert len(np.unique(expected)) > 2
    assert labels.shape == (1, 96, 96) and np.mean(labels == expected) > 0.999


def wrong(change):
    """A runtime that changes what it returns."""
    open_model = RUNTIMES['openvino'].open

    def open_wrong(path, threads):
        session = open_model(path, threads)
        return lambda images: [change(output) for output in session(images)]

    return RUNTIMES['openvino']._replace(open=open_wrong)


def test_a_wrong_file_is_not_written(classifier, tmp_path, monkeypatch):
    tool, (_, weights) = load('openvino'), classifier
    monkeypatch.setitem(RUNTIMES, 'openvino', wrong(lambda scores: scores * 1.00005))
    with pytest.raises(SystemExit, match='output 0 of OpenVINO differs from .* torch'):
        tool.main(arguments(CLASSIFIER, weights, 96, tmp_path / 'new' / 'a.xml'))
    assert not list(tmp_path.iterdir())


def test_a_wrong_fold_is_not_written(classifier, tmp_path, monkeypatch):
    """The file computes what was converted, but not what was trained."""
    tool, (_, weights) = load('openvino'), classifier
    right = export.fold_norms

    def fold_wrong(model):
        folded = right(model)
        folded.backbone.conv_stem.weight.data.mul_(1.01)
        return folded

    monkeypatch.setattr(export, 'fold_norms', fold_wrong)
    with pytest.raises(SystemExit, match='output 0 of OpenVINO differs from .* torch'):
        tool.main(arguments(CLASSIFIER, weights, 96, tmp_path / 'new' / 'a.xml'))
    assert not list(tmp_path.iterdir())


def test_wrong_labels_are_refused():
    """One of 10000 may be another one."""
    labels = torch.zeros(1, 100, 200, dtype=torch.int64)

    class Network(torch.nn.Module):
        def forward(self, x):
            return labels

    for errors in (2, 3):
        found = labels.numpy().copy()
        found[0, 0, :errors] = 1
        options = Network(), lambda x, out=found: [out], torch.zeros(1), 'it'
        if errors == 2:
            assert '99.990%' in convert.require_same(*options)
        else:
            with pytest.raises(RuntimeError, match='it returns 0.0.% other labels'):
                convert.require_same(*options)


@pytest.mark.parametrize('runtime', ['openvino', 'ncnn'])
def test_weights_of_another_file_stay(runtime, classifier, tmp_path):
    """OpenVINO and ncnn both write NAME.bin."""
    tool, (_, weights) = load(runtime), classifier
    other = tmp_path / 'a.bin'
    other.write_text('weights')
    out = tmp_path / f'a{SUFFIXES[runtime]}'
    with pytest.raises(SystemExit, match='a.bin exists; --force overwrites'):
        tool.main(arguments(CLASSIFIER, weights, 96, out))
    assert other.read_text() == 'weights'
    tool.main(arguments(CLASSIFIER, weights, 96, out, '--force'))
    assert other.stat().st_size > 1e6


def test_missing_runtime(classifier, tmp_path, monkeypatch):
    tool, (_, weights) = load('ncnn'), classifier

    def check(runtime):
        raise ImportError(f'no {runtime} here')

    monkeypatch.setattr(convert, 'check_runtime', check)
    with pytest.raises(SystemExit, match='no ncnn here'):
        tool.main(arguments(CLASSIFIER, weights, 96, tmp_path / 'a.param'))


def test_ncnn_of_half_the_size(classifier, tmp_path):
    tool, (model, weights) = load('ncnn'), classifier
    for options in ((), ('--half',)):
        out = tmp_path / f'a{len(options)}.param'
        tool.main(arguments(CLASSIFIER, weights, 96, out, *options))
    whole, half = (tmp_path / f'a{i}.bin' for i in (0, 1))
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    assert not list(tmp_path.glob('*.onnx'))
    pixels = sample_pixels((96, 96))
    (expected,) = library_predict(model, pixels)
    np.testing.assert_allclose(run('ncnn', out, pixels)[0], expected, atol=0.01)


def test_int8_in_litert(classifier, tmp_path, coco_mini):
    tool, (model, weights) = load('tflite'), classifier
    pictures = read_pictures(coco_mini, (96, 96))
    for i, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(tmp_path / f'{i}.png')
    out = tmp_path / 'a.tflite'
    tool.main(arguments(CLASSIFIER, weights, 96, out, '--int8', str(tmp_path)))
    assert out.stat().st_size < 9e6  # 24 MB in float32
    (scores,) = run('tflite', out, pictures[0])
    (expected,) = library_predict(model, pictures[0])
    assert np.abs(scores - expected).max() < 0.2
