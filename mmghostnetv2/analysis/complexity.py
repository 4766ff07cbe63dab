"""Parameters and multiply-accumulates of networks."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from mmengine.analysis import FlopAnalyzer
from torch import nn

OPERATORS = ('conv', 'linear')
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# Names of the attributes that hold a model's backbone, and the network of timm in
# mmpretrain's TIMMBackbone
BACKBONES = ('backbone', 'timm_model')


class Block(NamedTuple):
    """Name of a block in the network, its class, and its costs as in :func:`count`."""

    name: str
    type: str
    parameters: int
    flops: int


def count(network: nn.Module, size: int | tuple[int, int]) -> tuple[int, int]:
    """Count the parameters and the multiply-accumulates of one image.

    Only convolutions and linear layers count, as in the FLOPs of the paper's tables;
    norms, activations and the products of self-attention do not.

    Args:
        network (nn.Module): Takes images of shape (1, 3, H, W); is left in eval mode.
        size (int | tuple[int, int]): H and W in pixels; one number means a square.

    Returns:
        tuple[int, int]: Parameters and multiply-accumulates.
    """
    blocks = count_blocks(network, size)
    return sum(b.parameters for b in blocks), sum(b.flops for b in blocks)


def count_blocks(network: nn.Module, size: int | tuple[int, int]) -> list[Block]:
    """Count the parameters and the multiply-accumulates block by block.

    Blocks are the children of the network and of its backbone, and the items of
    containers such as ``nn.Sequential``. Blocks without parameters and without
    multiply-accumulates are left out. The arguments are those of :func:`count`.

    Returns:
        list[Block]: In the order of registration. A last block named 'rest' counts what
        belongs to no other block, if there is anything.
    """
    height, width = (size, size) if isinstance(size, int) else size
    analyzer = FlopAnalyzer(network.eval(), torch.zeros(1, 3, height, width))
    analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    counters = analyzer.by_module_and_operator()

    def costs(name: str, module: nn.Module) -> tuple[int, int]:
        flops = sum(counters[name][operator] for operator in OPERATORS)
        return sum(p.numel() for p in module.parameters()), flops

    blocks = [Block(n, type(m).__name__, *costs(n, m)) for n, m in _blocks(network)]
    parameters, flops = costs('', network)
    parameters -= sum(block.parameters for block in blocks)
    flops -= sum(block.flops for block in blocks)
    blocks.append(Block('rest', '', parameters, flops))
    return [block for block in blocks if block.parameters or block.flops]


def _blocks(
    module: nn.Module, prefix: str = '', inside: bool = True
) -> Iterator[tuple[str, nn.Module]]:
    """Yield blocks with their names; backbones are divided only if ``inside``."""
    for name, child in module.named_children():
        path = f'{prefix}{name}'
        if isinstance(child, CONTAINERS) or (inside and name in BACKBONES):
            yield from _blocks(child, f'{path}.', name in BACKBONES)
        else:
            yield path, child
