"""What runs networks: their files, their outputs beside torch's, what is refused."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mmghostnetv2.deployment import runtimes
from mmghostnetv2.deployment.runtimes import (
    RUNTIMES,
    check_runtime,
    flatten,
    quantize_litert,
    require_equal,
    to_litert,
)
from mmghostnetv2.models import DFCAttention

from ..conftest import ROOT
from ..test_tools.conftest import load_tool

SHAPE = (1, 4, 11, 14)
SUFFIXES = {
    'onnxruntime': {'.onnx'},
    'torch': set(),
    'compiled': set(),
    'openvino': {'.xml', '.bin'},
    'litert': {'.tflite'},
    'ncnn': {'.param', '.bin'},
}


class Small(nn.Module):
    """Outputs of different ranks, in a list; odd features; a gate, up-sampled."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.gate = DFCAttention(8)

    def forward(self, x):
        out = self.gate(self.norm(self.conv(x)))
        rows = out.flatten(2).transpose(1, 2)
        return out, [x.mean((2, 3)), rows.sigmoid()]


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    network = Small()
    for tensor in (*network.parameters(), network.norm.running_mean):
        nn.init.normal_(tensor, std=0.7)
    return network.eval()


@pytest.fixture(scope='module')
def images():
    return torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(1))


def needs(runtime):
    try:
        check_runtime(runtime)
    except ImportError as error:
        pytest.skip(str(error))


def compute(network, x):
    with torch.no_grad():
        return flatten(network(x))


@pytest.mark.parametrize('runtime', SUFFIXES)
def test_outputs_are_torchs(tmp_path, network, images, runtime):
    """For other images than those of the conversion; a later run changes no result."""
    needs(runtime)
    assert {*SUFFIXES} == {*RUNTIMES}
    convert, open_model, _ = RUNTIMES[runtime]
    model = convert(network, images[0], tmp_path / 'a.b')
    assert {path.suffix for path in tmp_path.iterdir()} == SUFFIXES[runtime]
    assert all(path.name.startswith('a.b.') for path in tmp_path.iterdir())
    session = open_model(model, 1)
    # the second one lies in memory as pictures do
    arrays = images[0].numpy(), images[1].to(memory_format=torch.channels_last).numpy()
    first, second = map(session, arrays)
    for outputs, x in ((second, images[1]), (first, images[0])):
        expected = compute(network, x)
        assert [a.ndim for a in outputs] == [4, 2, 3]
        for ours, theirs in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


def test_openvino_and_ncnn_share_a_folder(tmp_path, network, images):
    """Both have a file NAME.bin of weights."""
    for runtime in ('openvino', 'ncnn'):
        needs(runtime)
    models = {
        runtime: RUNTIMES[runtime].convert(network, images[0], tmp_path / 'a')
        for runtime in ('openvino', 'ncnn')
    }
    for runtime, model in models.items():
        outputs = RUNTIMES[runtime].open(model, 1)(images[0].numpy())
        require_equal(outputs, compute(network, images[0]), 1e-5, runtime)


def test_ncnn_takes_one_image(tmp_path, network, images):
    needs('ncnn')
    model = RUNTIMES['ncnn'].convert(network, images[0], tmp_path / 'a')
    session = RUNTIMES['ncnn'].open(model, 1)
    with pytest.raises(ValueError, match='one image at a time, got 2'):
        session(images[:, 0].numpy())


def test_ncnn_without_weights(tmp_path, network, images):
    needs('ncnn')
    model = RUNTIMES['ncnn'].convert(network, images[0], tmp_path / 'a')
    model.with_suffix('.bin').unlink()
    with pytest.raises(RuntimeError, match='ncnn cannot read .*a.ncnn.param'):
        RUNTIMES['ncnn'].open(model, 1)


def test_what_pnnx_cannot_convert(tmp_path):
    needs('ncnn')
    source = tmp_path / 'broken.onnx'
    source.write_bytes(b'no model')
    with pytest.raises(RuntimeError, match='pnnx cannot convert .*broken.onnx'):
        runtimes.onnx_to_ncnn(source, tmp_path / 'a.param')
    assert [path.name for path in tmp_path.iterdir()] == ['broken.onnx']


def test_ncnn_weights_of_half_the_size(tmp_path, network, images):
    needs('ncnn')
    source = RUNTIMES['onnxruntime'].convert(network, images[0], tmp_path / 'a')
    sizes = []
    for half in (False, True):
        path = tmp_path / f'{half}.param'
        runtimes.onnx_to_ncnn(source, path, half)
        sizes.append(path.with_suffix('.bin').stat().st_size)
    assert sizes[1] < 0.7 * sizes[0]


# ---- LiteRT, whose conversion runs elsewhere


def test_the_environment_is_where_make_litert_builds_it(monkeypatch, tmp_path):
    setup_env = load_tool(ROOT / 'tools' / 'setup_env.py')
    monkeypatch.delenv('MMGHOSTNETV2_CACHE', raising=False)
    for name in ('XDG_CACHE_HOME', 'MMGHOSTNETV2_CACHE'):
        monkeypatch.setenv(name, str(tmp_path / name))
        python = setup_env.cache() / 'litert' / 'bin' / 'python'
        with pytest.raises(ImportError, match=f'{python.parents[1]}: make litert'):
            runtimes.litert_python()
        python.parent.mkdir(parents=True)
        python.touch()
        assert runtimes.litert_python() == python


