"""The Triton kernels against plain operators; without a GPU they are interpreted."""

import os
import subprocess
import sys
from copy import deepcopy

import pytest
import torch

from mmghostnetv2.acceleration import accelerate, restore
from mmghostnetv2.acceleration.accelerate import FusedGhostModule
from mmghostnetv2.models import DFCAttention, GhostModule, GhostNetV2, fold_norms
from tests.test_models.conftest import randomise

pytest.importorskip('triton', reason='compiles the kernels')

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def test_in_a_process_of_its_own():
    """Triton interprets from its import on, which other tests may have done."""
    if DEVICE == 'cuda' or 'TRITON_INTERPRET' in os.environ:
        pytest.skip('the tests below run by themselves')
    subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-n0', __file__],
        env=os.environ | {'TRITON_INTERPRET': '1', 'PYTHONWARNINGS': 'ignore'},
        check=True,
    )


NEEDS = pytest.mark.skipif(
    DEVICE == 'cpu' and 'TRITON_INTERPRET' not in os.environ,
    reason='runs in a process of its own, or on a GPU',
)


def make(size, out_channels, layout=torch.contiguous_format, dilation=1):
    """Return a plain module, the fused one of the same weights, and an input."""
    torch.manual_seed(0)
    plain = GhostModule(4, out_channels, dilation, attention=DFCAttention)
    plain = randomise(plain).eval().to(DEVICE)
    fused = deepcopy(plain)
    fused.__class__ = FusedGhostModule
    x = torch.randn(2, 4, *size).to(DEVICE, memory_format=layout)
    return plain, fused, x


@pytest.fixture
def on_cpu(monkeypatch):
    """Take the interpreted kernels on the CPU."""
    if DEVICE == 'cpu':
        monkeypatch.setattr(FusedGhostModule, 'is_fusable', lambda self, x: True)


CASES = [
    ((8, 8), 6, 1),
    ((7, 10), 7, 2),
    ((9, 6), 4, 1),
    ((1, 5), 6, 1),
    ((1, 1), 6, 1),
]


@NEEDS
@pytest.mark.parametrize('layout', LAYOUTS, ids=['nchw', 'nhwc'])
@pytest.mark.parametrize(('size', 'channels', 'dilation'), CASES)
@torch.no_grad()
def test_inference(on_cpu, size, channels, dilation, layout):
    """Of networks that are folded, that are not, and that have lost their norms."""
    plain, fused, x = make(size, channels, layout, dilation)
    for change in (lambda module: module, fold_norms):
        expected = change(deepcopy(plain))(x)
        out = change(deepcopy(fused))(x)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    for module in (plain, fused):
        for i in (1, 3, 5):
            module.short_conv[i] = torch.nn.Identity()
    torch.testing.assert_close(fused(x), plain(x), rtol=1e-4, atol=1e-5)


@NEEDS
@pytest.mark.parametrize('layout', LAYOUTS, ids=['nchw', 'nhwc'])
@pytest.mark.parametrize(('size', 'channels', 'dilation'), CASES)
def test_gradients(on_cpu, size, channels, dilation, layout):
    *modules, x = make(size, channels, layout, dilation)
    grads = []
    for module in modules:
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        out = module(leaf)
        weights = torch.arange(out.numel(), device=DEVICE).view(out.shape).sin()
        (out * weights).sum().backward()
        grads.append([out, leaf.grad, *(p.grad for p in module.parameters())])
    for value, expected in zip(*reversed(grads), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


@NEEDS
def test_features_that_do_not_fit_are_refused():
    from mmghostnetv2.acceleration.gate_kernels import fused_gate

    z, first = torch.ones(2, 6, 4, 4, device=DEVICE), torch.ones(2, 3, 8, 8)
    for shape in [(2, 2, 8, 8), (2, 3, 9, 16), (1, 3, 8, 8)]:
        with pytest.raises(ValueError, match='do not fit a gate'):
            fused_gate(z, first.to(DEVICE), torch.ones(shape, device=DEVICE))


def test_without_a_working_gpu():
    if DEVICE == 'cuda':
        pytest.skip('needs a machine without a GPU')
    network = GhostNetV2(out_indices=(3,))
    with pytest.raises(RuntimeError, match='kernels of DFC attention do not work here'):
        accelerate(network)
    assert not any(isinstance(m, FusedGhostModule) for m in network.modules())


@pytest.mark.parametrize(
    'options',
    [
        dict(scaling='clip'),
        dict(scaling_position='after'),
        dict(up_sampling='bilinear'),
        dict(enhance='both'),
        dict(with_cp='attention'),
    ],
    ids=str,
)
def test_swap_and_restore(options, monkeypatch):
    """The state dict stays; where the kernels do not apply, outputs are bit-equal."""
    module = sys.modules[accelerate.__module__]
    monkeypatch.setattr(module, 'require_kernels', lambda: None)
    torch.manual_seed(0)
    network = GhostNetV2(out_indices=(3,), **options).eval()
    x = torch.rand(1, 3, 32, 32)
    keys, expected = list(network.state_dict()), network(x)[0]
    accelerate(network)
    swapped = [m for m in network.modules() if isinstance(m, FusedGhostModule)]
    assert bool(swapped) == (options != dict(with_cp='attention'))
    assert list(network.state_dict()) == keys
    assert torch.equal(network(x)[0], expected)
    restore(network)
    assert not any(isinstance(m, FusedGhostModule) for m in network.modules())
