"""Networks for inference: their norms are folded, and they compute the same."""

import copy
import pickle

import pytest
import torch
from mmcv.cnn import ConvModule, ConvWS2d
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmghostnetv2.checkpoint import load_weights
from mmghostnetv2.models import (
    GhostNet,
    GhostNetSelfAttention,
    GhostNetV2,
    GhostNetV3,
    fold_norms,
)

from .conftest import randomise

ALL_STAGES = tuple(range(10))
LAYOUTS = pytest.mark.parametrize(
    'layout', [torch.contiguous_format, torch.channels_last], ids=['nchw', 'nhwc']
)


def assert_close(actual, expected, tolerance=1e-5):
    """Compare within a share of the largest value."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


# ---- whole networks


@pytest.fixture(
    params=[GhostNet, GhostNetV2, GhostNetV3, GhostNetSelfAttention],
    ids=lambda cls: cls.__name__,
)
def network(request):
    torch.manual_seed(0)
    return randomise(request.param(out_indices=ALL_STAGES)).eval()


@LAYOUTS
@torch.no_grad()
def test_same_features(network, layout, images):
    deployed = copy.deepcopy(network)
    deployed.switch_to_deploy()
    assert not any(isinstance(m, _BatchNorm) for m in deployed.modules())
    for size, batch in [(96, 1), (65, 2)]:
        x = images(size, size + 32, batch=batch).to(memory_format=layout)
        for out, expected in zip(deployed(x), network(x), strict=True):
            assert_close(out, expected)


@torch.no_grad()
def test_same_as_timm(images):
    timm = pytest.importorskip('timm', reason='the peer of this test')
    torch.manual_seed(0)
    peer = randomise(timm.create_model('ghostnetv2_100')).eval()
    weights = {
        key: value
        for key, value in peer.state_dict().items()
        if not key.startswith(('conv_head.', 'classifier.'))
    }
    network = GhostNetV2()
    network.load_state_dict(weights, strict=True)
    network.switch_to_deploy()
    x = images(224, 224).to(memory_format=torch.channels_last)
    outputs = []
    peer.blocks[-1].register_forward_hook(lambda *args: outputs.append(args[-1]))
    peer(x)
    assert_close(network(x)[0], outputs[0])


@torch.no_grad()
def test_state_round_trips(network, images):
    deployed = copy.deepcopy(network)
    deployed.switch_to_deploy()
    state = deployed.state_dict()
    deployed.switch_to_deploy()  # a second time it changes nothing
    assert all(state[key] is not None for key in deployed.state_dict())
    built = type(network)(out_indices=ALL_STAGES, deploy=True)
    built.load_state_dict(state, strict=True)
    x = images(64, 64).to(memory_format=torch.channels_last)
    expected = deployed(x)
    for other in (built, copy.deepcopy(deployed), pickle.loads(pickle.dumps(deployed))):
        assert other.state_dict().keys() == state.keys()
        assert all(torch.equal(a, b) for a, b in zip(other(x), expected, strict=True))


def test_init_weights_of_a_deployed_network(images):
    network = GhostNetV2(deploy=True, zero_init_residual=True)
    network.init_weights()
    assert network(images(32, 32))[0].abs().max() > 0


@pytest.mark.parametrize('version', [GhostNetV2, GhostNetV3])
@torch.no_grad()
def test_norms_without_weights(version, images):
    """They are folded, too, but have nothing that zero_init_residual could change."""
    options = dict(norm_cfg=dict(type='BN', affine=False), out_indices=(2,))
    network = randomise(version(**options)).eval()
    deployed = copy.deepcopy(network)
    deployed.switch_to_deploy()
    assert not any(isinstance(m, _BatchNorm) for m in deployed.modules())
    built = version(deploy=True, **options)
    built.load_state_dict(network.state_dict())
    for other in deployed, built:
        assert_close(other(images(32, 32))[0], network(images(32, 32))[0])
    with pytest.raises(ValueError, match='zero_init_residual needs norms with weights'):
        version(zero_init_residual=True, **options).init_weights()


def test_part_of_a_norm_is_missing():
    weights = GhostNetV2(out_indices=(2,)).state_dict()
    del weights['bn1.running_mean']
    with pytest.raises(ValueError, match=r'file.pth belongs to .*bn1.running_mean'):
        load_weights(GhostNetV2(out_indices=(2,), deploy=True), weights, 'file.pth')


@torch.no_grad()
def test_weights_of_a_training_are_folded(network, images):
    """By a deployed network, alone or in a model, when it loads them."""
    weights = network.state_dict()
    deployed = type(network)(out_indices=ALL_STAGES, deploy=True).eval()
    deployed.load_state_dict(weights, strict=True)
    model = nn.ModuleDict({'backbone': copy.deepcopy(deployed)})
    nested = {f'backbone.{key}': value for key, value in weights.items()}
    model.load_state_dict(nested, strict=True)
    network.switch_to_deploy()
    x = images(64, 64)
    for found in deployed(x), model['backbone'](x):
        for out, expected in zip(found, network(x), strict=True):
            assert torch.equal(out, expected)


@torch.no_grad()
def test_mobilenetv2_attention(images):
    module = pytest.importorskip(
        'mmghostnetv2.mobilenetv2_attention', reason='needs mmpretrain'
    )
    torch.manual_seed(0)
    options = dict(attention=dict(type='DFCAttention'), widen_factor=0.5)
    network = randomise(module.MobileNetV2Attention(**options))
    network.eval()
    deployed = fold_norms(module.MobileNetV2Attention(**options))
    folded = fold_norms(copy.deepcopy(network))
    deployed.load_state_dict(folded.state_dict(), strict=True)
    x = images(64, 64).to(memory_format=torch.channels_last)
    assert_close(deployed(x)[0], network(x)[0])


# ---- folding


class SharedConv(nn.Module):
    """One convolution for three levels, each with a norm of its own."""

    def __init__(self):
        super().__init__()
        conv = nn.Conv2d(3, 4, 3)
        self.levels = nn.ModuleList(
            nn.Sequential(conv, nn.BatchNorm2d(4)) for _ in range(3)
        )

    def forward(self, x):
        return [level(x) for level in self.levels]


@torch.no_grad()
def test_shared_convolutions(images):
    network = randomise(SharedConv())
    expected = copy.deepcopy(network).eval()(images(9, 9))
    for out, value in zip(fold_norms(network)(images(9, 9)), expected, strict=True):
        assert_close(out, value)


NORM = dict(type='BN')


class NormAct(nn.BatchNorm2d):
    """As timm's BatchNormAct2d."""

    def forward(self, x):
        return super().forward(x).relu()


