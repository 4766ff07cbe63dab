"""The runtimes: their files, their outputs beside torch's, and what they refuse."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmghostnetv2.deployment import runtimes
from mmghostnetv2.deployment.runtimes import (
    RUNTIMES,
    check_runtime,
    find_runtime,
    flatten,
    require_equal,
)
from mmghostnetv2.models import DFCAttention

from ..conftest import ROOT
from ..test_tools.conftest import load_tool
from .conftest import load, needs

SHAPE = (1, 4, 11, 14)
RUNNING = [name for name, runtime in RUNTIMES.items() if runtime.runs]


class Small(nn.Module):
    """Outputs of different ranks in a list, odd features, and a gate to up-sample."""

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


def compute(network, x):
    with torch.no_grad():
        return flatten(network(x))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """The folder of the files of all runtimes."""
    return tmp_path_factory.mktemp('files')


@pytest.fixture(scope='module')
def converted(network, images, folder):
    """Convert the network once for each runtime: ``converted(runtime)``."""
    made = {}

    def convert(runtime):
        needs(runtime)
        if runtime not in made:
            made[runtime] = RUNTIMES[runtime].convert(
                network, images[0], folder / 'a.b'
            )
        return made[runtime]

    return convert


@pytest.mark.parametrize('runtime', RUNNING)
def test_outputs_are_torchs(converted, network, images, runtime):
    """For other images than those of the conversion; a later run changes no result."""
    session = RUNTIMES[runtime].open(converted(runtime), 1)
    # the second one lies in memory as pictures do
    arrays = images[0].numpy(), images[1].to(memory_format=torch.channels_last).numpy()
    first, second = map(session, arrays)
    for outputs, x in ((second, images[1]), (first, images[0])):
        expected = compute(network, x)
        assert [a.ndim for a in outputs] == [4, 2, 3]
        for ours, theirs in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize('runtime', RUNTIMES)
def test_files_have_the_suffixes_of_the_record(converted, folder, runtime):
    """Runtimes share a folder, although OpenVINO and ncnn both write NAME.bin."""
    record, model = RUNTIMES[runtime], converted(runtime)
    if record.write is None:
        assert isinstance(model, nn.Module) and not record.suffix
        return
    assert find_runtime(model) is record and model.parent == folder
    files = {path.suffix for path in folder.glob(f'a.b.{runtime}.*')}
    assert files == {record.suffix, *record.companions}


def test_core_ml_has_the_shapes_of_torch(converted, network, images):
    """Its predictions need macOS."""
    from mmghostnetv2.deployment.runtimes.coreml import interface

    expected = [SHAPE, *(x.shape for x in compute(network, images[0]))]
    assert [shape for _, shape in interface(converted('coreml'))] == expected
    with pytest.raises(NotImplementedError, match='macOS'):
        RUNTIMES['coreml'].open(converted('coreml'), 1)


def test_threads_of_executorch(converted, network, images):
    """All programs of a process share one number; another one is refused, unharmed."""
    path, expected = converted('executorch'), compute(network, images[0])
    first = RUNTIMES['executorch'].open(path, 1)
    with pytest.raises(RuntimeError, match=r'1 thread\(s\).*cannot change to 2'):
        RUNTIMES['executorch'].open(path, 2)
    second = RUNTIMES['executorch'].open(path, 1)
    for session in (second, first):
        outputs = session(images[0].numpy())
        require_equal(outputs, expected, 1e-5, 'ExecuTorch')


def test_ncnn_takes_one_image(converted, images):
    session = RUNTIMES['ncnn'].open(converted('ncnn'), 1)
    with pytest.raises(ValueError, match='one image at a time, got 2'):
        session(images[:, 0].numpy())


def test_ncnn_without_weights(converted, tmp_path):
    path = tmp_path / 'a.param'
    path.write_bytes(converted('ncnn').read_bytes())
    with pytest.raises(RuntimeError, match='ncnn cannot read a.param'):
        RUNTIMES['ncnn'].open(path, 1)


class Unknown(nn.Module):
    """Has an operation that no format knows."""

    def forward(self, x):
        return torch.linalg.eigvals(x)


@pytest.mark.parametrize('runtime', ['onnxruntime', 'ncnn', 'executorch', 'coreml'])
def test_what_cannot_be_converted(tmp_path, runtime):
    needs(runtime)
    with pytest.raises(RuntimeError, match='cannot'):
        RUNTIMES[runtime].convert(Unknown(), torch.rand(1, 1, 4, 4), tmp_path / 'a')


@pytest.mark.parametrize('runtime', ['ncnn', 'coreml'])
def test_half_of_the_size(tmp_path, runtime):
    needs(runtime)
    network, images = nn.Conv2d(4, 128, 5).eval(), torch.rand(SHAPE)
    path = RUNTIMES[runtime].convert(network, images, tmp_path / 'a')

    def size():
        files = (p for p in tmp_path.rglob('*') if p.suffix == '.bin')
        return sum(p.stat().st_size for p in files)

    before = size()
    RUNTIMES[runtime].compress['half'](network, images, path, True)
    assert size() < 0.7 * before


# ---- precisions other than float32


def errors_of(runtime, network, x, path):
    """Convert a network; return the function ``error(precision)``, a relative error."""
    path, (expected,) = RUNTIMES[runtime].convert(network, x, path), compute(network, x)

    def error(*precision):
        (output,) = RUNTIMES[runtime].open(path, 1, *precision)(x.numpy())
        return np.abs(output - expected).max() / np.abs(expected).max()

    return error


@pytest.fixture
def linear():
    torch.manual_seed(0)
    layers = nn.Conv2d(4, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 9 * 12, 10)
    return nn.Sequential(*layers).eval()


def test_precisions_of_ncnn(linear, images, tmp_path, monkeypatch):
    """All CPUs have bf16; on x86 CPUs only linear layers become f16."""
    needs('ncnn')
    import ncnn

    error = errors_of('ncnn', linear, images[0], tmp_path / 'a')
    assert error() < 1e-6 < 1e-3 < error('bf16') < 0.05
    if not (ncnn.cpu_support_arm_asimdhp() or ncnn.cpu_support_x86_avx2()):
        pytest.skip('ncnn has no f16 on this CPU')
    assert 1e-6 < error('f16') < 1e-2
    monkeypatch.setattr(ncnn, 'cpu_support_arm_asimdhp', lambda: 0)
    error_of_convolution = errors_of('ncnn', linear[:2], images[0], tmp_path / 'b')
    for avx2, error_in, said in [
        (1, error_of_convolution, 'has F16C, and the file has no linear layer'),
        (0, error, 'has neither, and the file has linear layers'),
    ]:
        monkeypatch.setattr(ncnn, 'cpu_support_x86_avx2', lambda value=avx2: value)
        with pytest.raises(ValueError, match=f'ncnn cannot .* in f16 .* CPU {said}'):
            error_in('f16')


def test_precisions_of_openvino(linear, images, tmp_path, monkeypatch):
    """A CPU that lacks one is named; OpenVINO would compute in float32."""
    needs('openvino')
    import openvino

    error, hints = errors_of('openvino', linear, images[0], tmp_path / 'a'), []
    compiles = openvino.Core.compile_model

    def compile_model(core, path, device, options):
        hints.append(options['INFERENCE_PRECISION_HINT'])
        return compiles(core, path, device, options)

    monkeypatch.setattr(openvino.Core, 'compile_model', compile_model)
    for known, precision in (['FP32'], 'bf16'), (['FP32', 'BF16'], 'f16'):
        monkeypatch.setattr(openvino.Core, 'get_property', lambda *args, x=known: x)
        said = f'OpenVINO has no {precision} on this CPU, only {", ".join(known)}$'
        with pytest.raises(ValueError, match=said):
            error(precision)
    # The CPU of this test may lack bf16 in truth, so the results may be of float32.
    assert error() < 1e-6 and error('bf16') < 0.05
    assert hints == ['f32', 'bf16']


# ---- LiteRT, whose conversion runs in another environment


def test_the_environment_is_where_make_litert_builds_it(monkeypatch, tmp_path):
    setup_env = load_tool(ROOT / 'tools' / 'setup_env.py')
    monkeypatch.delenv('MMGHOSTNETV2_CACHE', raising=False)
    for name in ('XDG_CACHE_HOME', 'MMGHOSTNETV2_CACHE'):
        monkeypatch.setenv(name, str(tmp_path / name))
        python = setup_env.cache() / 'litert' / 'bin' / 'python'
        with pytest.raises(ImportError, match=f'{python.parents[1]}: make litert'):
            RUNTIMES['litert'].check()
        python.parent.mkdir(parents=True)
        python.touch()
        assert RUNTIMES['litert'].check() == python


def test_a_failed_conversion_says_why(monkeypatch, tmp_path, network, images):
    """The last line of the other environment; nothing is left."""
    cache = tmp_path / 'cache'
    python = cache / 'litert' / 'bin' / 'python'
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho much before >&2\necho no such thing >&2\nexit 1')
    python.chmod(0o755)
    monkeypatch.setenv('MMGHOSTNETV2_CACHE', str(cache))
    with pytest.raises(RuntimeError, match='cannot convert .*: no such thing$'):
        RUNTIMES['litert'].convert(network, images[0], tmp_path / 'a')
    assert [path.name for path in tmp_path.iterdir()] == ['cache']


class Gates(nn.Module):
    """Gates of odd and even sides, where a shift by one pixel would be an error."""

    def __init__(self):
        super().__init__()
        self.gate = DFCAttention(4)

    def forward(self, x):
        sides = (8, 8), (9, 12), (13, 7), (2, 3)
        gates = [self.gate(x[..., :height, :width]) for height, width in sides]
        return [*gates, F.interpolate(x, size=(31, 25))]


def test_nearest_up_sampling_is_exact_in_litert(tmp_path):
    needs('litert')
    torch.manual_seed(0)
    gates, x = Gates().eval(), torch.rand(1, 4, 13, 12)
    model = RUNTIMES['litert'].convert(gates, x, tmp_path / 'gates')
    outputs = RUNTIMES['litert'].open(model, 1)(x.numpy())
    require_equal(outputs, compute(gates, x), 1e-6, 'LiteRT')


@pytest.mark.parametrize('runtime', ['litert', 'executorch'])
def test_int8(tmp_path, images, runtime):
    """A quarter of the weights, and errors that float32 does not have."""
    needs(runtime)
    record = RUNTIMES[runtime]
    wide = nn.Sequential(nn.Conv2d(4, 256, 3), nn.ReLU(), nn.Conv2d(256, 64, 3)).eval()
    path = record.convert(wide, images[0], tmp_path / 'a')
    sizes, errors = [], []
    for int8 in (False, True):
        if int8:
            batches = torch.rand(8, *SHAPE)
            record.compress['int8'](wide, images[0], path, batches)
        (output,) = record.open(path, 1)(images[0].numpy())
        (expected,) = compute(wide, images[0])
        sizes.append(path.stat().st_size)
        errors.append(np.abs(output - expected).max() / np.abs(expected).max())
    assert sizes[1] < 0.3 * sizes[0]
    assert errors[0] < 1e-5 < errors[1] < 0.3


# ---- what is equal and what is refused


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
    for name, record in RUNTIMES.items():
        if not record.modules:
            check_runtime(name)
            continue
        packages = ' '.join(record.modules).replace('_', '-')
        with pytest.raises(ImportError, match=f'pip install {packages}$'):
            check_runtime(name)


def test_check_litert(monkeypatch, tmp_path):
    """Its modules alone are not enough."""
    monkeypatch.setattr(runtimes, 'find_spec', lambda name: True)
    monkeypatch.setenv('MMGHOSTNETV2_CACHE', str(tmp_path))
    with pytest.raises(ImportError, match='make litert builds it'):
        check_runtime('litert')


def test_suffixes_choose_the_runtime():
    assert find_runtime(Path('a.b.ONNX')) is RUNTIMES['onnxruntime']
    with pytest.raises(ValueError, match=r'a.pt is of .* ends in .onnx, .*.pte'):
        find_runtime(Path('a.pt'))


@pytest.mark.parametrize('runtime', RUNTIMES)
def test_modules_are_declared_as_extras(runtime):
    """Every package that a runtime needs is one that setup.py offers."""
    text = (ROOT / 'setup.py').read_text()
    for module in RUNTIMES[runtime].modules:
        assert f"'{module.replace('_', '-')}'" in text


def test_records_are_read_by_run_and_docs():
    """run.py is copied alone, so it has openers of its own."""
    text = (ROOT / 'docs' / 'deployment.md').read_text()
    suffixes = [r.suffix for r in RUNTIMES.values() if r.suffix]
    assert all(f'`{suffix}`' in text for suffix in suffixes)
    runs = {r.suffix for r in RUNTIMES.values() if r.suffix and r.runs}
    tool = load('run')
    assert {*tool.RUNTIMES} == runs
    others = {r.suffix for r in RUNTIMES.values() if r.precisions != ('f32',)}
    assert {*tool.PRECISE} == others
