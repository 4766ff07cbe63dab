"""tools/deployment/export.py: files of all runtimes, their checks, and refusals."""

import copy
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from mmghostnetv2 import config_path
from mmghostnetv2.deployment import export
from mmghostnetv2.deployment.check import (
    library_predict,
    network_input,
    sample_pixels,
)
from mmghostnetv2.deployment.networks import deployable
from mmghostnetv2.deployment.runtimes import RUNTIMES

from .conftest import SIDE, load, needs, read_pictures

FORMATS = {r.format: r for r in RUNTIMES.values() if r.format}


@pytest.fixture(scope='module')
def tool():
    return load('export')


@pytest.fixture(scope='module')
def converted(trained, tool, tmp_path_factory):
    """Export by the tool: ``converted(kind, format, *options)`` is the file.

    The files take pixels. Nothing is exported twice.
    """
    made = {}

    def convert(kind, form, *options):
        needs(FORMATS[form].name)
        key = kind, form, *options
        if key not in made:
            folder = trained(kind)
            out = tmp_path_factory.mktemp(form) / 'new' / f'a{FORMATS[form].suffix}'
            args = [folder / 'a.py', folder / 'a.pth', '--shape', SIDE, '--out', out]
            tool.main([*map(str, args), '--with-preprocess', *options])
            made[key] = out
        return made[key]

    return convert


def run(path, form, pixels):
    images = pixels.transpose(2, 0, 1)[None].astype('f4')
    return FORMATS[form].open(path, 1)(images)


@pytest.fixture(scope='module')
def other_pixels():
    """A picture that the tool did not compare with."""
    return sample_pixels((SIDE, SIDE))[::-1].copy()


# ONNX is tested in test_onnx.py, and LiteRT below with integers.
@pytest.mark.parametrize('form', ['openvino', 'ncnn', 'executorch', 'coreml'])
def test_classifier(converted, trained, other_pixels, form):
    """Its scores are those of the library, where the runtime runs."""
    out = converted('classifier', form)
    names = {out.name, f'{out.name}.json'}
    names |= {out.with_suffix(suffix).name for suffix in FORMATS[form].companions}
    assert {path.name for path in out.parent.iterdir()} == names
    meta = json.loads(out.with_name(f'{out.name}.json').read_text())
    assert meta['task'] == 'classification' and meta['input']['preprocess']
    assert meta['input']['shape'] == [1, 3, SIDE, SIDE]
    assert (meta['config'], meta['checkpoint']) == ('a', 'a.pth')
    assert meta['classes'] == [f'kind {i}' for i in range(20)]
    if FORMATS[form].runs:
        (scores,) = run(out, form, other_pixels)
        (expected,) = library_predict(trained.models['classifier'], other_pixels)
        assert scores.shape == (1, 20) and np.ptp(expected) > 0.01
        np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_dense_detector(converted, trained, other_pixels):
    """Boxes and scores of torch's own decoding, before suppression."""
    out = converted('detector', 'ncnn', '--output', 'dense')
    boxes, scores, objectness = run(out, 'ncnn', other_pixels)
    number = 3 * (4**2 + 8**2 + 16**2)
    assert boxes.shape == (1, number, 4) and scores.shape == (1, number, 10)
    found, labels = library_predict(trained.models['detector'], other_pixels)
    joint = (scores * objectness[..., None])[0]
    assert len(found[0]) > 3
    for (*box, score), label in zip(found[0][:10], labels[0][:10], strict=True):
        match = np.abs(boxes[0] - box).max(1).argmin()
        np.testing.assert_allclose(boxes[0, match], box, atol=2e-3)
        np.testing.assert_allclose(joint[match, label], score, atol=1e-5)


def test_whole_detector_in_openvino(converted, trained, other_pixels):
    out = converted('detector', 'openvino')
    dets, labels = run(out, 'openvino', other_pixels)
    expected, theirs = library_predict(trained.models['detector'], other_pixels)
    assert theirs.size > 3
    np.testing.assert_allclose(dets[:, : theirs.size], expected, atol=5e-3)
    assert (labels[:, : theirs.size] == theirs).all()
    assert (labels[:, theirs.size :] == -1).all()


def test_segmentor_in_openvino(converted, trained, other_pixels):
    out = converted('segmentor', 'openvino')
    (labels,) = run(out, 'openvino', other_pixels)
    (expected,) = library_predict(trained.models['segmentor'], other_pixels)
    assert len(np.unique(expected)) > 2
    assert labels.shape == (1, SIDE, SIDE) and np.mean(labels == expected) > 0.999


def test_features_in_ncnn(converted, trained, other_pixels):
    outputs = run(
        converted('detector', 'ncnn', '--output', 'features'), 'ncnn', other_pixels
    )
    model = trained.models['detector']
    with torch.no_grad():
        images = torch.from_numpy(network_input(model, other_pixels, False))
        expected = model.backbone(images)
    assert len(outputs) == len(expected) == 3
    for ours, theirs in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=3e-5 * theirs.abs().max())


