from ..deployment.runtimes import RUNTIMES, check_runtime
from .complexity import count
from .latency import (
    Quartiles,
    build_runner,
    describe_machine,
    paired_ratios,
    quartiles,
    randomize_norms,
    time_interleaved,
)

__all__ = [
    'RUNTIMES',
    'Quartiles',
    'build_runner',
    'check_runtime',
    'count',
    'describe_machine',
    'paired_ratios',
    'quartiles',
    'randomize_norms',
    'time_interleaved',
]
