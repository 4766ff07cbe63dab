"""Compilers, exporters and torch.func take the networks as they are."""

import warnings

import pytest
import torch
from torch.export import Dim, export
from torchvision.models.feature_extraction import create_feature_extractor

from mmghostnetv2.models import (
    CBAM,
    CoordinateAttention,
    DFCAttention,
    GhostBottleneck,
    GhostModule,
    GhostNet,
    GhostNetSelfAttention,
    GhostNetV2,
    GhostNetV3,
    SelfAttention,
    SqueezeExcite,
)

from .test_models.conftest import randomise
from .test_models.test_ablations import OPTIONS

# The first stages have every kind of block and, but for DFC attention in the stages 2
# and 3 of Table 7 alone, every ablation.
NETWORKS = {
    'V1': (GhostNet, dict(out_indices=(2,))),
    'V2': (GhostNetV2, dict(out_indices=(2,))),
    'V3': (GhostNetV3, dict(out_indices=(2,))),
    'self-attention': (GhostNetSelfAttention, dict(out_indices=(4,))),
    **{
        name: (GhostNetV2, dict(out_indices=(2,), **options))
        for name, options in OPTIONS.items()
        if name not in ('table7-2', 'table7-3')
    },
}
WHOLE = [GhostNet, GhostNetV2, GhostNetV3, GhostNetSelfAttention]
SIZE = 64, 96
OTHER_SIZES = [(1, 3, 65, 97), (3, 3, 96, 70)]


def build(name):
    cls, kwargs = NETWORKS[name]
    torch.manual_seed(0)
    return randomise(cls(**kwargs)).eval()


@pytest.fixture(params=NETWORKS)
def network(request):
    return build(request.param)


@pytest.fixture(params=WHOLE)
def whole_network(request):
    torch.manual_seed(0)
    return randomise(request.param()).eval()


@torch.no_grad()
def assert_same_outputs(function, network, shape=(2, 3, 65, 97)):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for out, expected in zip(function(x), network(x), strict=True):
        largest = expected.abs().max().item()
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-5 * largest)


def test_symbolic_trace(network):
    assert_same_outputs(torch.fx.symbolic_trace(network), network)


def test_symbolic_trace_of_whole_networks(whole_network):
    assert_same_outputs(torch.fx.symbolic_trace(whole_network), whole_network)


def test_trace_runs_at_another_size(network):
    with warnings.catch_warnings():
        # It warns of conditions on sizes, which hold for all sizes above some pixels.
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        warnings.simplefilter('ignore', DeprecationWarning)
        traced = torch.jit.trace(network, torch.rand(1, 3, *SIZE))
    for shape in [(1, 3, *SIZE), *OTHER_SIZES]:
        assert_same_outputs(traced, network, shape)


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_script(network):
    """Every block and module; of a network TorchScript cannot type the outputs."""
    own = [
        module
        for module in network.modules()
        if type(module).__module__.startswith('mmghostnetv2.') and module is not network
    ]
    for cls in GhostBottleneck, GhostModule:
        assert any(isinstance(module, cls) for module in own)
    for block in (m for m in own if isinstance(m, GhostBottleneck)):
        convs = (m for m in block.modules() if isinstance(m, torch.nn.Conv2d))
        channels = next(convs).in_channels
        x = torch.rand(1, channels, 9, 12)
        with torch.no_grad():
            torch.testing.assert_close(torch.jit.script(block)(x), block(x))


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.parametrize(
    'layer',
    [DFCAttention(8), SelfAttention(8), SqueezeExcite(8, 0.5), CBAM(8)]
    + [CoordinateAttention(8)],
    ids=lambda layer: type(layer).__name__,
)
def test_script_of_layers(layer):
    x = torch.rand(2, 8, 6, 5)
    layer = randomise(layer).eval()
    torch.testing.assert_close(torch.jit.script(layer)(x), layer(x))


def test_export(network):
    program = export(network, (torch.rand(2, 3, 65, 97),))
    assert_same_outputs(program.module(), network)


def test_export_of_free_sizes(network):
    """Also of the batch, which may be one; features must not shrink to one pixel."""
    free = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    program = export(network, (torch.rand(2, 3, *SIZE),), dynamic_shapes=(free,))
    for shape in OTHER_SIZES:
        assert_same_outputs(program.module(), network, shape)


def test_export_of_a_range_of_sizes():
    """Of the whole network, which is guaranteed to take every size of the range."""
    network = randomise(GhostNetV2()).eval()
    free = {0: Dim('batch'), 2: Dim('height', min=97), 3: Dim('width', min=97)}
    program = export(network, (torch.rand(2, 3, 128, 160),), dynamic_shapes=(free,))
    assert_same_outputs(program.module(), network, (1, 3, 97, 100))


def test_onnx_by_dynamo(network, tmp_path):
    for package in ('onnx', 'onnxscript', 'onnxruntime'):
        pytest.importorskip(package, reason='writes and runs the file')
    import onnxruntime

    shape, path = (1, 3, 65, 97), tmp_path / 'network.onnx'
    program = torch.onnx.export(network, (torch.rand(shape),), dynamo=True)
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    name = session.get_inputs()[0].name

    def run(x):
        return [torch.from_numpy(out) for out in session.run(None, {name: x.numpy()})]

    assert_same_outputs(run, network, shape)


@torch.no_grad()
def test_feature_extractor(whole_network):
    """torchvision's, which finds a layer in the middle by its name."""
    name = 'blocks.5.0.ghost1'
    extractor = create_feature_extractor(whole_network, {name: 'out'})
    found = []
    module = whole_network.get_submodule(name)
    module.register_forward_hook(lambda *args: found.append(args[-1]))
    x = torch.rand(1, 3, 64, 96)
    whole_network(x)
    torch.testing.assert_close(extractor(x)['out'], found[0])


def test_functional_gradients(network):
    """torch.func.grad equals autograd."""
    x = torch.randn(1, 3, 32, 32)
    parameters = dict(network.named_parameters())

    def loss(values):
        (*_, out) = torch.func.functional_call(network, values, (x,))
        return out.square().mean()

    gradients = torch.func.grad(loss)(parameters)
    expected = torch.autograd.grad(loss(parameters), [*parameters.values()])
    for name, value in zip(parameters, expected, strict=True):
        torch.testing.assert_close(gradients[name], value, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_vmap(network):
    """Over batches; the outputs are those of one batch after the other."""
    x = torch.randn(3, 2, 3, 32, 32)
    (*_, out) = torch.func.vmap(network)(x)
    expected = torch.stack([network(batch)[-1] for batch in x])
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', NETWORKS)
def test_compile(name):
    """In one graph, forward and backward; the basic networks in train mode."""
    network = build(name).train(name in ('V1', 'V2', 'self-attention'))
    torch.compiler.reset()
    compiled = torch.compile(network, fullgraph=True, backend='aot_eager')
    x = torch.rand(2, 3, 32, 32)
    results = []
    for run in (network, compiled):
        loss = run(x)[0].square().mean()
        gradients = torch.autograd.grad(loss, [*network.parameters()])
        results.append([loss, *gradients])
    for value, expected in zip(*reversed(results), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-5)


def test_gradients_of_gradients():
    """Of a whole block, against finite differences in double precision."""
    torch.manual_seed(0)
    block = GhostBottleneck(4, 8, 4, se_ratio=0.25, attention=DFCAttention)
    block = randomise(block).double().eval()
    x = torch.randn(1, 4, 4, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradgradcheck(block, x)
