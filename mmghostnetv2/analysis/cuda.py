"""Networks on a GPU, to be timed."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..deployment.runtimes import require_equal, tensors

CUDA_RUNTIMES = ('torch', 'compiled', 'cudagraph')


def build_cuda_runner(
    network: nn.Module,
    images: Tensor,
    expected: Sequence[np.ndarray],
    runtime: str = 'torch',
    amp: bool = False,
) -> Callable[[], None]:
    """Make a network ready to be timed on a GPU, and check what it computes there.

    Args:
        network (nn.Module): Is moved to the GPU.
        images (Tensor): What it takes, (N, C, H, W).
        expected (Sequence[np.ndarray]): Its outputs on the CPU.
        runtime (str): 'torch', eager; 'compiled', torch.compile with weights as
            constants; or 'cudagraph', which replays what eager launches.
        amp (bool): Whether to compute in mixed precision.

    Returns:
        Callable: Runs the network once, and waits until it is done.

    Raises:
        RuntimeError: There is no GPU, or an output is further from the CPU's than 1e-3
            of its largest value, 5e-2 in mixed precision.
    """
    network, images = network.cuda().eval(), images.cuda()
    if runtime == 'compiled':
        options = {'freezing': True}
        network = torch.compile(network, fullgraph=True, dynamic=False, options=options)

    # no inference mode, whose tensors a graph cannot be captured with
    @torch.no_grad()
    def compute():
        with torch.autocast('cuda', enabled=amp):
            return network(images)

    for _ in range(3):  # libraries choose their algorithms, which no graph may hold
        outputs = compute()
    run = compute
    if runtime == 'cudagraph':
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = compute()

        def run(alive=(network, images)):  # of which a graph has the addresses alone
            graph.replay()

        run()
    arrays = [tensor.float().cpu().numpy() for tensor in tensors(outputs)]
    require_equal(arrays, expected, 5e-2 if amp else 1e-3, runtime)

    def timed() -> None:
        run()
        torch.cuda.synchronize()

    return timed
