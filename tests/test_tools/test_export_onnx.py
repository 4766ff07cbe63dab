"""tools/deployment/export_onnx.py: its files, its check and what it refuses."""

import json
import re

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmghostnetv2 import config_path, init_model
from mmghostnetv2.deployment.check import library_predict

from ..conftest import ROOT
from ..test_deployment.conftest import assert_same_detections, make_model, read_pictures
from .conftest import load_tool

pytest.importorskip('onnx', reason='needs onnx')
onnxruntime = pytest.importorskip('onnxruntime', reason='needs onnxruntime')
pytest.importorskip('mmdet', reason='needs mmdet')

TOOL = ROOT / 'tools' / 'deployment' / 'export_onnx.py'
DETECTOR = f"""
_base_ = '{ROOT}/configs/digits/yolov3_ghostnetv2_320_digits.py'
model = dict(backbone=dict(widen_factor=0.3), neck=dict(in_channels=[48, 32, 12]))
"""
SIZE = (96, 128)


@pytest.fixture(scope='module')
def tool():
    return load_tool(TOOL)


@pytest.fixture(scope='module')
def trained(tmp_path_factory, coco_mini):
    """Config and checkpoint of a small detector, and a picture."""
    folder = tmp_path_factory.mktemp('trained')
    config, weights, image = (folder / name for name in ('a.py', 'a.pth', 'a.png'))
    config.write_text(DETECTOR)
    pixels = read_pictures(coco_mini, SIZE)
    model = make_model(Config.fromfile(config), pixels)
    meta = dict(dataset_meta=dict(classes=tuple('abcdefghij')))
    torch.save(dict(meta=meta, state_dict=model.state_dict()), weights)
    Image.fromarray(pixels[0]).save(image)
    return str(config), str(weights), str(image)


@pytest.fixture
def fails(tool, tmp_path, capsys):
    """Run the tool, which ends with a message that is returned, and leaves nothing."""

    def run(*args, out=None):
        path = str(out or tmp_path / 'new' / 'a.onnx')
        with pytest.raises(SystemExit) as info:
            tool.main([*map(str, args), '--out', path])
        assert info.value.code not in (0, None)
        assert not (tmp_path / 'new').exists()
        return f'{info.value} {capsys.readouterr().err}'

    return run


def test_detector(tool, trained, tmp_path, capsys):
    """One file from pixels to what predict returns; a description; the check passed."""
    config, weights, image = trained
    out = tmp_path / 'new' / 'a.onnx'
    args = [config, weights, '--shape', *map(str, SIZE), '--out', str(out)]
    tool.main([*args, '--with-preprocess', '--check', '--image', image])
    assert sorted(p.name for p in out.parent.iterdir()) == ['a.onnx', 'a.onnx.json']
    printed = capsys.readouterr().out
    assert 'ONNX Runtime and torch agree: 100 of 100 boxes within' in printed
    assert str(out) in printed

    pixels = np.asarray(Image.open(image))
    expected = library_predict(init_model(config, weights), pixels)
    session = onnxruntime.InferenceSession(out)
    images = pixels.transpose(2, 0, 1)[None].astype(np.float32)
    dets, labels = session.run(['dets', 'labels'], {'images': images})
    assert_same_detections((dets[0], labels[0]), [output[0] for output in expected])

    meta = json.loads((out.parent / 'a.onnx.json').read_text())
    assert (meta['task'], meta['output']) == ('detection', 'predictions')
    assert meta['classes'] == list('abcdefghij')
    assert (meta['config'], meta['checkpoint']) == ('a', 'a.pth')
    assert meta['input']['shape'] == [1, 3, *SIZE] and meta['input']['preprocess']

    before = out.stat().st_mtime_ns
    with pytest.raises(SystemExit, match='a.onnx exists; --force overwrites it'):
        tool.main(args)
    assert out.stat().st_mtime_ns == before


def test_free_sizes_features_padding_and_force(tool, trained, tmp_path, capsys):
    """The backbone alone; also over what is there; with what --ort-pad adds."""
    config, weights, _ = trained
    out = tmp_path / 'a.onnx'
    out.write_text('old')
    args = [config, weights, '--shape', '64', '--out', str(out), '--force', '--check']
    tool.main([*args, '--output', 'features', '--dynamic', '--ort-pad', '16'])
    assert 'agree: 3 outputs within' in capsys.readouterr().out
    session = onnxruntime.InferenceSession(out)
    backbone = init_model(config, weights).backbone
    image = torch.rand(2, 3, 96, 160)
    with torch.no_grad():
        expected = backbone(image)
    for ours, theirs in zip(
        session.run(None, {'images': image.numpy()}), expected, strict=True
    ):
        assert np.abs(ours - theirs.numpy()).max() < 1e-4 * theirs.abs().max()
    onnx = pytest.importorskip('onnx')
    shapes = {tuple(w.dims) for w in onnx.load(out).graph.initializer}
    stem = backbone.conv_stem.out_channels
    assert any(shape[0] % 16 == 0 and stem in shape[1:2] for shape in shapes if shape)
    meta = json.loads((tmp_path / 'a.onnx.json').read_text())
    assert meta['input']['dynamic']
    assert meta['outputs'] == ['features0', 'features1', 'features2']


