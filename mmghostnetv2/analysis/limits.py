"""Lower bound of the time of a network on a CPU, from what the machine can do.

The roofline model: a convolution takes at least as long as its multiply-accumulates at
the rate of a large matrix product, and as moving its tensors at the rate of a copy.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)


class Peaks(NamedTuple):
    """What a number of threads reaches on this machine.

    ``macs`` are multiply-accumulates in float32 a second. ``bandwidth`` maps the bytes
    that a copy reads and writes to its rate in bytes a second, which is much higher
    where these bytes fit into a cache.
    """

    macs: float
    bandwidth: Mapping[int, float]

    def lower_bound(self, costs: Iterable[tuple[float, float]]) -> float:
        """Return the seconds that layers take at least, one by one.

        ``costs`` are those of :func:`layer_costs`. A runtime that keeps the output of a
        layer in cache for the next one, or that multiplies with fewer operations, can
        be faster.
        """
        return sum(self._seconds(*cost) for cost in costs)

    def _seconds(self, macs: float, traffic: float) -> float:
        sizes = [size for size in self.bandwidth if size <= traffic]
        rate = self.bandwidth[max(sizes, default=min(self.bandwidth))]
        return max(macs / self.macs, traffic / rate)


def _shortest(run: Callable[[], object], seconds: float = 0.15) -> float:
    """Run for a while and return the shortest of the times."""
    run()
    best, end = float('inf'), perf_counter() + seconds
    while (start := perf_counter()) < end:
        run()
        best = min(best, perf_counter() - start)
    return best


def measure_peaks(threads: int) -> Peaks:
    """Measure the peaks of this machine with a number of threads, in three seconds.

    ``macs`` is the best of square matrix products of 256 to 2048 rows. ``bandwidth`` is
    from copies of 128 kB to 64 MB. The rate of a small copy is at least that of any
    larger one, because the fixed time of a call would falsify it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        macs = 0.0
        for side in (256, 512, 1024, 2048):
            a, b, product = torch.rand(3, side, side)
            best = _shortest(partial(torch.mm, a, b, out=product))
            macs = max(macs, side**3 / best)
        bandwidth, rate = {}, 0.0
        for size in (2**power for power in range(26, 16, -1)):
            source, target = torch.rand(2, size // 8)
            copied = _shortest(partial(target.copy_, source))
            rate = max(rate, size / copied)
            bandwidth[size] = rate
    finally:
        torch.set_num_threads(before)
    return Peaks(macs, bandwidth)


def layer_costs(network: nn.Module, images: Tensor) -> list[tuple[int, int]]:
    """Return the multiply-accumulates of each layer, and the bytes that it moves.

    Args:
        network (nn.Module): Is run once. Convolutions and linear layers count, with
            their inputs, weights and outputs in float32. Everything else is left out.
        images (Tensor): Batch of images, (N, C, H, W).

    Returns:
        list[tuple[int, int]]: One item for each call of a layer.
    """
    costs = []

    def add(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # Each output is the product of one filter, or one row, with its inputs.
        macs = output.numel() * layer.weight[0].numel()
        values = inputs[0].numel() + layer.weight.numel() + output.numel()
        costs.append((macs, 4 * values))

    layers = [layer for layer in network.modules() if isinstance(layer, LAYERS)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return costs
