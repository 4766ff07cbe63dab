"""Parameters and FLOPs of the paper, Tables 2 and 3."""

import pytest
import torch
from torch import nn

from mmghostnetv2.analysis.complexity import count
from mmghostnetv2.models import GhostNet, GhostNetV2


class Classifier(nn.Module):
    """The network of Table 2: backbone, pooling, 1280 hidden units, 1000 classes."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.conv_head = nn.Conv2d(*backbone.out_channels, 1280, 1)
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, x):
        x = self.backbone(x)[0].mean((2, 3), keepdim=True)
        return self.classifier(self.conv_head(x).relu().flatten(1))


def count_by_hooks(network, height, width=None):
    """Add up what each convolution and linear layer takes, by formula."""
    macs = 0
    device = next(network.parameters()).device

    def add(layer, inputs, output):
        nonlocal macs
        macs += output.numel() * layer.weight[0].numel()

    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(add)
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, height, width or height, device=device))
    return sum(p.numel() for p in network.parameters()), macs


# network, width, input size, paper's parameters and FLOPs, ours as measured
ROWS = [
    (GhostNetV2, 1.0, 224, 6.1, 167, 6.157, 167.0),
    (GhostNetV2, 1.3, 224, 8.9, 269, 8.960, 269.3),
    (GhostNetV2, 1.6, 224, 12.3, 399, 12.393, 398.6),
    (GhostNetV2, 1.0, 320, None, 342, 6.157, 341.1),
    (GhostNetV2, 1.0, 416, None, 571, 6.157, 569.6),
    (GhostNet, 1.0, 224, 5.2, 141, 5.183, 141.2),
    (GhostNet, 1.1, 224, 5.9, 168, 5.856, 167.0),
    (GhostNet, 1.3, 224, 7.3, 226, 7.359, 227.0),
    (GhostNet, 1.4, 224, 8.2, 264, 8.186, 262.8),
    (GhostNet, 1.7, 224, 11.0, 378, 11.00, 378.0),
    (GhostNet, 1.1, 320, None, 338, 5.856, 336.2),
    (GhostNet, 1.1, 416, None, 567, 5.856, 565.1),
]


@pytest.mark.parametrize(
    ('cls', 'widen_factor', 'size', 'paper_params', 'paper_flops', 'params', 'flops'),
    ROWS,
    ids=[f'{cls.__name__}-{width}-{size}' for cls, width, size, *_ in ROWS],
)
def test_complexity(cls, widen_factor, size, paper_params, paper_flops, params, flops):
    network = Classifier(cls(widen_factor))
    numbers = count(network, size)
    assert numbers == count_by_hooks(network, size)
    ours = [number / 1e6 for number in numbers]
    assert ours == [
        pytest.approx(params, abs=0.006),
        pytest.approx(flops, abs=0.06),
    ]
    # within what the paper's rounding and its own counting explain
    if paper_params is not None:
        assert ours[0] == pytest.approx(paper_params, rel=0.015)
    assert ours[1] == pytest.approx(paper_flops, rel=0.015)
