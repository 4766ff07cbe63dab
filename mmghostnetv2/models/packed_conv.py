import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PackedConv2d(nn.Conv2d):
    """Convolution, and ReLU where it follows, by oneDNN with weights packed once.

    By itself torch packs the weights at each call, and computes a 1x1 convolution of a
    small batch, or on one thread, by other and slower means. The packed copy is made
    for inference on the CPU, in float32 and channels_last, at the first call and
    whenever weights, shape of the input or number of threads changed. Everything else,
    an export among it, is computed as usual.
    """

    relu = False

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) as the convolution does."""
        if _is_packable(x, self.weight):
            options = (self.padding, self.stride, self.dilation, self.groups)
            weight = self._pack(x, options)
            act = 'relu' if self.relu else 'none'
            return torch.ops.mkldnn._convolution_pointwise(
                x, weight, self.bias, *options, act, [], ''
            )
        x = super().forward(x)
        return F.relu(x) if self.relu else x

    def _pack(self, x: Tensor, options: tuple) -> Tensor:
        weight = self.weight
        # packed for something else oneDNN would pack them again at each call
        fits = x.shape, torch.get_num_threads()
        version = *fits, weight.data_ptr(), weight._version
        if self.__dict__.get('_packed_version') != version:
            self._packed_weight = torch.ops.aten.mkldnn_reorder_conv2d_weight(
                weight.detach().to_mkldnn(), *options, x.shape
            )
            self._packed_version = version
        return self._packed_weight

    def __getstate__(self) -> dict:
        """Leave the packed copy, which cannot be copied or saved, to the first call."""
        state = super().__getstate__()
        return {key: state[key] for key in state if not key.startswith('_packed_')}


def _is_packable(x: Tensor, weight: Tensor) -> bool:
    return (
        not torch.is_grad_enabled()
        and x.device.type == 'cpu'
        and x.dtype == weight.dtype == torch.float32
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.is_autocast_enabled('cpu')
        and not torch.jit.is_tracing()
        and not torch.compiler.is_compiling()
    )


def pack_convs(module: nn.Module) -> nn.Module:
    """Turn all convolutions into :class:`PackedConv2d`, with the ReLU behind them.

    What is left of folded norms in ``nn.Sequential`` goes, too.

    Args:
        module (nn.Module): Any network, for inference, its batch norms folded; is
            changed in place. A ReLU is taken over in ``nn.Sequential`` alone.

    Returns:
        nn.Module: ``module`` itself; unchanged where torch has no oneDNN.
    """
    if not torch.backends.mkldnn.is_available():
        return module
    for conv in module.modules():
        usual = type(conv) is nn.Conv2d and conv.padding_mode == 'zeros'
        if usual and isinstance(conv.padding, tuple):
            conv.__class__ = PackedConv2d
    for parent in module.modules():
        if not isinstance(parent, nn.Sequential):
            continue
        last = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU) and isinstance(last, PackedConv2d):
                last.relu = True
                delattr(parent, name)
            elif isinstance(child, nn.Identity):
                # with a batch of one to call them takes a tenth of the time
                delattr(parent, name)
            else:
                last = child
    return module
