"""What the backbones promise, whatever their weights."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmghostnetv2.models import GhostNet, GhostNetV2, GhostNetV3
from mmghostnetv2.models.ghost_module import GhostModule
from mmghostnetv2.models.squeeze_excite import make_divisible

from .conftest import randomise

EACH = pytest.mark.parametrize('cls', [GhostNet, GhostNetV2, GhostNetV3])
CHANNELS = (16, 24, 24, 40, 40, 80, 112, 160, 160, 960)
STRIDES = (2, 4, 4, 8, 8, 16, 16, 32, 32, 32)


# ---- outputs


@EACH
@pytest.mark.parametrize('output_stride', [8, 16, 32])
def test_every_stage(cls, output_stride, images):
    network = cls(out_indices=range(10), output_stride=output_stride).eval()
    assert network.out_channels == CHANNELS
    assert network.out_strides == tuple(min(s, output_stride) for s in STRIDES)
    outs = network(images(100, 75))
    assert isinstance(outs, tuple)
    for out, channels, stride in zip(outs, CHANNELS, network.out_strides, strict=True):
        assert out.shape == (2, channels, -(-100 // stride), -(-75 // stride))


@EACH
def test_negative_and_unsorted_indices(cls, images):
    torch.manual_seed(0)
    network = cls(out_indices=(-2, 4, 6))
    assert network.out_indices == (4, 6, 8)
    assert network.out_channels == (40, 112, 160)
    assert network.out_strides == (8, 16, 32)
    assert [o.shape[1] for o in network(images(64, 64))] == [40, 112, 160]


def test_single_output_is_a_tuple(images):
    outs = GhostNetV2()(images(32, 32))
    assert isinstance(outs, tuple) and len(outs) == 1
    assert outs[0].shape == (2, 960, 1, 1)


@EACH
def test_pretrained(cls):
    """The argument that mmseg's segmentors pass on is None or refused."""
    assert cls(pretrained=None).state_dict().keys() == cls().state_dict().keys()
    with pytest.raises(ValueError, match=r"resnet50.*init_cfg=dict\(type='Pretrained'"):
        cls(pretrained='open-mmlab://resnet50_v1c')


@EACH
def test_every_parameter_gets_a_gradient(cls, images):
    """Also with shallow taps: what no output needs is not built."""
    for out_indices in [(9,), (4, 6, 8), (2,)]:
        network = cls(out_indices=out_indices)
        outs = network(images(64, 64))
        sum(out.square().mean() for out in outs).backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