def test_a_wrong_export_is_found(tool, trained, fails, monkeypatch):
    """What the check finds to differ is not written."""
    to_onnx = tool.to_onnx

    def wrong(network, *args):
        network.model.bbox_head.convs_pred[1].bias.data += 0.5
        to_onnx(network, *args)

    monkeypatch.setattr(tool, 'to_onnx', wrong)
    message = fails(*trained[:2], '--shape', '64', '--check')
    assert 'RuntimeError: ONNX Runtime lacks' in message
    assert 'boxes that predict finds' in message


def test_bad_arguments_are_named(trained, fails, tmp_path):
    config, weights, image = trained
    shape = ('--shape', 64)
    assert 'must end in .onnx, got a.pt' in fails(config, *shape, out='a.pt')
    assert 'required: --shape' in fails(config)
    assert 'must be at least 1, got 0' in fails(config, '--shape', 0)
    assert 'must be at least 1, got 0' in fails(config, *shape, '--ort-pad', 0)
    message = fails(config, '--shape', 32, '--dynamic')
    assert '--dynamic takes sides of 33 pixels and more' in message
    assert 'height and width, got 3 numbers' in fails(config, '--shape', 1, 2, 3)
    message = fails(config, '--shape', 64, 100)
    assert '64 100' in message and 'multiples of 32' in message
    assert "no config is named 'none.py'" in fails('none.py', *shape)
    assert 'none.pth' in fails(config, 'none.pth', *shape)
    assert '--image is for --check' in fails(config, *shape, '--image', image)
    missing = tmp_path / 'none.jpg'
    assert str(missing) in fails(config, *shape, '--check', '--image', missing)
    # of a config with other classes
    other = config_path('yolov3_ghostnetv2_320')
    assert 'is of another network' in fails(other, weights, *shape)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('model = dict(', 'SyntaxError: '),
        ('a = 1', "AttributeError: .* no attribute 'model'"),
        ("model = dict(type='Nope')", 'Nope is not in the .* registry'),
        (f"{DETECTOR}\nmodel['nope'] = 1", "TypeError: .* argument 'nope'"),
    ],
)
def test_bad_configs_are_named(fails, tmp_path, text, message):
    path = tmp_path / 'bad.py'
    path.write_text(text)
    assert re.search(message, fails(path, '--shape', 64))


def test_where_nothing_can_be_written(tool, trained, tmp_path, monkeypatch):
    """It is known before the work, and a folder is not written into by --force."""
    monkeypatch.setattr(tool, 'to_onnx', None)
    (tmp_path / 'file').touch()
    (tmp_path / 'folder.onnx').mkdir()
    for name, message in {
        'file/a.onnx': 'Error: .*file',
        'folder.onnx': 'folder.onnx is a folder',
    }.items():
        out = ['--out', str(tmp_path / name), '--force']
        with pytest.raises(SystemExit, match=message):
            tool.main([*trained[:2], '--shape', '64', *out])
    assert not list((tmp_path / 'folder.onnx').iterdir())


def test_errors_of_the_runtime_are_named(tool, trained, fails, monkeypatch):
    """ONNX Runtime's are of types of its own."""
    monkeypatch.setattr(
        tool, 'to_onnx', lambda network, shape, path, dynamic: path.write_text('none')
    )
    message = fails(*trained[:2], '--shape', '64', '--check')
    assert 'InvalidProtobuf: ' in message and '\n' not in message.strip()


def test_models_that_cannot_be_exported_are_named(fails):
    name = config_path('mask-rcnn_ghostnetv2_fpn_coco')
    assert 'detectors of two stages' in fails(name, '--shape', 64)


def test_missing_runtime_is_named(tool, trained, fails, monkeypatch):
    def missing(runtime):
        raise ImportError(f'runtime {runtime!r} is not installed: pip install it')

    monkeypatch.setattr(tool, 'check_runtime', missing)
    assert 'pip install it' in fails(*trained[:2], '--shape', 64)