def test_half_in_ncnn(converted, trained, other_pixels):
    whole, half = (converted('classifier', 'ncnn', *o) for o in ((), ('--half',)))
    sizes = [path.with_suffix('.bin').stat().st_size for path in (half, whole)]
    assert sizes[0] < 0.6 * sizes[1]
    (expected,) = library_predict(trained.models['classifier'], other_pixels)
    np.testing.assert_allclose(run(half, 'ncnn', other_pixels)[0], expected, atol=0.01)


def test_int8_in_litert(converted, trained, coco_mini):
    """The tool has compared the float32 file with torch before."""
    pictures = str(coco_mini / 'val2017')
    out = converted('detector', 'litert', '--output', 'dense', '--int8', pictures)
    model = trained.models['detector']
    parameters = sum(p.numel() for p in model.parameters())
    assert out.stat().st_size < 0.5 * 4 * parameters  # four bytes in float32
    (pixels,) = read_pictures(coco_mini, (SIDE, SIDE), 1)
    ours = run(out, 'litert', pixels)
    images = torch.from_numpy(network_input(model, pixels, False))
    with torch.no_grad():
        expected = deployable(model, 'dense')(images)
    for found, theirs in zip(ours[1:], expected[1:], strict=True):
        assert found.shape == theirs.shape
        assert np.abs(found - theirs.numpy()).mean() < 0.1
        assert np.corrcoef(found.ravel(), theirs.numpy().ravel())[0, 1] > 0.5


def test_what_is_printed(tool, trained, tmp_path, capsys):
    """Also over an old file, with --force, and for a picture of the user's."""
    needs('onnxruntime')
    folder, out, image = trained('classifier'), tmp_path / 'a.onnx', tmp_path / 'a.png'
    Image.fromarray(sample_pixels((50, 60))).save(image)
    out.write_text('old')
    args = [folder / 'a.py', folder / 'a.pth', '--shape', 32, '--out', out]
    args = [*map(str, args), '--format', 'onnx', '--check', '--image', str(image)]
    with pytest.raises(FileExistsError, match='a.onnx exists; --force overwrites it'):
        tool.main(args)
    assert out.read_text() == 'old'
    tool.main([*args, '--force'])
    said = capsys.readouterr().out
    assert 'ONNX Runtime and torch agree: outputs within' in said
    assert "ONNX Runtime and the library's predict agree: scores within" in said
    assert re.search(r'wrote .*a.onnx, [\d.]+ MB, and a.onnx.json', said)