@EACH
@pytest.mark.parametrize(
    'size', [(1, 1), (1, 7), (2, 3), (5, 1), (31, 33), (64, 200)], ids=str
)
def test_any_size(cls, size, images):
    network = cls(out_indices=(0, 4, 9)).eval()
    for out, stride in zip(
        network(images(*size, batch=1)), network.out_strides, strict=True
    ):
        assert out.shape[-2:] == tuple(-(-s // stride) for s in size)
        assert torch.isfinite(out).all()


def test_in_channels():
    network = GhostNetV2(in_channels=1, out_indices=(0,))
    assert network(torch.rand(1, 1, 8, 8))[0].shape == (1, 16, 4, 4)


# ---- output stride


class PlainGhostNet(GhostNet):
    """Without squeeze-and-excitation, whose mean depends on the size."""

    arch_settings = tuple(
        tuple((k, mid, out, 0, s) for k, mid, out, _, s in stage)
        for stage in GhostNet.arch_settings
    )


@pytest.mark.parametrize('size', [(96, 96), (97, 131)], ids=str)
@pytest.mark.parametrize('output_stride', [8, 16])
def test_a_trous(output_stride, size, images):
    """Sub-sampled, dilated features are those of the strided network."""
    strided = randomise(PlainGhostNet(out_indices=range(10))).double().eval()
    dilated = PlainGhostNet(out_indices=range(10), output_stride=output_stride)
    dilated = dilated.double().eval()
    dilated.load_state_dict(strided.state_dict(), strict=True)
    batch = images(*size, batch=1).double()
    with torch.no_grad():
        outs = zip(
            strided(batch),
            dilated(batch),
            strided.out_strides,
            dilated.out_strides,
            strict=True,
        )
        for a, b, stride, less in outs:
            step = stride // less
            torch.testing.assert_close(b[..., ::step, ::step], a, rtol=0, atol=1e-11)


@EACH
def test_weights_fit_every_output_stride(cls):
    weights = cls(1.3).state_dict()
    for output_stride in (8, 16):
        other = cls(1.3, output_stride=output_stride)
        assert other.load_state_dict(weights, strict=True).missing_keys == []


def test_dfc_is_dilated():
    """With output stride 8 the attention reaches as far over the image as with 32."""
    blocks = GhostNetV2(output_stride=8).blocks
    dilations = {
        name: blocks[stage][block].ghost1.short_conv[2].dilation
        for name, stage, block in [('3', 3, 0), ('5', 5, 0), ('6', 6, 0), ('8', 8, 0)]
    }
    assert dilations == {'3': (1, 1), '5': (1, 1), '6': (2, 2), '8': (4, 4)}


# ---- DFC attention


def test_v1_has_no_attention_and_v2_has_it_from_the_third_block():
    def with_dfc(network):
        blocks = [block for stage in network.blocks[:-1] for block in stage]
        return [block.ghost1.short_conv is not None for block in blocks]

    assert with_dfc(GhostNet()) == [False] * 16
    assert with_dfc(GhostNetV2()) == [False] * 2 + [True] * 14


def test_odd_channels():
    module = GhostModule(4, 7)
    assert module(torch.rand(1, 4, 5, 5)).shape == (1, 7, 5, 5)


@pytest.mark.parametrize(
    ('value', 'expected'), [(16, 16), (17.6, 16), (26.4, 28), (1, 4), (4.5, 8)]
)
def test_make_divisible(value, expected):
    assert make_divisible(value) == expected


# ---- training


@EACH
@pytest.mark.parametrize('frozen_stages', [-1, 0, 3, 8])
def test_frozen_stages(cls, frozen_stages, images):
    network = cls(frozen_stages=frozen_stages)
    before = copy.deepcopy(network.state_dict())
    for _ in range(2):
        network.eval()
        network.train()
    network(images(128, 128))[0].square().sum().backward()
    torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1).step()
    frozen = []
    if frozen_stages >= 0:
        frozen = ['conv_stem.', 'bn1.']
        frozen += [f'blocks.{i}.' for i in range(frozen_stages + 1)]
    for key, value in network.state_dict().items():
        is_frozen = key.startswith(tuple(frozen))
        assert torch.equal(value, before[key]) == is_frozen, key
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad != name.startswith(tuple(frozen)), name


@EACH
def test_norm_eval(cls, images):
    network = cls(norm_eval=True)
    network.train()
    assert network.training
    assert not any(m.training for m in network.modules() if isinstance(m, _BatchNorm))
    before = network.bn1.running_mean.clone()
    network(images(32, 32))
    assert torch.equal(network.bn1.running_mean, before)
    network.norm_eval = False
    network.train()
    assert all(m.training for m in network.modules())


def pair(cls, with_cp=True, **kwargs):
    """A network that recomputes in the backward pass, and one that does not."""
    torch.manual_seed(0)
    plain = cls(**kwargs)
    recomputed = cls(with_cp=with_cp, **kwargs)
    recomputed.load_state_dict(plain.state_dict())
    return plain, recomputed


@pytest.mark.parametrize('frozen_stages', [-1, 2])
@pytest.mark.parametrize(
    ('cls', 'with_cp', 'share'),
    [
        (GhostNet, True, 0.4),
        (GhostNetV2, True, 0.4),
        (GhostNetV2, 'attention', 0.9),
        (GhostNetV3, 'attention', 0.95),
    ],
)
def test_with_cp(cls, with_cp, share, frozen_stages, images):
    """Same outputs, gradients and running statistics; less kept in memory."""
    options = dict(out_indices=(4, 9), frozen_stages=frozen_stages)
    plain, recomputed = pair(cls, with_cp, **options)
    kept = []
    for network in (plain, recomputed):
        network.train()
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, saved=saved: (saved.append(t.numel()), t)[1], lambda t: t
        ):
            outs = network(images(64, 64))
        kept.append(sum(saved))
        sum(out.square().mean() for out in outs).backward()
        network.outs = outs
    assert kept[1] < share * kept[0]
    for a, b in zip(recomputed.outs, plain.outs, strict=True):
        assert torch.equal(a, b)
    others = dict(plain.named_parameters())
    for name, parameter in recomputed.named_parameters():
        if others[name].grad is None:
            assert parameter.grad is None, name
        else:
            assert torch.equal(parameter.grad, others[name].grad), name
    for (name, a), b in zip(recomputed.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(a, b), name
    assert all(
        m.track_running_stats for m in recomputed.modules() if isinstance(m, _BatchNorm)
    )


def assert_same_training(plain, recomputed, images, compiled=False):
    """Take a step with blocks recomputed and without; all has to be the same."""
    results = []
    for network in (plain, recomputed):
        torch.manual_seed(1)
        run = network.train()
        if compiled:
            run = torch.compile(network, backend='aot_eager')
        run(images(64, 64))[0].square().mean().backward()
        grads = [p.grad for p in network.parameters() if p.requires_grad]
        results.append([*grads, *network.buffers()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


WITH_CP = pytest.mark.parametrize('with_cp', [True, 'attention'])


@WITH_CP
def test_with_cp_compiled(with_cp, images):
    networks = pair(GhostNetV2, with_cp, out_indices=(2,))
    assert_same_training(*networks, images, compiled=True)


@WITH_CP
def test_with_cp_and_random_activations(with_cp, images):
    options = dict(out_indices=(2,), act_cfg=dict(type='RReLU'))
    assert_same_training(*pair(GhostNetV2, with_cp, **options), images)


def test_with_cp_as_a_number():
    assert GhostNet(with_cp=1).with_cp is True and GhostNet(with_cp=0).with_cp is False


def test_with_cp_where_the_last_layers_need_no_gradient(images):
    """A block is made again only as far as it has to be."""
    networks = pair(GhostNetV2, out_indices=(2,))
    for network in networks:
        network.requires_grad_(False)
        network.blocks[1][0].ghost1.primary_conv[0].requires_grad_(True)
    assert_same_training(*networks, images)


# ---- layers


@EACH
def test_norm_cfg(cls, images):
    def norms(network):
        kinds = (_BatchNorm, nn.GroupNorm)
        return [m for m in network.modules() if isinstance(m, kinds)]

    count = len(norms(cls()))
    assert count == {GhostNet: 80, GhostNetV2: 122, GhostNetV3: 326}[cls]
    for cfg, kind in [
        (dict(type='BN'), nn.BatchNorm2d),
        (dict(type='SyncBN'), nn.SyncBatchNorm),
        (dict(type='GN', num_groups=4), nn.GroupNorm),
    ]:
        network = cls(norm_cfg=cfg)
        assert [isinstance(m, kind) for m in norms(network)] == [True] * count
    assert torch.isfinite(network(images(32, 32))[0]).all()  # the last, GN
    frozen = cls(norm_cfg=dict(type='BN', requires_grad=False, eps=0.5))
    assert not frozen.bn1.weight.requires_grad and frozen.bn1.eps == 0.5


def test_act_cfg(images):
    network = GhostNetV2(act_cfg=dict(type='LeakyReLU', negative_slope=0.1))
    kinds = {type(m) for m in network.modules() if 'ReLU' in type(m).__name__}
    assert kinds == {nn.LeakyReLU}
    assert (network(images(32, 32))[0] < 0).any()


def test_default_initialisation_is_pytorchs():
    """None of mmengine's: the weights are drawn as nn.Conv2d draws them."""
    torch.manual_seed(3)
    expected = nn.Conv2d(3, 16, 3, 2, 1, bias=False).weight
    torch.manual_seed(3)
    network = GhostNetV2()
    network.init_weights()
    assert torch.equal(network.conv_stem.weight, expected)
    norms = [x for x in network.modules() if isinstance(x, nn.BatchNorm2d)]
    assert all((norm.weight == 1).all() for norm in norms)


@EACH
def test_zero_init_residual(cls, images):
    """A fresh network computes what is left of it without the second Ghost modules."""
    network = cls(zero_init_residual=True)
    network.init_weights()
    network.eval()
    x = network.act1(network.bn1(network.conv_stem(images(64, 64))))
    for stage in network.blocks[:9]:
        for block in stage:
            x = block.shortcut(x)
    torch.testing.assert_close(network(images(64, 64))[0], network.blocks[9](x))


def test_init_cfg_overrides():
    network = GhostNetV2(
        init_cfg=dict(type='Constant', layer='BatchNorm2d', val=0.25, bias=2.0)
    )
    network.init_weights()
    norm = network.blocks[3][0].ghost1.short_conv[1]
    assert (norm.weight == 0.25).all() and (norm.bias == 2).all()


@WITH_CP
def test_with_cp_twice_backward(with_cp, images):
    """Several losses may go back through one graph; statistics count the batch once."""
    plain, recomputed = pair(GhostNetV2, with_cp)
    for network in (plain, recomputed):
        (out,) = network.train()(images(64, 64))
        out.mean().backward(retain_graph=True)
        out.square().mean().backward()
    for a, b in zip(recomputed.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    for a, b in zip(recomputed.buffers(), plain.buffers(), strict=True):
        assert torch.equal(a, b)


# ---- arguments


@pytest.mark.parametrize(
    ('kwargs', 'error', 'said'),
    [
        (dict(widen_factor=0), ValueError, 'widen_factor .* above 0, got 0'),
        (dict(widen_factor=True), ValueError, 'widen_factor .* got True'),
        (dict(widen_factor='1'), ValueError, "widen_factor .* got '1'"),
        (
            dict(output_stride=4),
            ValueError,
            'output_stride must be one of 8, 16, 32, got 4',
        ),
        (dict(with_cp='gate'), ValueError, "with_cp must be .* got 'gate'"),
        (dict(frozen_stages=10), ValueError, 'frozen_stages .* to 9, got 10'),
        (dict(frozen_stages=-2), ValueError, 'got -2'),
        (dict(frozen_stages=True), ValueError, 'got True'),
        (dict(out_indices=4), TypeError, 'sequence of ints .* got 4'),
        (dict(out_indices=(1.0,)), TypeError, 'got \\(1.0,\\)'),
        (dict(out_indices='4'), TypeError, "got '4'"),
        (dict(out_indices=(10,)), ValueError, 'between -10 and 9, got \\(10,\\)'),
        (dict(out_indices=(-11,)), ValueError, 'between -10 and 9'),
        (dict(out_indices=()), ValueError, 'at least one'),
        (dict(out_indices=(9, -1)), ValueError, 'none twice'),
        (dict(widen_factor=float('nan')), ValueError, 'widen_factor .* got nan'),
        (dict(widen_factor=float('inf')), ValueError, 'widen_factor .* got inf'),
        (dict(in_channels=0), ValueError, 'in_channels .* got 0'),
        (dict(norm_cfg='BN'), TypeError, "norm_cfg must be a dict .* got 'BN'"),
        (dict(norm_cfg={}), TypeError, 'norm_cfg must be a dict with a type, got {}'),
        (dict(act_cfg=None), TypeError, 'act_cfg must be a dict .* got None'),
    ],
    ids=str,
)
@EACH
def test_bad_arguments(cls, kwargs, error, said):
    with pytest.raises(error, match=said):
        cls(**kwargs)


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(widen_factor=1),
        dict(in_channels=1),
        dict(frozen_stages=9),
        dict(out_indices=(-10,)),
    ],
    ids=str,
)
def test_the_first_and_last_allowed_values(kwargs):
    network = GhostNet(**kwargs).eval()
    x = torch.rand(1, kwargs.get('in_channels', 3), 32, 32)
    assert network(x)[0].shape[1] == network.out_channels[0]
