from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def is_traced() -> bool:
    """Tell whether an exporter or compiler follows, which wants plain operators."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


class _Concat(Function):
    """Concatenation whose gradients are dense.

    Autograd's are views, for which batch norm has a slow way backward in channels_last
    on the CPU.
    """

    @staticmethod
    def forward(ctx, *features: Tensor) -> Tensor:
        ctx.channels = [feature.shape[1] for feature in features]
        return torch.cat(features, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.clone() for part in grad.split(ctx.channels, dim=1))


def concat(features: Sequence[Tensor]) -> Tensor:
    """Concatenate features of shape (N, C, H, W) over the channels."""
    if len(features) == 1:
        return features[0]
    on_cpu = features[0].device.type == 'cpu'
    if on_cpu and torch.is_grad_enabled() and not is_traced():
        return _Concat.apply(*features)
    return torch.cat(features, dim=1)
