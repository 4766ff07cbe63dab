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
from .limits import Peaks, layer_costs, measure_peaks
from .networks import build_network
from .running import build_cuda_runner, build_runner, training_step

__all__ = [
    'Peaks',
    'Quartiles',
    'build_cuda_runner',
    'build_network',
    'build_runner',
    'count',
    'count_blocks',
    'describe_machine',
    'fit_power',
    'layer_costs',
    'measure_peaks',
    'paired_ratios',
    'quartiles',
    'randomize_norms',
    'time_interleaved',
    'training_step',
]