@pytest.mark.parametrize(
    'layers',
    [
        lambda: [nn.Conv2d(3, 4, 3), NormAct(4)],
        lambda: [ConvWS2d(3, 4, 3), nn.BatchNorm2d(4)],
        lambda: [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)],
        lambda: [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)],
        lambda: [ConvModule(3, 3, 1, norm_cfg=NORM, order=('norm', 'act', 'conv'))],
        lambda: [nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)],
    ],
    ids=['norm-act', 'conv-ws', 'relu-between', 'no-statistics', 'order', 'spectral'],
)
@torch.no_grad()
def test_what_is_not_folded(layers, images):
    torch.manual_seed(0)
    network = randomise(nn.Sequential(*layers())).eval()
    folded = fold_norms(copy.deepcopy(network))
    assert [type(m) for m in folded.modules()] == [type(m) for m in network.modules()]
    assert torch.equal(folded(images(9, 9)), network(images(9, 9)))


@pytest.mark.parametrize('conv', ['Conv', 'Conv2d'])
@pytest.mark.parametrize('norm', [dict(type='BN', affine=False), dict(type='SyncBN')])
@pytest.mark.parametrize('revert', [False, True])
@torch.no_grad()
def test_what_is_folded(conv, norm, revert, images):
    """mmcv's own convolutions; norms without weights, and as of several GPUs."""
    torch.manual_seed(0)
    cfg = dict(conv_cfg=dict(type=conv), norm_cfg=norm, bias=True)
    network = randomise(ConvModule(3, 4, 3, **cfg)).eval()
    if revert:
        network = revert_sync_batchnorm(network)
    folded = fold_norms(copy.deepcopy(network))
    assert not any(isinstance(m, _BatchNorm) for m in folded.modules())
    assert_close(folded(images(9, 9)), network(images(9, 9)))


def test_frozen_parameters_stay_frozen():
    network = GhostNetV2(frozen_stages=3)
    expected = {
        name
        for name, parameter in network.named_parameters()
        if name.endswith('.weight') and parameter.ndim == 4 and parameter.requires_grad
    }
    fold_norms(network)
    trained = {n for n, p in network.named_parameters() if p.requires_grad}
    assert {name for name in trained if not name.endswith('bias')} == expected
    assert (
        'conv_stem.bias' not in trained and 'blocks.4.0.se.conv_reduce.bias' in trained
    )


@pytest.mark.parametrize('variance', [1e-12, 1e-6, 1e6])
@torch.no_grad()
def test_extreme_variances(variance, images):
    """Folding is rounded once, from double precision."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    network[1].running_var.fill_(variance)
    network[1].running_mean.uniform_(-1, 1)
    expected = copy.deepcopy(network).double()(images(9, 9).double()).float()
    assert_close(fold_norms(network)(images(9, 9)), expected)


def test_folded_config(images):
    """A config with the model's own type as base builds it folded."""
    cfg = dict(base='mmghostnetv2.GhostNetV2', out_indices=(2,))
    cfg['zero_init_residual'] = True
    network = MODELS.build(dict(type='mmghostnetv2.Folded', **cfg))
    network.init_weights()  # has no norms left to start at zero
    assert network.out_channels == (24,) and not network.training
    assert network.state_dict().keys() == (
        GhostNetV2(out_indices=(2,), deploy=True).state_dict().keys()
    )
