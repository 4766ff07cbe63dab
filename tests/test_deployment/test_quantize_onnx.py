"""quantize_onnx.py: what becomes integers, and what it refuses."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mmghostnetv2.deployment.calibration import find_pictures, read_calibration
from mmghostnetv2.deployment.check import sample_pixels
from mmghostnetv2.deployment.networks import PixelFormat
from mmghostnetv2.deployment.runtimes import RUNTIMES

from .conftest import load

onnx = pytest.importorskip('onnx', reason='reads the files')
pytest.importorskip('onnxruntime', reason='quantises')
pytest.importorskip('onnxscript', reason='exports')


class Network(nn.Module):
    """Two convolutions, a gate between them, and a decoding after them."""

    output_names = ('boxes',)

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 64, 3, padding=1)
        self.second = nn.Conv2d(64, 64, 3, padding=1)
        self.third = nn.Conv2d(64, 4, 1)

    def forward(self, x):
        x = self.first(x).relu()
        x = self.second(x * x.mean((2, 3), keepdim=True).sigmoid()).relu()
        return self.third(x).exp() + 100


META = dict(
    task='detection',
    output='dense',
    input=dict(
        shape=[1, 3, 24, 32],
        preprocess=False,
        rgb=False,
        mean=[100.0, 110.0, 120.0],
        std=[50.0, 60.0, 70.0],
    ),
)


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """A small network and its file."""
    torch.manual_seed(0)
    network = Network().eval()
    path = tmp_path_factory.mktemp('network') / 'model.onnx'
    RUNTIMES['onnxruntime'].write(network, torch.rand(META['input']['shape']), path)
    return network, path


@pytest.fixture
def exported(written, tmp_path):
    """A network, a copy of its file with a description, and a folder of pictures."""
    network, source = written
    path = Path(shutil.copy(source, tmp_path))
    path.with_name('model.onnx.json').write_text(json.dumps(META))
    folder = tmp_path / 'pictures'
    folder.mkdir()
    for i in range(3):
        pixels = np.roll(sample_pixels((24, 32)), i * 7, 1)
        Image.fromarray(pixels).save(folder / f'{i}.png')
    return network, path, folder


def quantized_types(path):
    """Count the operators between QuantizeLinear and DequantizeLinear by type."""
    graph = onnx.load(path).graph
    makers = {name: node for node in graph.node for name in node.output}
    found = {}
    for node in graph.node:
        made = [makers[x].op_type for x in node.input if x in makers]
        if made and {*made} == {'DequantizeLinear'} and 'Linear' not in node.op_type:
            found[node.op_type] = found.get(node.op_type, 0) + 1
    return found


def test_all_but_the_last_layer_becomes_integers(exported, tmp_path, capsys):
    network, path, folder = exported
    out = tmp_path / 'new' / 'int8.onnx'
    load('quantize_onnx').main([str(path), str(folder), '--out', str(out)])
    assert quantized_types(out)['Conv'] == 2
    assert not quantized_types(path)
    assert 'wrote' in capsys.readouterr().out
    meta = json.loads(out.with_name('int8.onnx.json').read_text())
    assert meta == META | dict(int8=True)
    assert out.stat().st_size < 0.5 * path.stat().st_size
    pictures = find_pictures([folder])
    images = read_calibration(pictures, (24, 32), PixelFormat(False, *stats()))[0]
    with torch.no_grad():
        expected = network(images).numpy()
    for runtime in ('onnxruntime', 'openvino'):
        (output,) = RUNTIMES[runtime].open(out, 1)(images.numpy())
        spread = np.abs(expected - 100).max()
        # eight bits of values around 100 would be steps of 0.4
        assert 1e-6 < np.abs(output - expected).max() / spread < 0.2
        assert len(np.unique(output)) > 1000


def stats():
    return META['input']['mean'], META['input']['std']


def test_calibration_images(exported):
    """As the network takes them: the order of channels, and normalised."""
    _, _, folder = exported
    raw = read_calibration(find_pictures([folder]), (24, 32), None)
    assert raw.shape == (3, 1, 3, 24, 32) and raw.is_contiguous()
    first = np.asarray(Image.open(folder / '0.png')).transpose(2, 0, 1)
    assert np.array_equal(raw[0, 0], first)
    normal = read_calibration(
        [folder / '0.png'], (24, 32), PixelFormat(False, *stats())
    )
    blue = (first[2] - 100.0) / 50
    np.testing.assert_allclose(normal[0, 0, 0], blue, rtol=1e-6)
    two = find_pictures([folder, folder / '1.png'], number=2)
    assert two == [folder / '0.png', folder / '1.png']


@pytest.mark.parametrize(
    ('change', 'options', 'message'),
    [
        (lambda path, folder: path.unlink(), '', 'no such file: .*model.onnx; '),
        (
            lambda path, folder: path.with_name('model.onnx.json').unlink(),
            '',
            'no such file: .*model.onnx.json; export.py',
        ),
        (
            lambda path, folder: [p.unlink() for p in folder.iterdir()],
            '',
            'pictures has no pictures',
        ),
        (
            lambda path, folder: (folder / '1.png').write_text('none'),
            '',
            'cannot identify image file .*1.png',
        ),
        (
            lambda path, folder: folder.rename(folder.with_name('others')),
            '',
            'no such picture or folder: .*pictures',
        ),
        (lambda path, folder: path.write_text('none'), '', 'model.onnx: DecodeError'),
        (
            lambda path, folder: path.with_name('model.onnx.json').write_text('{'),
            '',
            'model.onnx.json is not a description of a model',
        ),
        (
            lambda path, folder: path.with_name('model.onnx.json').write_text('{}'),
            '',
            "model.onnx.json: KeyError: 'input'",
        ),
        (
            lambda path, folder: path.with_name('model.onnx.json').write_text(
                json.dumps(META | dict(int8=True))
            ),
            '',
            'model.onnx is quantised already',
        ),
        (
            lambda path, folder: path.with_name('out.onnx').touch(),
            '',
            'out.onnx exists; --force overwrites it',
        ),
        (None, '--out out.xml', 'must end in .onnx, got out.xml'),
    ],
    ids=['model', 'description', 'pictures', 'picture', 'folder', 'no model']
    + ['no json', 'no description', 'int8', 'out', 'suffix'],
)
def test_bad_arguments(exported, tmp_path, capsys, change, options, message):
    _, path, folder = exported
    if change:
        change(path, folder)
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises((Exception, SystemExit)) as caught:
        out = ['--out', str(tmp_path / 'out.onnx')]
        load('quantize_onnx').main([str(path), str(folder), *out, *options.split()])
    assert re.search(message, f'{caught.value} {capsys.readouterr().err}')
    assert sorted(tmp_path.rglob('*')) == before
