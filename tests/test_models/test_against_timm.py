"""The networks are timm's: names, shapes, features and gradients."""

import re

import pytest
import torch

from mmghostnetv2.models import (
    GhostBottleneck,
    GhostModule,
    GhostNet,
    GhostNetV2,
    GhostNetV3,
)

from .conftest import randomise

timm = pytest.importorskip('timm', reason='the peer of this test')

PEERS = [
    ('ghostnetv2_100', GhostNetV2, 1.0),
    ('ghostnetv2_130', GhostNetV2, 1.3),
    ('ghostnetv2_160', GhostNetV2, 1.6),
    ('ghostnet_100', GhostNet, 1.0),
    ('ghostnetv3_050', GhostNetV3, 0.5),
    ('ghostnetv3_100', GhostNetV3, 1.0),
    ('ghostnetv3_130', GhostNetV3, 1.3),
    ('ghostnetv3_160', GhostNetV3, 1.6),
]
HEAD = ('conv_head.', 'classifier.')
ALL_STAGES = tuple(range(10))


@pytest.fixture(params=PEERS, ids=[name for name, *_ in PEERS])
def pair(request):
    """timm's network and ours with the same random weights."""
    name, cls, widen_factor = request.param
    torch.manual_seed(0)
    peer = randomise(timm.create_model(name))
    ours = cls(widen_factor, out_indices=ALL_STAGES)
    weights = {k: v for k, v in peer.state_dict().items() if not k.startswith(HEAD)}
    ours.load_state_dict(weights, strict=True)
    return peer, ours


def own_names(entries):
    """Rename the norms of GhostNetV3's branches, which timm calls bn1."""
    branch_norm = r'(_rpr_(conv\.\d|scale))\.bn1'
    return {re.sub(branch_norm, r'\1.bn', name): value for name, value in entries}


def peer_stages(peer, images):
    """Run timm's network; return the output of each of its ten stages."""
    outputs = []
    hooks = [
        stage.register_forward_hook(lambda *args: outputs.append(args[-1].clone()))
        for stage in peer.blocks
    ]
    peer(images)
    for hook in hooks:
        hook.remove()
    return outputs


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def shapes(network):
    state = own_names(network.state_dict().items())
    return {k: v.shape for k, v in state.items() if not k.startswith(HEAD)}


def test_same_names_and_shapes(pair):
    peer, ours = pair
    assert shapes(ours) == shapes(peer)


def test_same_table_of_channels():
    """At four times the width, rounding hides no wrong number of the table."""
    build = timm.models.ghostnet._create_ghostnet
    with torch.device('meta'):
        peer = build('ghostnetv2_100', width=4.0, version='v2')
        assert shapes(GhostNetV2(4.0)) == shapes(peer)


@pytest.mark.parametrize('size', [(224, 224), (161, 97)], ids=['224', 'odd'])
@pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
def test_same_features(pair, images, size, training):
    peer, ours = (network.train(training) for network in pair)
    batch = images(*size)
    with torch.no_grad():
        expected = peer_stages(peer, batch)
        actual = ours(batch)
    assert len(actual) == len(expected) == 10
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b)
    # in train mode the batch went into the running statistics
    expected = own_names(peer.named_buffers())
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(
            buffer, expected[name], rtol=1e-5, atol=1e-5, msg=name
        )


def test_same_gradients(pair, images):
    peer, ours = (network.double().eval() for network in pair)
    batch = images(65, 65).double()
    ours(batch)[-1].square().mean().backward()
    peer.forward_features(batch).square().mean().backward()
    gradients = own_names(peer.named_parameters())
    for name, parameter in ours.named_parameters():
        expected = gradients[name].grad
        difference = (parameter.grad - expected).abs().max()
        assert difference <= 1e-7 * expected.abs().max(), name


def saved_bytes(forward, batch):
    """Return how much memory a forward pass keeps for the backward pass."""
    storages = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage  # alive, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward(batch)
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize(
    ('cls', 'channels'), [(GhostModule, (6, 8)), (GhostBottleneck, (6, 12, 8))]
)
@torch.no_grad()
def test_layers_with_default_arguments(cls, channels):
    """The networks give them all arguments."""
    peer = randomise(getattr(timm.models.ghostnet, cls.__name__)(*channels)).eval()
    ours = cls(*channels).eval()
    ours.load_state_dict(peer.state_dict(), strict=True)
    x = torch.randn(2, 6, 9, 7)
    assert_close(ours(x), peer(x))


@pytest.mark.parametrize(('with_cp', 'share'), [('attention', 0.75), (True, 0.1)])
def test_less_memory_in_training(with_cp, share, images):
    """What is kept for the backward pass, beside the weights, compared with timm."""
    peer, ours = timm.create_model('ghostnetv2_100'), GhostNetV2(with_cp=with_cp)
    batch = images(224, 224)
    theirs = saved_bytes(peer.train().forward_features, batch)
    weights = sum(p.nbytes for p in ours.parameters())
    assert saved_bytes(ours.train(), batch) - weights < share * (theirs - weights)