def test_a_failed_conversion_says_why(monkeypatch, tmp_path, network, images):
    """What the other environment writes last; nothing is left."""
    monkeypatch.setattr(runtimes, 'litert_python', lambda: Path(sys.executable))
    worker = tmp_path / 'worker.py'
    worker.write_text("import sys\nsys.exit('much before\\nno such operator')\n")
    monkeypatch.setattr(Path, 'with_name', lambda self, name: worker)
    with pytest.raises(RuntimeError, match='cannot convert .*: no such operator$'):
        to_litert(network, images[0], tmp_path / 'a.tflite')
    assert [path.name for path in tmp_path.iterdir()] == ['worker.py']


class Gates(nn.Module):
    """Gates of odd and even sides, of which a shift by a pixel would be an error."""

    def __init__(self):
        super().__init__()
        self.gate = DFCAttention(4)

    def forward(self, x):
        sides = (8, 8), (9, 12), (13, 7), (2, 3)
        return [self.gate(x[..., :height, :width]) for height, width in sides]


def test_nearest_up_sampling_is_exact_in_litert(tmp_path):
    needs('litert')
    torch.manual_seed(0)
    gates, x = Gates().eval(), torch.rand(1, 4, 13, 12)
    model = RUNTIMES['litert'].convert(gates, x, tmp_path / 'gates')
    outputs = RUNTIMES['litert'].open(model, 1)(x.numpy())
    require_equal(outputs, compute(gates, x), 1e-6, 'LiteRT')


def test_int8_in_litert(tmp_path, images):
    """A quarter of the weights, and errors that float32 has not."""
    needs('litert')
    wide = nn.Sequential(nn.Conv2d(4, 256, 3), nn.ReLU(), nn.Conv2d(256, 64, 3)).eval()
    path = RUNTIMES['litert'].convert(wide, images[0], tmp_path / 'a')
    sizes, errors = [], []
    for int8 in (False, True):
        if int8:
            quantize_litert(path, torch.rand(8, *SHAPE))
        (output,) = RUNTIMES['litert'].open(path, 1)(images[0].numpy())
        (expected,) = compute(wide, images[0])
        sizes.append(path.stat().st_size)
        errors.append(np.abs(output - expected).max() / np.abs(expected).max())
    assert sizes[1] < 0.3 * sizes[0]
    assert errors[0] < 1e-5 < errors[1] < 0.3


# ---- what is equal, and what is refused


def test_flatten():
    a, b, c = (torch.full((1,), float(i)) for i in range(3))
    assert [x.item() for x in flatten([a, (b, [c])])] == [0, 1, 2]
    assert [x.shape for x in flatten(torch.zeros(2, 3))] == [(2, 3)]


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (
            lambda a, b: [a, b * 1.0002],
            'output 1 of it differs .* 2.0e-04 of its largest',
        ),
        (lambda a, b: [a * np.nan, b], 'output 0 of it differs'),
        (lambda a, b: [a], 'shapes'),
        (lambda a, b: [a[:, :1], b], r'it returns .*\(2, 1\).*, torch .*\(2, 3\)'),
        (lambda a, b: [a * 1.00005, b], None),
        (lambda a, b: [a, b + 0.0009], None),
    ],
)
def test_what_is_equal(change, said):
    """The largest value of an output counts; neither fewer nor broadcast ones."""
    expected = [np.ones((2, 3), 'f4'), np.array([-10, 0.1], 'f4')]
    outputs = change(*expected)
    if said is None:
        require_equal(outputs, expected, 1e-4, 'it')
    else:
        with pytest.raises(RuntimeError, match=said):
            require_equal(outputs, expected, 1e-4, 'it')


def test_an_output_of_no_elements_is_equal():
    empty = [np.zeros((1, 0, 4), 'f4')]
    require_equal(empty, empty, 1e-4, 'it')


def test_check_runtime(monkeypatch):
    with pytest.raises(ValueError, match="'onnxruntime', 'torch', .*, got 'tvm'"):
        check_runtime('tvm')
    monkeypatch.setattr(runtimes, 'find_spec', lambda name: None)
    check_runtime('torch')
    check_runtime('compiled')
    for runtime, packages in {
        'onnxruntime': 'onnx onnxruntime',
        'openvino': 'onnx openvino',
        'ncnn': 'onnx pnnx ncnn',
        'litert': 'ai-edge-litert',
    }.items():
        with pytest.raises(ImportError, match=f'pip install {packages}$'):
            check_runtime(runtime)


def test_check_litert(monkeypatch, tmp_path):
    """Its modules alone do not do."""
    monkeypatch.setattr(runtimes, 'find_spec', lambda name: True)
    monkeypatch.setenv('MMGHOSTNETV2_CACHE', str(tmp_path))
    with pytest.raises(ImportError, match='make litert builds it'):
        check_runtime('litert')


@pytest.mark.parametrize('runtime', RUNTIMES)
def test_modules_are_declared_as_extras(runtime):
    """Every package that a runtime asks for is one that setup.py offers."""
    text = (ROOT / 'setup.py').read_text()
    for module in RUNTIMES[runtime].modules:
        assert f"'{module.replace('_', '-')}'" in text
