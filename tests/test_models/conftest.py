import pytest
import torch
from torch import nn


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and running statistic a value that no default has."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for name, limits in (
                ('weight', (0.5, 1.5)),
                ('bias', (-0.3, 0.3)),
                ('running_mean', (-0.3, 0.3)),
                ('running_var', (0.5, 1.5)),
            ):
                tensor = getattr(module, name)
                if tensor is not None:
                    tensor.data.uniform_(*limits, generator=generator)
    return network


@pytest.fixture
def images():
    def make(*size: int, batch: int = 2) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(batch, 3, *size, generator=generator)

    return make
