"""8 bits in ONNX Runtime and OpenVINO: what becomes integers, and what is refused."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mmghostnetv2.deployment.calibration import find_pictures, read_calibration
from mmghostnetv2.deployment.check import (
    library_predict,
    network_input,
    sample_pixels,
)
from mmghostnetv2.deployment.networks import PixelFormat
from mmghostnetv2.deployment.runtimes import RUNTIMES

from .conftest import SIDE, load, needs, read_pictures

onnx = pytest.importorskip('onnx', reason='reads the files')
pytest.importorskip('onnxruntime', reason='quantises')
pytest.importorskip('onnxscript', reason='exports')

PIXELS = PixelFormat(False, [100.0, 110.0, 120.0], [50.0, 60.0, 70.0])


class Network(nn.Module):
    """Two convolutions, a gate between them, and a decoding after them."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 64, 3, padding=1)
        self.second = nn.Conv2d(64, 64, 3, padding=1)
        self.third = nn.Conv2d(64, 4, 1)

    def forward(self, x):
        x = self.first(x).relu()
        x = self.second(x * x.mean((2, 3), keepdim=True).sigmoid()).relu()
        return self.third(x).exp() + 100


@pytest.fixture
def folder(tmp_path):
    """A folder of three pictures."""
    folder = tmp_path / 'pictures'
    folder.mkdir()
    for i in range(3):
        pixels = np.roll(sample_pixels((24, 32)), i * 7, 1)
        Image.fromarray(pixels).save(folder / f'{i}.png')
    return folder


def quantized_types(path):
    """Count the operators that take only integers, by type."""
    graph = onnx.load(path).graph
    makers = {name: node for node in graph.node for name in node.output}
    found = {}
    for node in graph.node:
        made = [makers[x].op_type for x in node.input if x in makers]
        if made and {*made} == {'DequantizeLinear'} and 'Linear' not in node.op_type:
            found[node.op_type] = found.get(node.op_type, 0) + 1
    return found


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network().eval()


@pytest.mark.parametrize('runtime', ['onnxruntime', 'openvino'])
def test_all_but_the_last_layer_becomes_integers(network, folder, tmp_path, runtime):
    needs(runtime)
    batches = read_calibration(find_pictures([folder]), (24, 32), PIXELS)
    images, record = batches[0], RUNTIMES[runtime]
    path = record.convert(network, images, tmp_path / 'a')
    size = sum(file.stat().st_size for file in tmp_path.glob('a.*'))
    record.compress['int8'](network, images, path, batches)
    assert sum(file.stat().st_size for file in tmp_path.glob('a.*')) < 0.5 * size
    if runtime == 'onnxruntime':
        assert quantized_types(path)['Conv'] == 2
    with torch.no_grad():
        expected = network(images).numpy()
    (output,) = record.open(path, 1)(images.numpy())
    spread = np.abs(expected - 100).max()
    # 8 bits of values around 100 would be steps of 0.4
    assert 1e-6 < np.abs(output - expected).max() / spread < 0.2
    assert len(np.unique(output)) > 1000


def quantize(trained, kind, pictures, out):
    """Export a model of a kind by the tool; it is quantised by these pictures."""
    args = [trained(kind) / 'a.py', trained(kind) / 'a.pth', '--shape', SIDE]
    args += ['--out', out, '--int8', *pictures]
    load('export').main([*map(str, args)])


def test_detector_in_onnx_runtime(exported, coco_mini, tmp_path):
    """With NMS and free sizes; the three layers that predict stay float32."""
    path = Path(shutil.copy(exported('detector') / 'a.onnx', tmp_path))
    convs = sum(node.op_type == 'Conv' for node in onnx.load(path).graph.node)
    batches = read_calibration(
        find_pictures([coco_mini / 'val2017'], 8), (SIDE, SIDE), None
    )
    RUNTIMES['onnxruntime'].compress['int8'](None, batches[0], path, batches)
    assert quantized_types(path)['Conv'] == convs - 3
    for size in ((SIDE, SIDE), (96, 64)):
        pixels = read_pictures(coco_mini, size, 1).transpose(0, 3, 1, 2)
        dets, labels = RUNTIMES['onnxruntime'].open(path, 1)(pixels.astype('f4'))
        assert dets.shape == (1, 100, 5) and (labels >= 0).sum() > 10
        assert (np.diff(dets[0, :, 4]) <= 0).all()


def test_segmentor_in_openvino(trained, coco_mini, tmp_path, capsys):
    needs('openvino')
    (pixels,) = read_pictures(coco_mini, (SIDE, SIDE), 1)
    out = tmp_path / 'a.xml'
    quantize(trained, 'segmentor', [coco_mini / 'val2017'], out)
    assert 'compressed by int8, and not compared again' in capsys.readouterr().out
    names = ['a.bin', 'a.xml', 'a.xml.json']
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    images = network_input(trained.models['segmentor'], pixels, False)
    (labels,) = RUNTIMES['openvino'].open(out, 1)(images)
    (expected,) = library_predict(trained.models['segmentor'], pixels)
    # eight bits change much of a network that was not trained
    assert 0.5 < np.mean(labels == expected) < 1


def test_calibration_images(folder):
    """As the network takes them: the order of channels, and normalised."""
    raw = read_calibration(find_pictures([folder]), (24, 32), None)
    assert raw.shape == (3, 1, 3, 24, 32) and raw.is_contiguous()
    first = np.asarray(Image.open(folder / '0.png')).transpose(2, 0, 1)
    assert np.array_equal(raw[0, 0], first)
    normal = read_calibration([folder / '0.png'], (24, 32), PIXELS)
    blue = (first[2] - 100.0) / 50
    np.testing.assert_allclose(normal[0, 0, 0], blue, rtol=1e-6)
    two = find_pictures([folder, folder / '1.png'], number=2)
    assert two == [folder / '0.png', folder / '1.png']


@pytest.mark.parametrize('suffix', ['onnx', 'xml'])
def test_wrong_pictures(trained, folder, tmp_path, suffix):
    """They are found before the export, and nothing is written."""
    (tmp_path / 'empty').mkdir()
    (folder / '1.png').write_text('none')
    before = sorted(tmp_path.rglob('*'))
    for pictures, message in {
        tmp_path / 'empty': 'empty has no pictures',
        folder: 'cannot identify image file .*1.png',
        tmp_path / 'none': 'no such picture or folder: .*none',
    }.items():
        with pytest.raises((OSError, ValueError), match=message):
            out = tmp_path / 'new' / f'a.{suffix}'
            quantize(trained, 'classifier', [pictures], out)
        assert sorted(tmp_path.rglob('*')) == before


def test_openvino_without_the_quantiser(network, tmp_path, monkeypatch):
    """The rest of OpenVINO works without ONNX Runtime."""
    needs('openvino')
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    batches = torch.rand(2, 1, 3, 24, 32)
    path = RUNTIMES['openvino'].convert(network, batches[0], tmp_path / 'a')
    with pytest.raises(ImportError, match='pip install onnxruntime$'):
        RUNTIMES['openvino'].compress['int8'](network, batches[0], path, batches)