def test_a_model_in_training_stays_as_it_is(trained, tmp_path):
    """Its modes, weights and statistics; the file is that of eval mode."""
    needs('onnxruntime')
    trained('detector')
    model = copy.deepcopy(trained.models['detector']).train()
    model.backbone.conv_stem.eval()  # as where a stage is frozen
    modes = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    (said,) = export.export_model(model, tmp_path / 'a.onnx', (64, 64))
    assert 'boxes within' in said
    assert [module.training for module in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


# ---- what is refused; nothing is written then


@pytest.fixture
def fails(tool, trained, tmp_path, capsys):
    """Run the tool on a model of a kind; return its message."""

    def run(kind, *args, error=Exception, shape=64, out='a.onnx'):
        model = kind if isinstance(kind, tuple) else (kind,)
        if kind in ('classifier', 'detector'):
            model = trained(kind) / 'a.py', trained(kind) / 'a.pth'
        out = tmp_path / 'new' / out
        with pytest.raises(error) as info:
            tool.main([*map(str, [*model, '--shape', shape, '--out', out, *args])])
        if error is SystemExit:
            assert info.value.code == 2
        assert not out.parent.exists()
        return f'{info.value} {capsys.readouterr().err}'

    return run


def test_wrong_arguments(fails):
    """They end the tool with the exit status 2."""
    for out, args, message in [
        ('a.pt', (), 'must end in .onnx or .xml or .tflite .* got .*a.pt'),
        ('a.onnx', ('--format', 'ncnn'), '--format ncnn does not fit --out .*a.onnx'),
        ('a.onnx', ('--image', 'a.png'), '--image is for --check'),
        ('a.onnx', ('--half',), '--half is not for ONNX Runtime'),
        ('a.param', ('--int8', 'a.png'), '--int8 is not for ncnn'),
        ('a.xml', ('--dynamic',), '--dynamic is not for OpenVINO'),
        ('a.mlpackage', ('--check',), '--check is not for Core ML'),
        ('a.onnx', ('--dynamic', '--shape', 32), 'sides of at least 33 pixels'),
        ('a.onnx', ('--shape', 1, 2, 3), 'takes H and W, got 3 numbers'),
    ]:
        assert re.search(message, fails('none', *args, out=out, error=SystemExit))


@pytest.mark.parametrize(
    ('form', 'option', 'known'),
    [
        ('onnx', 'half', 'int8, dynamic'),
        ('ncnn', 'int8', 'half'),
        ('openvino', 'dynamic', 'int8'),
        ('executorch', 'half', 'int8'),
    ],
)
def test_options_that_a_runtime_lacks(tmp_path, form, option, known):
    needs(FORMATS[form].name)
    path, model = tmp_path / f'a{FORMATS[form].suffix}', torch.nn.Identity()
    message = f"{FORMATS[form].title} has no option '{option}'; its options: {known}$"
    with pytest.raises(ValueError, match=message):
        export.export_model(model, path, (32, 32), **{option: True})
    assert not path.exists()


def test_what_cannot_be_exported(fails, trained, tmp_path):
    needs('onnxruntime')
    assert 'none' in fails('none')
    message = fails(config_path('mask-rcnn_ghostnetv2_fpn_coco'))
    assert 'two-stage detectors' in message
    message = fails('detector', shape=100, error=ValueError)
    assert '(100, 100)' in message and 'multiples of 32' in message
    missing = tmp_path / 'none.jpg'
    assert str(missing) in fails('classifier', '--check', '--image', missing)
    config = trained('detector') / 'a.py'
    weights = trained('classifier') / 'a.pth'
    assert weights.name in fails((config, weights))


@pytest.mark.parametrize('form', ['litert', 'ncnn', 'executorch', 'coreml'])
def test_detectors_without_suppression(fails, form):
    needs(FORMATS[form].name)
    message = fails(
        'detector', out=f'a{FORMATS[form].suffix}', error=NotImplementedError
    )
    assert "no non-maximum suppression: export 'dense' boxes" in message


def change_runtime(monkeypatch, name, **changes):
    monkeypatch.setitem(RUNTIMES, name, RUNTIMES[name]._replace(**changes))


def test_a_wrong_file_is_not_written(fails, monkeypatch):
    """The runtime returns something else than torch."""
    needs('openvino')
    right = RUNTIMES['openvino'].open

    def open_wrong(path, threads):
        session = right(path, threads)
        return lambda images: [output * 1.00005 for output in session(images)]

    change_runtime(monkeypatch, 'openvino', open=open_wrong)
    message = fails('classifier', out='a.xml', error=RuntimeError)
    assert 'output 0 of OpenVINO differs from that of torch' in message


def test_a_wrong_fold_is_not_written(fails, monkeypatch):
    """The file computes what was converted, but not what was trained."""
    needs('openvino')
    right = export.fold_norms

    def fold_wrong(model):
        folded = right(model)
        folded.backbone.conv_stem.weight.data.mul_(1.01)
        return folded

    monkeypatch.setattr(export, 'fold_norms', fold_wrong)
    message = fails('classifier', out='a.xml', error=RuntimeError)
    assert 'output 0 of OpenVINO differs from that of torch' in message


def test_wrong_boxes_are_not_written(fails, monkeypatch):
    needs('openvino')
    right = RUNTIMES['openvino'].write

    def write_wrong(network, images, path):
        network.model.bbox_head.convs_pred[1].bias.data += 0.5
        right(network, images, path)

    change_runtime(monkeypatch, 'openvino', write=write_wrong)
    message = fails('detector', out='a.xml', error=RuntimeError)
    assert 'OpenVINO lacks' in message and 'boxes that predict finds' in message


def test_missing_runtime(fails, monkeypatch):
    change_runtime(monkeypatch, 'ncnn', modules=('no_such_module',))
    message = fails('classifier', out='a.param', error=ImportError)
    assert 'pip install no-such-module' in message


@pytest.mark.parametrize('name', ['a.bin', 'a.param.json'])
def test_other_files_stay(tool, trained, tmp_path, name):
    """OpenVINO and ncnn both write NAME.bin."""
    other = tmp_path / name
    other.write_text('weights')
    folder, out = trained('classifier'), tmp_path / 'a.param'
    args = [folder / 'a.py', folder / 'a.pth', '--shape', '64', '--out', out]
    with pytest.raises(FileExistsError, match=f'{name} exists; --force overwrites'):
        tool.main([*map(str, args)])
    assert other.read_text() == 'weights' and not out.exists()


def test_core_ml_folders_are_overwritten_by_force_alone(tool, tmp_path, monkeypatch):
    old = tmp_path / 'a.mlpackage' / 'old'
    old.parent.mkdir()
    old.touch()
    args = ['ghostnetv2_100_in1k', '--shape', '32', '--out', str(old.parent)]

    def write(model, path, *args):
        path.mkdir()
        (path / 'new').touch()
        return []

    monkeypatch.setattr(tool, 'export_model', write)
    with pytest.raises(FileExistsError, match='a.mlpackage exists; --force'):
        tool.main(args)
    assert old.exists()
    tool.main([*args, '--force'])
    assert [path.name for path in old.parent.iterdir()] == ['new']


def test_folders_are_not_overwritten(tool, tmp_path):
    out = tmp_path / 'a.onnx'
    (out / 'inside').mkdir(parents=True)
    args = ['ghostnetv2_100_in1k', '--shape', '32', '--out', str(out), '--force']
    with pytest.raises(IsADirectoryError, match='a.onnx is a folder'):
        tool.main(args)
    assert (out / 'inside').exists()
