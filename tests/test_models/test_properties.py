"""What holds for every network, whatever its arguments: found by hypothesis."""

import math

import pytest
import torch

from mmghostnetv2.models import GhostNet, GhostNetSelfAttention, GhostNetV2, GhostNetV3

from .conftest import randomise

pytest.importorskip('hypothesis', reason='draws the arguments')
from hypothesis import given, settings
from hypothesis import strategies as st

STAGES = range(10)
arguments = st.fixed_dictionaries(
    {
        'widen_factor': st.sampled_from([0.1, 0.25, 0.5, 1.3]),
        'out_indices': st.sets(st.sampled_from(STAGES), min_size=1).map(sorted),
        'output_stride': st.sampled_from([8, 16, 32]),
        'in_channels': st.integers(1, 4),
    },
    optional={
        'frozen_stages': st.integers(-1, 9),
        'norm_eval': st.booleans(),
        'with_cp': st.sampled_from([False, True, 'attention']),
        'act_cfg': st.sampled_from([dict(type='ReLU'), dict(type='HSwish')]),
        'norm_cfg': st.sampled_from(
            [
                dict(type='BN', eps=1e-3),
                dict(type='SyncBN'),
                dict(type='GN', num_groups=1),
            ]
        ),
    },
)
ablations = st.fixed_dictionaries(
    {},
    optional={
        'dfc_kernel_sizes': st.tuples(*[st.sampled_from([3, 5, 7])] * 3),
        'dfc_stages': st.sets(st.integers(0, 3)).map(tuple),
        'enhance': st.sampled_from(['expressiveness', 'capacity', 'both']),
        'scaling': st.sampled_from(['sigmoid', 'hard_sigmoid', 'clip']),
        'scaling_position': st.sampled_from(['before', 'after']),
        'down_sampling': st.sampled_from(['average', 'max', 'bilinear']),
        'up_sampling': st.sampled_from(['nearest', 'bilinear', 'bicubic']),
    },
)
networks = st.one_of(
    arguments.map(lambda kwargs: (GhostNet, kwargs)),
    st.tuples(arguments, ablations).map(lambda both: (GhostNetV2, both[0] | both[1])),
    arguments.map(lambda kwargs: (GhostNetSelfAttention, kwargs)),
    st.tuples(arguments, ablations, st.integers(1, 4)).map(
        lambda all_: (GhostNetV3, all_[0] | all_[1] | dict(num_branches=all_[2]))
    ),
)
sizes = st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 70))
formats = st.sampled_from([torch.contiguous_format, torch.channels_last])


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(networks, sizes, formats)
def test_every_network(network, size, memory_format):
    """Outputs as declared and finite, the same when folded and when loaded again."""
    cls, kwargs = network
    batch, height, width = size
    torch.manual_seed(0)
    model = randomise(cls(**kwargs)).eval()
    images = torch.randn(batch, kwargs['in_channels'], height, width)
    images = images.to(memory_format=memory_format)
    with torch.no_grad():
        outs = model(images)
        again = cls(**kwargs).eval()
        again.load_state_dict(model.state_dict())
        loaded = again(images)
        model.switch_to_deploy()
        folded = model(images)
        double = again.double()(images.double())
    expected = [
        (batch, channels, math.ceil(height / stride), math.ceil(width / stride))
        for channels, stride in zip(model.out_channels, model.out_strides, strict=True)
    ]
    assert [tuple(out.shape) for out in outs] == expected
    assert max(model.out_strides) <= kwargs['output_stride']
    for out, same, fold, exact in zip(outs, loaded, folded, double, strict=True):
        assert out.isfinite().all()
        assert torch.equal(out, same)
        largest = exact.abs().max().item()
        torch.testing.assert_close(out.double(), exact, rtol=0, atol=1e-4 * largest)
        torch.testing.assert_close(fold.double(), exact, rtol=0, atol=1e-4 * largest)
