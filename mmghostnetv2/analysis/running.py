"""Functions to time: inference of a network in a runtime, or one training step."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..deployment.check import require_same_boxes
from ..deployment.runtimes import (
    RUNTIMES,
    TOLERANCE,
    check_runtime,
    flatten,
    require_equal,
    tensors,
)

Runner = Callable[[], object]
CUDA_RUNTIMES = ('torch', 'compiled', 'cudagraph')
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


def random_images(shape: Sequence[int]) -> Tensor:
    """Return images of shape (N, C, H, W) from 0 to 1, the same ones at each call."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def start(
    model: nn.Module | Path, shape: Sequence[int], runtime: str, threads: int
) -> Callable[[], list[np.ndarray]]:
    """Open a network or a file in ``runtime``, a key of ``RUNTIMES``.

    Returns:
        Callable: Runs the model once on :func:`random_images` of ``shape`` and returns
        its outputs.
    """
    return partial(RUNTIMES[runtime].open(model, threads), random_images(shape).numpy())


def build_runner(
    network: nn.Module,
    shape: Sequence[int],
    runtime: str,
    threads: int,
    path: Path,
    expected: Sequence[np.ndarray] | None = None,
    int8: bool = False,
) -> tuple[Runner, nn.Module | Path]:
    """Prepare a network for timing on the CPU, and check its outputs there.

    Args:
        network (nn.Module): Takes a batch of images and returns tensors or sequences
            of them; is left in eval mode. If it is untrained, a wrong export may not be
            noticed, see :func:`~mmghostnetv2.analysis.randomize_norms`.
        shape (Sequence[int]): Shape of the images, (N, C, H, W).
        runtime (str): A key of ``RUNTIMES``.
        threads (int): Threads that compute one operator.
        path (Path): File for the runtime, without its suffix.
        expected (Sequence[np.ndarray], optional): Outputs that the network must have.
            Defaults to its own outputs in torch.
        int8 (bool): Whether to quantise the checked file by random images. Its time is
            that of a trained network in 8 bits; its outputs are not.

    Returns:
        tuple[Callable, nn.Module | Path]: A function that runs the network once and
        returns its outputs, and what the runtime opened: the network or a file.

    Raises:
        ValueError: The runtime is unknown, or has no 8 bits.
        ImportError: The runtime is not installed.
        RuntimeError: An output differs from the expected one by more than 1e-4 of its
            largest value, or more than one of 100 boxes after suppression do.
    """
    check_runtime(runtime)
    record = RUNTIMES[runtime]
    if int8 and 'int8' not in record.compress:
        raise ValueError(f'{record.title} has no 8 bits here')
    images = random_images(shape)
    network.eval()
    if expected is None:
        with torch.no_grad():
            expected = flatten(network(images))
    model = record.convert(network, images, path)
    run = start(model, shape, runtime, threads)
    if getattr(network, 'output_names', ()) == ('dets', 'labels'):
        # Rounding may change the order of boxes whose scores are almost equal.
        for dets, labels, *theirs in zip(*run(), *expected, strict=True):
            require_same_boxes((dets, labels), theirs, max(shape[2:]), runtime)
    else:
        require_equal(run(), expected, TOLERANCE, runtime)
    if int8:
        record.compress['int8'](network, images, model, images[None])
        run = start(model, shape, runtime, threads)
    return run, model


def build_cuda_runner(
    network: nn.Module,
    shape: Sequence[int],
    runtime: str,
    expected: Sequence[np.ndarray],
    amp: bool = False,
) -> Runner:
    """Prepare a network for timing on a GPU, and check its outputs there.

    Args:
        network (nn.Module): Is moved to the GPU.
        shape (Sequence[int]): Shape of the images, (N, C, H, W).
        runtime (str): 'torch', eager mode; 'compiled', torch.compile with weights as
            constants and CUDA graphs; or 'cudagraph', which replays the kernels that
            eager mode launches.
        expected (Sequence[np.ndarray]): Its outputs on the CPU.
        amp (bool): Whether to compute in mixed precision.

    Returns:
        Callable: Runs the network once and waits until the GPU is done.

    Raises:
        RuntimeError: There is no GPU, or an output differs from the CPU's by more than
            1e-3 of its largest value, or 5e-2 in mixed precision.
    """
    images = random_images(shape).cuda()
    model: Any = network.cuda().eval()
    if runtime == 'compiled':
        options: dict[str, Any] = {'freezing': True, 'triton.cudagraphs': True}
        model = torch.compile(model, fullgraph=True, dynamic=False, options=options)

    # A CUDA graph cannot be captured with the tensors of inference mode.
    @torch.no_grad()
    def compute():
        with torch.autocast('cuda', enabled=amp):
            return model(images)

    for _ in range(3):  # cuDNN tunes itself first, which a graph must not capture
        outputs = compute()
    run = compute
    if runtime == 'cudagraph':
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = compute()

        # A graph stores only addresses; the default argument keeps both objects alive.
        def run(alive=(model, images)):
            graph.replay()

        run()
    arrays = [tensor.float().cpu().numpy() for tensor in tensors(outputs)]
    require_equal(arrays, expected, 5e-2 if amp else 1e-3, runtime)

    def timed() -> None:
        run()
        torch.cuda.synchronize()

    return timed


def training_step(
    network: nn.Module,
    shape: Sequence[int],
    threads: int = 1,
    device: str = 'cpu',
    amp: bool = False,
    compiled: bool = False,
) -> Callable[[], float]:
    """Prepare a network for training steps on one batch of random images.

    A step is the forward pass, the backward pass and an update by SGD with momentum.
    The loss is the sum of the mean squares of the outputs.

    Args:
        network (nn.Module): Takes a batch of images and returns tensors or sequences
            of them. It is left in train mode with its dropout switched off, so that the
            losses of equal networks are equal.
        shape (Sequence[int]): Shape of the images, (N, C, H, W).
        threads (int): Threads that compute one operator on the CPU.
        device (str): 'cpu' or 'cuda'.
        amp (bool): Whether to compute in mixed precision, with a scaled loss.
        compiled (bool): Whether to compile the network, as mmengine's ``compile`` does.

    Returns:
        Callable: Does one step and returns the loss.
    """
    network = network.to(device).train()
    compute: Any = torch.compile(network, dynamic=False) if compiled else network
    modules: Any = network.modules()
    for module in modules:
        if isinstance(module, DROPOUTS):
            module.p = 0
        elif hasattr(module, 'drop_rate'):  # timm's classifiers call F.dropout
            module.drop_rate = 0
    images = random_images(shape).to(device)
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)
    scaler = torch.amp.GradScaler(device, enabled=amp)

    def step() -> float:
        torch.set_num_threads(threads)
        optimizer.zero_grad()
        with torch.autocast(device, enabled=amp):
            outputs = tensors(compute(images))
        loss: Any = sum(output.float().square().mean() for output in outputs)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    return step
