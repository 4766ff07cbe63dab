"""The kernels for GPUs, against plain operators; without a GPU, interpreted."""

import os
import subprocess
import sys
from copy import deepcopy

import pytest
import torch

from mmghostnetv2.models import DFCAttention, fold_norms
from mmghostnetv2.models import dfc_attention as module

from .conftest import randomise

pytest.importorskip('triton', reason='compiles the kernels')

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def test_in_a_process_of_its_own():
    """Triton interprets from its import on, which other tests may have done."""
    if DEVICE == 'cuda' or 'TRITON_INTERPRET' in os.environ:
        pytest.skip('the tests below run by themselves')
    subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', __file__],
        env=os.environ | {'TRITON_INTERPRET': '1', 'PYTHONWARNINGS': 'ignore'},
        check=True,
    )


NEEDS = pytest.mark.skipif(
    DEVICE == 'cpu' and 'TRITON_INTERPRET' not in os.environ,
    reason='runs in a process of its own, or on a GPU',
)


@pytest.fixture
def fused(monkeypatch):
    """A function that computes by the kernels, on the CPU, too."""
    from mmghostnetv2.models import fused_gate

    def compute(attention, x, features):
        monkeypatch.setattr(module, 'kernels', lambda: fused_gate)
        assert DEVICE == 'cpu' or attention._is_fusable(x, features)
        return attention._fused(x, features)

    return compute


@pytest.fixture
def plain(monkeypatch):
    """A function that computes by plain operators, on a GPU, too."""

    def compute(attention, x, features):
        monkeypatch.setattr(module, 'kernels', lambda: None)
        return attention(x, *features)

    return compute


def make(size, channels, layout, dilation=1):
    """Return attention of six channels, what it looks at, and features to gate."""
    torch.manual_seed(0)
    attention = randomise(DFCAttention(4, 6, dilation=dilation)).eval().to(DEVICE)
    x, *features = (
        torch.randn(2, number, *size).to(DEVICE, memory_format=layout)
        for number in (4, *channels)
    )
    return attention, x, features


CASES = [
    ((8, 8), (3, 3), 1),
    ((7, 10), (4, 2), 2),
    ((9, 6), (6,), 1),
    ((1, 5), (3, 3), 1),
    ((1, 1), (3, 3), 1),
]


@NEEDS
@pytest.mark.parametrize('layout', LAYOUTS, ids=['nchw', 'nhwc'])
@pytest.mark.parametrize(('size', 'channels', 'dilation'), CASES)
@torch.no_grad()
def test_inference(fused, plain, size, channels, dilation, layout):
    attention, x, features = make(size, channels, layout, dilation)
    expected = plain(attention, x, features)
    folded = fold_norms(deepcopy(attention))
    for network in (attention, folded):
        out = fused(network, x, features)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    assert fused(folded, x, [f.half() for f in features]).dtype == torch.float16


@NEEDS
@pytest.mark.parametrize('layout', LAYOUTS, ids=['nchw', 'nhwc'])
@pytest.mark.parametrize(('size', 'channels', 'dilation'), CASES)
def test_gradients(fused, plain, size, channels, dilation, layout):
    grads = []
    for compute in (plain, fused):
        attention, x, features = make(size, channels, layout, dilation)
        leaves = [tensor.requires_grad_() for tensor in (x, *features)]
        out = compute(attention, x, features)
        weights = torch.arange(out.numel(), device=DEVICE).view(out.shape).sin()
        (out * weights).sum().backward()
        leaves += [p for p in attention.parameters() if p.requires_grad]
        grads.append([out, *(leaf.grad for leaf in leaves)])
    for value, expected in zip(*reversed(grads), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


def test_plain_operators_without_triton(monkeypatch):
    """Neither its absence nor its failure, here for want of a GPU, is an error."""
    monkeypatch.setattr(module, 'find_spec', lambda name: None)
    assert module.kernels.__wrapped__() is None
    monkeypatch.undo()

    def fail(*args, **kwargs):
        raise RuntimeError('Failed to find C compiler')

    monkeypatch.setattr(torch, 'ones', fail)
    with pytest.warns(UserWarning, match='plain operators.*find C compiler'):
        assert module.kernels.__wrapped__() is None


def test_other_attentions_are_not_fused(monkeypatch):
    monkeypatch.setattr(module, 'kernels', lambda: module)

    class OnGpu:
        is_cuda = True
        dtype = torch.float16
        shape = torch.Size((1, 4, 8, 8))

    class Double(OnGpu):
        dtype = torch.float64

    class Tracer(OnGpu):
        pass

    class Large(OnGpu):
        shape = torch.Size((1, 4, 2**14, 2**14 + 1))

    x = OnGpu()
    monkeypatch.setattr(module, 'Tensor', OnGpu)
    for change in (
        dict(scaling='clip'),
        dict(scaling_position='after'),
        dict(up_sampling='bilinear'),
    ):
        assert not DFCAttention(4, **change)._is_fusable(x, [x])
    assert DFCAttention(4)._is_fusable(x, [x])
    for features in ([x] * 3, [x, Double()], [Large()]):
        assert not DFCAttention(4)._is_fusable(x, features)
    assert not DFCAttention(4)._is_fusable(Tracer(), [x])


@NEEDS
@pytest.mark.parametrize('shapes', [[(2, 5, 8, 8)], [(2, 6, 9, 16)], [(1, 6, 8, 8)]])
def test_features_that_do_not_fit_are_refused(fused, shapes):
    attention, x, _ = make((8, 8), (6,), torch.contiguous_format)
    with pytest.raises(ValueError, match='do not fit a gate'):
        fused(attention, x, [torch.ones(shape, device=DEVICE) for shape in shapes])


@NEEDS
@torch.no_grad()
def test_convolutions_without_biases(fused, plain):
    """Norms that were taken out, not folded."""
    attention, x, features = make((8, 8), (6,), torch.contiguous_format)
    for i in (1, 3, 5):
        attention[i] = torch.nn.Identity()
    out = fused(attention, x, features)
    torch.testing.assert_close(out, plain(attention, x, features))
