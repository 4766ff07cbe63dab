import torch
from mmengine.analysis import FlopAnalyzer
from torch import nn


def count(network: nn.Module, size: int | tuple[int, int]) -> tuple[int, int]:
    """Count the parameters and the multiply-accumulates of one image.

    Multiply-accumulates are those of convolutions and linear layers alone, which the
    paper's tables call FLOPs; norms, activations and the products of self-attention
    are free.

    Args:
        network (nn.Module): Takes images of shape (1, 3, H, W); is left in eval mode.
        size (int | tuple[int, int]): H and W in pixels, one number for a square.

    Returns:
        tuple[int, int]: Parameters and multiply-accumulates.
    """
    height, width = (size, size) if isinstance(size, int) else size
    analyzer = FlopAnalyzer(network.eval(), torch.zeros(1, 3, height, width))
    analyzer.unsupported_ops_warnings(False)
    analyzer.uncalled_modules_warnings(False)
    operators = analyzer.by_operator()
    flops = sum(operators[name] for name in ('conv', 'linear'))
    return sum(p.numel() for p in network.parameters()), flops
