"""Costs, latency and memory of networks."""

from .complexity import count, count_blocks
from .latency import (
    Quartiles,
    describe_machine,
    fit_power,
    paired_ratios,
    quartiles,
    randomize_norms,
    time_interleaved,
)
from .networks import build_network
from .running import build_cuda_runner, build_runner, training_step

__all__ = [
    'Quartiles',
    'build_cuda_runner',
    'build_network',
    'build_runner',
    'count',
    'count_blocks',
    'describe_machine',
    'fit_power',
    'paired_ratios',
    'quartiles',
    'randomize_norms',
    'time_interleaved',
    'training_step',
]
