"""Peak memory of a model, measured in a separate process."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ..deployment.runtimes import RUNTIMES
from .networks import apply_options, build_network
from .running import start, training_step


def _status(field: str) -> int:
    """Read VmRSS, the memory of this process, or VmHWM, its peak, in bytes."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{field}:'):
            return 1024 * int(line.split()[1])
    raise OSError(f'/proc/self/status has no {field}')


def _measure(
    model: Any,
    runtime: str,
    shape: Sequence[int],
    threads: int,
    train: bool,
    cfg_options: dict | None,
) -> int:
    weights = 0
    for module in RUNTIMES[runtime].modules:
        import_module(module)
    if isinstance(model, str):
        model = apply_options(build_network(model, cfg_options), model)
        # These weights are part of ``before``, and so are added to the result.
        weights = sum(x.nbytes for x in model.state_dict().values())
    before = _status('VmRSS')
    run: Callable[[], object] = (
        training_step(model, shape, threads, compiled=runtime == 'compiled')
        if train
        else start(model, shape, runtime, threads)
    )
    for _ in range(3):
        run()
    Path('/proc/self/clear_refs').write_text('5')  # reset VmHWM
    run()
    return weights + _status('VmHWM') - before


def peak_memory(
    model: str | Path,
    runtime: str,
    shape: Sequence[int],
    threads: int,
    train: bool = False,
    cfg_options: dict | None = None,
) -> int:
    """Measure the memory of a model without that of Python and its libraries.

    Args:
        model (str | Path): File for the runtime, or a network's name with its options,
            see :func:`~mmghostnetv2.analysis.networks.build_network`.
        runtime (str): A key of ``RUNTIMES``; 'torch' or 'compiled' if ``train``.
        shape (Sequence[int]): Shape of the images, (N, C, H, W).
        threads (int): Threads that compute one operator.
        train (bool): Whether to do training steps instead of inference.
        cfg_options (dict, optional): Changes of the network's config.

    Returns:
        int: Bytes of the weights plus all other memory of the process at its peak in
        the fourth run. Memory that only the first runs need, to compile for example,
        does not count.

    Raises:
        OSError: The system is not Linux.
    """
    arguments = model, runtime, shape, threads, train, cfg_options
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
        return pool.submit(_measure, *arguments).result()
