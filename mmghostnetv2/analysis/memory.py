"""Peak memory, measured in a process of its own."""

from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

from ..deployment.runtimes import RUNTIMES
from .networks import apply_options, build_network
from .running import start


def _status(field: str) -> int:
    """Read VmRSS, the process's memory, or VmHWM, its largest, in bytes."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{field}:'):
            return 1024 * int(line.split()[1])
    raise OSError(f'/proc/self/status has no {field}')


def _measure(
    model: str | Path, runtime: str, cfg_options: dict | None, options: dict
) -> int:
    weights = 0
    for module in RUNTIMES[runtime].modules:
        import_module(module)
    if isinstance(model, str):
        model = apply_options(build_network(model, cfg_options), model)
        weights = sum(x.numel() * x.element_size() for x in model.state_dict().values())
    before = _status('VmRSS')
    run = start(model, runtime=runtime, **options)
    for _ in range(3):
        run()
    Path('/proc/self/clear_refs').write_text('5')  # forgets the peak so far
    run()
    return weights + _status('VmHWM') - before


def peak_memory(
    model: str | Path, runtime: str, cfg_options: dict | None = None, **options
) -> int:
    """Measure the memory of a model, beside that of Python and its libraries.

    Args:
        model (str | Path): File for the runtime, or a network's name with its options,
            see :func:`~mmghostnetv2.analysis.networks.build_network`.
        runtime (str): A key of ``RUNTIMES``.
        cfg_options (dict, optional): Changes of the network's config.
        options: Other arguments of :func:`~mmghostnetv2.analysis.running.start`.

    Returns:
        int: Bytes of the weights and of all that the process takes beyond at its peak
        in the fourth run. What the first ones take alone, as to compile, is left out.

    Raises:
        OSError: The system is no Linux.
    """
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
        return pool.submit(_measure, model, runtime, cfg_options, options).result()
