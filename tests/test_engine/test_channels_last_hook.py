import torch
from torch import nn

from mmghostnetv2.engine import ChannelsLastHook


def test_channels_last():
    """Outputs of the next convolution are in that format, with the same values."""

    class Runner:
        model = nn.Conv2d(3, 8, 3)

    x = torch.rand(2, 3, 6, 5)
    before = Runner.model(x)
    assert not before.is_contiguous(memory_format=torch.channels_last)
    ChannelsLastHook().before_run(Runner)
    after = Runner.model(x)
    assert after.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(after, before)
