"""Latency of networks that are to be compared on one machine.

A machine's speed drifts by more than networks differ. So all of them are built first,
checked against torch, then run in turn, and compared within a round.
"""

import os
import platform
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..deployment.runtimes import (
    RUNTIMES,
    TOLERANCE,
    check_runtime,
    flatten,
    require_equal,
)

Runner = Callable[[], list[np.ndarray]]


def build_runner(
    network: nn.Module,
    shape: Sequence[int],
    runtime: str,
    threads: int,
    folder: Path | str,
    name: str | None = None,
) -> Runner:
    """Make a network ready to be timed, and check that it still computes the same.

    Args:
        network (nn.Module): Takes one image batch, returns tensors or sequences of
            them; is left in eval mode. At its initialisation it may hide a wrong
            export, see :func:`randomize_norms`.
        shape (Sequence[int]): Shape of the input, (N, C, H, W); its values are random.
        runtime (str): Where it runs, on the CPU: 'onnxruntime', a static export by
            torch's TorchScript exporter; 'torch', eager; 'compiled', torch.compile;
            'openvino' or 'ncnn', both by way of the static export; or 'litert'.
        threads (int): Threads that compute one operator.
        folder (Path | str): Existing folder for the files ``name``.onnx, .xml etc.
        name (str, optional): Name of the network; that of its class by default.

    Returns:
        Callable: Runs the network once and returns its outputs, a flat list of arrays.

    Raises:
        ValueError: ``runtime`` is unknown or ``threads`` below 1.
        ImportError: The runtime is not installed.
        RuntimeError: The outputs are further than 1e-4 of torch's largest value from
            torch's. The TorchScript exporter silently leaves out some operations, such
            as an in-place one on a chunk.
    """
    check_runtime(runtime)
    if threads < 1:
        raise ValueError(f'threads must be at least 1, got {threads}')
    name = name or type(network).__name__
    network.eval()
    x = torch.rand(*shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = flatten(network(x))
    convert, open_model, _ = RUNTIMES[runtime]
    session = open_model(convert(network, x, Path(folder, name)), threads)
    images = x.numpy()
    try:
        require_equal(session(images), expected, TOLERANCE, runtime)
    except RuntimeError as error:
        raise RuntimeError(f'{name}: {error}') from error
    return lambda: session(images)


@torch.no_grad()
def randomize_norms(
    network: nn.Module, shape: Sequence[int] = (2, 3, 224, 224), seed: int = 0
) -> nn.Module:
    """Make an untrained network sensitive to what a wrong export changes.

    At initialisation features fade from layer to layer and gates stay near one half, so
    that, say, another up-sampling differs by less than rounding. Here the batch norms
    get random weights and biases and the statistics of random images. The latency does
    not depend on them.

    Args:
        network (nn.Module): Is changed in place and left in eval mode.
        shape (Sequence[int]): Shape of the images, (N, C, H, W). Statistics of too few
            values, as of two images of 64 pixels, make a network that also amplifies
            the differences of rounding, beyond 1e-4.
        seed (int): Seed of all random values.

    Returns:
        nn.Module: ``network`` itself.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in network.eval().modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().reset_running_stats()
        norm.momentum = None  # an average of all batches, here of the only one
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

    The order is another one in each round, since what ran before leaves its traces in
    caches and clock rates.

    Args:
        runners (Mapping[str, Callable]): What to time, by name.
        rounds (int): Number of rounds.
        warmup (int): Runs of each before, which are not timed.
        seed (int): Seed of the orders.

    Returns:
        dict[str, list[float]]: Seconds by name, one value a round.

    Raises:
        ValueError: ``rounds`` is below 1.
    """
    if rounds < 1:
        raise ValueError(f'rounds must be at least 1, got {rounds}')
    for runner in runners.values():
        for _ in range(warmup):
            runner()
    seconds = {name: [] for name in runners}
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
        """Write the median and, in brackets, the interquartile range."""
        lower, median, upper = (f'{value:.{digits}f}' for value in self)
        return f'{median} ({lower} to {upper})'


def quartiles(values: Sequence[float]) -> Quartiles:
    """Return median and interquartile range of some values."""
    return Quartiles(*np.percentile(values, (25, 50, 75)).tolist())


def paired_ratios(
    seconds: Mapping[str, Sequence[float]], reference: str
) -> dict[str, Quartiles]:
    """Compare times to those of the reference in the same round.

    What slows a whole round down leaves the ratio as it is.

    Args:
        seconds (Mapping[str, Sequence[float]]): What :func:`time_interleaved` returns.
        reference (str): Name of what the others are divided by.

    Returns:
        dict[str, Quartiles]: By name, quartiles over the rounds of the ratio.

    Raises:
        KeyError: ``reference`` was not timed.
    """
    base = np.array(seconds[reference])
    return {name: quartiles(np.array(s) / base) for name, s in seconds.items()}


def _cpu_model() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(':')[1].strip() for line in lines if 'model name' in line]
    return names[0] if names else platform.processor() or platform.machine()


def describe_machine() -> dict[str, str]:
    """Say where and when something was measured, for the head of a table.

    Returns:
        dict[str, str]: 'CPU', 'cores' (those that this process may use), 'OS',
        'Python', the version of each runtime installed, and 'date'.
    """
    machine = {
        'CPU': _cpu_model(),
        'cores': str(len(os.sched_getaffinity(0))),
        'OS': platform.platform(),
        'Python': platform.python_version(),
    }
    for package in ('torch', 'onnxruntime', 'openvino', 'ai-edge-litert', 'ncnn'):
        try:
            machine[package] = version(package)
        except PackageNotFoundError:
            continue
    return machine | {'date': date.today().isoformat()}
