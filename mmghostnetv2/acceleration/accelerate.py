from typing import Any

import torch
from torch import Tensor, nn

from ..models import DFCAttention
from ..models.dfc_attention import downsample
from ..models.ghost_module import GhostModule

# The kernels accumulate in float32, which would lose digits of float64.
KERNEL_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# The kernels compute offsets within one image in 32 bits.
MAX_KERNEL_NUMEL = 2**30


class FusedGhostModule(GhostModule):
    """Ghost module whose DFC attention ends in one Triton kernel.

    The kernel computes the sigmoid, the up-sampling, the concatenation and the product,
    and in folded networks the row and the column convolution, too. Hooks on these
    layers are not called then. There are no gradients of gradients.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        if not self.is_fusable(x):
            return super().forward(x)
        from .gate_kernels import FusedGate, fused_gate

        primary = self.primary_conv(x)
        cheap = self.cheap_operation(primary)
        if self.out_channels % 2 == 1:  # both halves together have one channel more
            cheap = cheap[:, :-1]
        attention: Any = self.short_conv
        layers = [m for m in attention if not isinstance(m, nn.Identity)]
        z = downsample(x, attention.down_sampling)
        if torch.is_grad_enabled():
            for layer in layers:
                z = layer(z)
            return FusedGate.apply(z, primary, cheap)
        # What is left of a folded attention are three convolutions with biases.
        is_folded = len(layers) == 3 and all(conv.bias is not None for conv in layers)
        convs = layers[1:] if is_folded else []
        for layer in layers[:1] if is_folded else layers:
            z = layer(z)
        return fused_gate(z, primary, cheap, convs)

    def is_fusable(self, x: Tensor) -> bool:
        """Tell whether the kernels apply to an input of shape (N, C, H, W)."""
        attention: Any = self.short_conv
        return (
            x.is_cuda
            and type(x) is Tensor  # subclasses trace or wrap
            and not torch.jit.is_tracing()
            and not torch.compiler.is_compiling()
            and x.dtype in KERNEL_DTYPES
            and self.out_channels * x.shape[-2:].numel() <= MAX_KERNEL_NUMEL
            and attention.scale is torch.sigmoid
            and attention.scaling_position == 'before'
            and attention.up_sampling == 'nearest'
        )


def require_kernels() -> None:
    """Try a kernel on the current GPU.

    Raises:
        RuntimeError: Triton is missing or does not work on this GPU.
    """
    try:
        from .gate_kernels import fused_gate

        ones = torch.ones(1, 1, 2, 2, device='cuda')
        fused_gate(ones.view(1, 4, 1, 1)[:, :2], ones, ones)
        torch.cuda.synchronize()
    except Exception as error:  # without a GPU, a compiler or Triton: of many types
        raise RuntimeError(
            'the Triton kernels of DFC attention do not work here; do not call '
            f'accelerate(): {type(error).__name__}: {error}'
        ) from error


def accelerate(model: nn.Module) -> nn.Module:
    """Let the Ghost modules of a model compute their DFC attention in Triton kernels.

    The outputs stay the same up to rounding. Where the kernels do not apply, as on the
    CPU, in a traced or compiled network and with other ablation options, the plain
    operators are used.

    Args:
        model (nn.Module): Any model with GhostNetV2 inside; it is changed in place.

    Returns:
        nn.Module: ``model`` itself.

    Raises:
        RuntimeError: Triton is missing or does not work on the current GPU.
    """
    require_kernels()
    for module in model.modules():
        if type(module) is GhostModule and type(module.short_conv) is DFCAttention:
            module.__class__ = FusedGhostModule
    return model


def restore(model: nn.Module) -> nn.Module:
    """Undo :func:`accelerate`; return ``model`` itself."""
    modules: Any = model.modules()
    for module in modules:
        if type(module) is FusedGhostModule:
            module.__class__ = GhostModule  # type: ignore[assignment]
    return model
