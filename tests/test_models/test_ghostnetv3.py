"""GhostNetV3 trains with branches and ends as GhostNetV2's deployed network."""

import copy

import pytest
import torch
from torch import nn

from mmghostnetv2.models import GhostNetV2, GhostNetV3

from ..conftest import with_counters
from .conftest import randomise
from .test_against_timm import ALL_STAGES, HEAD, peer_stages

timm = pytest.importorskip('timm', reason='the peer of this test')


def assert_close(outs, expected):
    """Compare within a share of the largest value."""
    for out, value in zip(outs, expected, strict=True):
        assert (out - value).abs().max() <= 1e-5 * value.abs().max()


@pytest.fixture(scope='module')
def peer():
    """timm's network with random weights, whose branches have norms of all scales."""
    torch.manual_seed(0)
    network = randomise(timm.create_model('ghostnetv3_100')).eval()
    generator = torch.Generator().manual_seed(2)
    for name, module in network.named_modules():
        if '_rpr_' in name and isinstance(module, nn.BatchNorm2d):
            # Variances from 1e-9, far below eps, to 1; weights that fit them
            exponents = torch.empty(module.num_features).uniform_(
                -9, 0, generator=generator
            )
            module.running_var.copy_(10**exponents)
            module.weight.data.mul_((module.running_var + module.eps).sqrt())
    return network


@pytest.fixture(scope='module')
def weights(peer):
    state = peer.state_dict().items()
    return {key: value for key, value in state if not key.startswith(HEAD)}


@torch.no_grad()
def test_deployed_as_v2(peer, weights, images):
    """Its parameters are those of GhostNetV2, and it computes what timm's does."""
    network = GhostNetV3(out_indices=ALL_STAGES).eval()
    network.load_state_dict(weights, strict=True)
    batch = images(193, 257)
    expected = peer_stages(peer, batch)
    assert_close(network(batch), expected)
    network.switch_to_deploy()
    assert_close(network(batch), expected)
    merged = timm.utils.reparameterize_model(peer)
    assert_close(network(batch), peer_stages(merged, batch))

    v2 = GhostNetV2(out_indices=ALL_STAGES, deploy=True).eval()
    shapes = [(key, value.shape) for key, value in v2.state_dict().items()]
    deployed = network.state_dict()
    assert shapes == [(key, value.shape) for key, value in deployed.items()]
    v2.load_state_dict(deployed, strict=True)
    assert all(map(torch.equal, v2(batch), network(batch)))


def authors_names(weights):
    return {
        key.replace('.bn1.', '.bn.') if '_rpr_' in key else key: value
        for key, value in weights.items()
    }


@pytest.mark.parametrize('cls', [GhostNetV2, GhostNetV3])
@torch.no_grad()
def test_deployed_from_files(cls, peer, weights, images, tmp_path):
    """The authors' file has raw and averaged weights, timm's has its own names."""
    safetensors = pytest.importorskip('safetensors.torch', reason="timm's format")
    raw = {key: torch.zeros_like(value) for key, value in weights.items()}
    theirs = {
        'state_dict': authors_names(raw),
        'state_dict_ema': with_counters(authors_names(peer.state_dict())),
    }
    torch.save(theirs, tmp_path / 'ghostnetv3-1.0.pth.tar')
    safetensors.save_file(peer.state_dict(), tmp_path / 'model.safetensors')
    expected = peer_stages(peer, images(64, 64))
    for name in 'ghostnetv3-1.0.pth.tar', 'model.safetensors':
        for deploy in {cls is GhostNetV2, True}:
            init = dict(type='Pretrained', checkpoint=str(tmp_path / name))
            network = cls(out_indices=ALL_STAGES, deploy=deploy, init_cfg=init).eval()
            network.init_weights()
            assert_close(network(images(64, 64)), expected)


@torch.no_grad()
def test_folded_in_double_precision(weights, images):
    """The folded weights are the exact ones, rounded once."""
    network = GhostNetV3().eval()
    network.load_state_dict(weights)
    exact = copy.deepcopy(network).double()
    for each in network, exact:
        each.switch_to_deploy()
    for value, other in zip(
        network.state_dict().values(), exact.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other.float())


@torch.no_grad()
def test_deployed_after_a_training_step(images):
    """The branches, then unlike each other, are merged with moved statistics."""
    torch.manual_seed(0)
    network = GhostNetV3(0.5, out_indices=(4, 8), num_branches=2, output_stride=8)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(3):
        with torch.enable_grad():
            sum(out.square().mean() for out in network(images(64, 96))).backward()
        optimizer.step()
    network.double().eval()  # the statistics lag behind, so that errors are magnified
    expected = network(images(65, 97).double())
    network.switch_to_deploy()
    assert_close(network(images(65, 97).double()), expected)
    assert not any('_rpr_' in name for name, _ in network.named_parameters())


def test_branches_that_cannot_be_merged_stay(images):
    network = GhostNetV3(norm_cfg=dict(type='GN', num_groups=4)).eval()
    keys = list(network.state_dict())
    expected = network(images(33, 33))[0]
    network.switch_to_deploy()
    assert list(network.state_dict()) == keys
    assert torch.equal(network(images(33, 33))[0], expected)


@pytest.mark.parametrize(
    'part', ['cheap_rpr_scale.conv.weight', 'primary_rpr_conv.1.bn1.bias']
)
def test_incomplete_branches_are_refused(weights, part):
    key = next(key for key in weights if key.endswith(part))
    rest = {name: value for name, value in weights.items() if name != key}
    said = f'different network: .*{key.replace(".bn1.", ".bn.")}'
    for network in GhostNetV2(deploy=True), GhostNetV3():
        with pytest.raises(RuntimeError, match=said):
            network.load_state_dict(rest)


def test_other_weights_are_refused(weights):
    with pytest.raises(RuntimeError, match='weights of a different network'):
        GhostNetV2().load_state_dict(weights)  # it has norms to train
    with pytest.raises(RuntimeError, match='weights of a different network'):
        GhostNetV3().load_state_dict(GhostNetV2().state_dict())
    with pytest.raises(RuntimeError, match='weights of a different network'):
        GhostNetV3(num_branches=2).load_state_dict(weights)


def test_number_of_branches():
    ghost = GhostNetV3(num_branches=1, out_indices=(0,)).blocks[0][0].ghost1
    assert len(ghost.primary_rpr_conv) == len(ghost.cheap_rpr_conv) == 1


@pytest.mark.parametrize('number', [0, -1, True, 1.0, '3'])
def test_bad_number_of_branches(number):
    with pytest.raises(ValueError, match=f'num_branches must .* got {number!r}'):
        GhostNetV3(num_branches=number)
