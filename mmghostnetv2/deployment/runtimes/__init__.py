"""The runtimes that a network may run in on the CPU, one file each.

A further runtime is a file here with its :class:`Runtime` record, its place in
``RECORDS`` and a test. The tools and the docs read the records.
"""

from importlib.util import find_spec
from pathlib import Path

from .base import TOLERANCE, Runtime, Session, flatten, require_equal, tensors
from .coreml import COREML
from .executorch import EXECUTORCH
from .litert import LITERT
from .ncnn import NCNN
from .onnxruntime import ONNXRUNTIME
from .openvino import OPENVINO
from .pytorch import COMPILED, EAGER

__all__ = [
    'RUNTIMES',
    'TOLERANCE',
    'Runtime',
    'Session',
    'check_runtime',
    'find_runtime',
    'flatten',
    'require_equal',
    'tensors',
]

RECORDS = ONNXRUNTIME, EAGER, COMPILED, OPENVINO, LITERT, NCNN, EXECUTORCH, COREML
RUNTIMES = {record.name: record for record in RECORDS}


def find_runtime(path: Path) -> Runtime:
    """Return the runtime whose files have the suffix of ``path``.

    Raises:
        ValueError: There is none.
    """
    known = {r.suffix: r for r in RUNTIMES.values() if r.suffix}
    suffix = path.suffix.lower()
    if suffix not in known:
        raise ValueError(
            f'{path} is of an unknown format; a model ends in {", ".join(known)}'
        )
    return known[suffix]


def check_runtime(runtime: str) -> None:
    """Check that a runtime is known and installed.

    Args:
        runtime (str): A key of ``RUNTIMES``.

    Raises:
        ValueError: There is no such runtime.
        ImportError: Something that it needs is missing.
    """
    if runtime not in RUNTIMES:
        allowed = ', '.join(map(repr, RUNTIMES))
        raise ValueError(f'runtime must be one of {allowed}, got {runtime!r}')
    record = RUNTIMES[runtime]
    missing = [name for name in record.modules if not find_spec(name)]
    if missing:
        packages = ' '.join(name.replace('_', '-') for name in missing)
        raise ImportError(
            f'runtime {runtime!r} is not installed: pip install {packages}'
        )
    record.check()
