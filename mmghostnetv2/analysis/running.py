"""Models made ready to be run once at a time, for inference or a training step."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from ..deployment.runtimes import RUNTIMES, tensors


def random_images(shape: Sequence[int]) -> Tensor:
    """Return images of shape (N, C, H, W), from 0 to 1, always the same ones."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def training_step(
    network: nn.Module,
    shape: Sequence[int],
    threads: int = 1,
    device: str = 'cpu',
    amp: bool = False,
) -> Callable[[], float]:
    """Make a network ready to be trained on one batch of random images.

    A step is the forward pass, a loss, the sum of the mean squares of its outputs, the
    backward pass, and an update by SGD with momentum.

    Args:
        network (nn.Module): Takes one image batch, returns tensors or sequences of
            them; is left in train mode, its dropout switched off, so that the losses of
            equal networks are equal.
        shape (Sequence[int]): Shape of the images, (N, C, H, W).
        threads (int): Threads that compute one operator on the CPU.
        device (str): 'cpu' or 'cuda'.
        amp (bool): Whether to compute in mixed precision, with a scaled loss.

    Returns:
        Callable: Does a step and returns the loss.
    """
    network = network.to(device).train()
    for module in network.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0
        elif hasattr(module, 'drop_rate'):  # timm's classifiers, which call a function
            module.drop_rate = 0
    images = random_images(shape).to(device)
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)
    scaler = torch.amp.GradScaler(device, enabled=amp)

    def step() -> float:
        torch.set_num_threads(threads)
        optimizer.zero_grad()
        with torch.autocast(device, enabled=amp):
            outputs = tensors(network(images))
        loss = sum(output.float().square().mean() for output in outputs)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    return step


def start(
    model: nn.Module | Path,
    shape: Sequence[int],
    runtime: str,
    threads: int,
    train: bool = False,
) -> Callable[[], object]:
    """Make a model ready to run on the CPU.

    Args:
        model (nn.Module | Path): What ``RUNTIMES[runtime].convert`` returns.
        shape (Sequence[int]): Shape of the images, (N, C, H, W).
        runtime (str): A key of ``RUNTIMES``; for a training it does not matter.
        threads (int): Threads that compute one operator.
        train (bool): Whether to train the network, see :func:`training_step`.

    Returns:
        Callable: Runs it once on :func:`random_images`; returns the outputs, a flat
        list of arrays, or of a training the loss.
    """
    if train:
        return training_step(model, shape, threads)
    session = RUNTIMES[runtime].open(model, threads)
    return partial(session, random_images(shape).numpy())
