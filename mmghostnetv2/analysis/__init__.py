from .complexity import count
from .latency import (
    RUNTIMES,
    Quartiles,
    build_runner,
    check_runtime,
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
