"""Comparison of the latency of networks on one machine.

The speed of a machine changes over time by more than the networks differ. Therefore all
networks are built first and then run in turn, and times are compared within one round.
"""

import os
import platform
import random
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

# Packages of the runtimes whose speed can be measured
PACKAGES = ('torch', 'onnxruntime', 'openvino', 'ai-edge-litert', 'ncnn', 'executorch')
# Instruction sets that decide how fast convolutions are, by their names in Linux
INSTRUCTION_SETS = {
    'avx2': 'AVX2',
    'avx512f': 'AVX-512',
    'avx_vnni': 'AVX-VNNI',
    'avx512_vnni': 'AVX-512 VNNI',
    'avx512_bf16': 'AVX-512 BF16',
    'amx_bf16': 'AMX BF16',
    'amx_int8': 'AMX INT8',
    'asimd': 'NEON',
    'asimddp': 'dot product',
    'i8mm': 'I8MM',
    'bf16': 'BF16',
}


@torch.no_grad()
def randomize_norms(
    network: nn.Module, shape: Sequence[int] = (2, 3, 224, 224), seed: int = 0
) -> nn.Module:
    """Randomise the batch norms of an untrained network, so that a wrong export shows.

    At initialisation, features fade from layer to layer and gates stay near one half. A
    wrong up-sampling, for example, then changes the outputs by less than rounding does.
    This function gives the batch norms random weights and biases and the statistics of
    random images. The latency does not depend on them.

    Args:
        network (nn.Module): Is changed in place and left in eval mode.
        shape (Sequence[int]): Shape of the images, (N, C, H, W). If the statistics come
            from too few values, such as two images of 64x64 pixels, the network
            amplifies rounding errors to more than 1e-4.
        seed (int): Seed of all random values.

    Returns:
        nn.Module: ``network`` itself.
    """
    generator = torch.Generator().manual_seed(seed)
    network.eval()
    norms: list[Any] = [
        module
        for module in network.modules()
        if getattr(module, 'running_mean', None) is not None
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().reset_running_stats()
        norm.momentum = None  # the statistics become those of this one batch
        if norm.affine:
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.bias.uniform_(-0.5, 0.5, generator=generator)
    network(torch.rand(*shape, generator=generator))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return network.eval()


def time_interleaved(
    runners: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = 3,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Time runners in turn: in each round every one runs once.

    The order is shuffled in each round, because the previous network influences caches
    and clock rates.

    Args:
        runners (Mapping[str, Callable]): Functions to time, by name.
        rounds (int): Number of rounds.
        warmup (int): Untimed runs of each function before the first round.
        seed (int): Seed of the shuffling.

    Returns:
        dict[str, list[float]]: Seconds by name, one value for each round.

    Raises:
        ValueError: ``rounds`` is below 1.
    """
    if rounds < 1:
        raise ValueError(f'rounds must be at least 1, got {rounds}')
    for runner in runners.values():
        for _ in range(warmup):
            runner()
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    order, shuffle = list(runners), random.Random(seed).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            start = perf_counter()
            runners[name]()
            seconds[name].append(perf_counter() - start)
    return seconds


class Quartiles(NamedTuple):
    """Median, and the ends of the interquartile range."""

    lower: float
    median: float
    upper: float

    def spread(self, digits: int) -> str:
        """Format the median and, in brackets, the interquartile range."""
        lower, median, upper = (f'{value:.{digits}f}' for value in self)
        return f'{median} ({lower} to {upper})'


def quartiles(values: Sequence[float]) -> Quartiles:
    """Return the median and the interquartile range of values."""
    return Quartiles(*np.percentile(values, (25, 50, 75)).tolist())


def fit_power(pixels: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """Fit cost = factor * pixels ** exponent by least squares on logarithms.

    Costs that are not above 0 are left out, since they have no logarithm.

    Returns:
        tuple[float, float]: Exponent and factor; both are NaN if fewer than two
        different numbers of pixels are left.
    """
    points = [(p, cost) for p, cost in zip(pixels, costs, strict=True) if cost > 0]
    if len({p for p, _ in points}) < 2:
        return np.nan, np.nan
    x, y = np.log(np.transpose(points))
    exponent, offset = np.polyfit(x, y, 1)
    return float(exponent), float(np.exp(offset))


def paired_ratios(
    seconds: Mapping[str, Sequence[float]], reference: str
) -> dict[str, Quartiles]:
    """Divide times by those of the reference in the same round.

    ``seconds`` is what :func:`time_interleaved` returns. A slow phase of the machine
    that lasts a whole round does not change the ratio.

    Returns:
        dict[str, Quartiles]: For each name, quartiles of its ratios in all rounds.

    Raises:
        KeyError: ``reference`` was not timed.
    """
    base = np.array(seconds[reference])
    return {name: quartiles(np.array(s) / base) for name, s in seconds.items()}


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):  # not on Windows and macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_machine() -> dict[str, str]:
    """Describe the machine, the software and the date of a measurement.

    Returns:
        dict[str, str]: 'CPU', 'instruction sets' (those that matter to convolutions),
        'cores' (those that this process may use), 'OS', 'Python', the version of each
        runtime installed, and 'date'.
    """
    path = Path('/proc/cpuinfo')
    info = path.read_text() if path.exists() else ''
    model = re.search(r'model name\s*: (.+)', info)
    flags = re.search(r'(?:flags|Features)\s*: (.+)', info)
    known = flags[1].split() if flags else []
    sets = [name for flag, name in INSTRUCTION_SETS.items() if flag in known]
    machine = {
        'CPU': model[1] if model else platform.processor() or platform.machine(),
        'instruction sets': ', '.join(sets) or 'unknown',
        'cores': str(available_cores()),
        'OS': platform.platform(),
        'Python': platform.python_version(),
    }
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            machine[package] = version(package)
    return machine | {'date': date.today().isoformat()}
