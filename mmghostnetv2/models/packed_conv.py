from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKAGE = __name__.partition('.')[0]
# up to which a 1x1 convolution on the CPU takes longer to call in oneDNN
PIXELS = 1024


class PackedConv2d(nn.Conv2d):
    """Convolution, and ReLU where it follows, with weights made ready once.

    On the CPU, in float32 and channels_last, oneDNN has them packed: by itself torch
    packs them at each call, and computes a large 1x1 convolution of a small batch, or
    on one thread, by other and slower means. On a GPU they are cast once to the data
    type of autocast. In channels_last a 1x1 convolution of few pixels, or on a GPU, is
    a product of matrices.

    The copy is made for inference, at the first call and whenever weights, shape of the
    input, number of threads or data type changed. A change in place that torch does not
    count, through ``weight.data`` or of weights made in inference mode, is noticed at
    the next ``train()`` or ``eval()``. Everything else, an export among it, is computed
    as usual.
    """

    relu = False

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) as the convolution does."""
        # nn.Module itself takes a tenth of a small layer's time to find them
        try:
            weight, bias = self._parameters['weight'], self._parameters['bias']
        except KeyError:  # pruned or parametrised
            weight, bias = self.weight, self.bias
        if _is_inference(x):
            if _is_autocast(x):
                dtype = torch.get_autocast_dtype(x.device.type)
                make = partial(_cast, weight, bias, dtype)
                weight, bias = self._ready(make, (weight, bias), dtype)
                x = x.to(dtype)
            if self._is_product(x):
                x = F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias)
                return (x.relu_() if self.relu else x).permute(0, 3, 1, 2)
            if _is_for_onednn(x, weight):
                return self._onednn(x, weight, bias)
        x = self._conv_forward(x, weight, bias)
        return F.relu(x) if self.relu else x

    def _is_product(self, x: Tensor) -> bool:
        """Tell whether this is best computed as one product of matrices.

        On a GPU, in 16 bits, cuBLAS adds the bias, too, for which cuDNN takes another
        kernel. On the CPU a product takes less to call.
        """
        if x.is_cpu:
            fits = x.dtype == torch.float32 and x.numel() <= PIXELS * self.in_channels
        else:
            fits = x.is_cuda and x.dtype in (torch.float16, torch.bfloat16)
        return (
            fits
            and self.kernel_size == self.stride == (1, 1)
            and self.padding == (0, 0)
            and self.groups == 1
            and x.is_contiguous(memory_format=torch.channels_last)
        )

    def _onednn(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        options = (self.padding, self.stride, self.dilation, self.groups)
        # packed for something else oneDNN would pack them again at each call
        fits = x.shape, torch.get_num_threads()
        make = partial(_pack, weight, x.shape, options)
        packed = self._ready(make, (weight,), *fits)
        act = 'relu' if self.relu else 'none'
        return torch.ops.mkldnn._convolution_pointwise(
            x, packed, bias, *options, act, [], ''
        )

    def _ready(
        self, make: Callable[[], object], weights: tuple[Tensor | None, ...], *fits
    ) -> object:
        """Return what ``make`` makes of the weights, if need be."""
        version = *fits, *map(_state, weights)
        if self.__dict__.get('_packed', (None,))[0] != version:
            # kept alive, so that no other weights get their address
            alive = [weight.detach() for weight in weights if weight is not None]
            self._packed = version, make(), alive
        return self._packed[1]

    def train(self, mode: bool = True) -> 'PackedConv2d':
        """Set the mode, and forget the copy of the weights."""
        self.__dict__.pop('_packed', None)
        return super().train(mode)

    def __getstate__(self) -> dict:
        """Leave the packed copy, which cannot be copied or saved, to the first call."""
        state = super().__getstate__()
        return {key: state[key] for key in state if key != '_packed'}


def _pack(weight: Tensor, shape: Sequence[int], options: tuple) -> Tensor:
    weight = weight.detach().to_mkldnn()
    return torch.ops.aten.mkldnn_reorder_conv2d_weight(weight, *options, shape)


def _cast(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> tuple:
    return weight.to(dtype), None if bias is None else bias.to(dtype)


def _state(tensor: Tensor | None) -> tuple | None:
    """Return what changes with a tensor's values."""
    if tensor is None:
        return None
    # tensors made in inference mode do not count their changes
    changes = 0 if tensor.is_inference() else tensor._version
    return tensor.device, tensor.data_ptr(), changes


def _is_inference(x: Tensor) -> bool:
    # of other types are, for one, a tracer's
    return type(x) is Tensor and not (
        torch.is_grad_enabled()
        or torch.jit.is_tracing()
        or torch.compiler.is_compiling()
    )


def _is_autocast(x: Tensor) -> bool:
    if x.dtype == torch.float64:  # autocast leaves it
        return False
    if x.is_cpu:  # its name as a string takes longer
        return torch.is_autocast_enabled('cpu')
    # of other devices, such as meta, torch does not know it
    device = x.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _is_for_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        x.is_cpu
        and x.dtype == weight.dtype == torch.float32
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def pack_convs(module: nn.Module) -> nn.Module:
    """Turn all convolutions into :class:`PackedConv2d`, with the ReLU behind them.

    What that and folded norms leave in the ``nn.Sequential`` of this package's networks
    goes, too. Elsewhere ``nn.Identity`` takes its place, as layers may be counted.

    Args:
        module (nn.Module): Any network, for inference, its batch norms folded; is
            changed in place. A ReLU is taken over in ``nn.Sequential`` alone.

    Returns:
        nn.Module: ``module`` itself; unchanged where torch has no oneDNN.
    """
    if not torch.backends.mkldnn.is_available():
        return module
    # in another place another layer may follow
    places = Counter(m for _, m in module.named_modules(remove_duplicate=False))
    for conv in module.modules():
        usual = type(conv) is nn.Conv2d and conv.padding_mode == 'zeros'
        if usual and isinstance(conv.padding, tuple) and places[conv] == 1:
            conv.__class__ = PackedConv2d
    _take_over(module, False)
    return module


def _take_over(parent: nn.Module, is_own: bool) -> None:
    if type(parent) is not nn.Sequential:
        is_own = type(parent).__module__.startswith(f'{PACKAGE}.')
    if isinstance(parent, nn.Sequential):
        last = None
        for name, child in list(parent.named_children()):
            if type(child) is nn.ReLU and isinstance(last, PackedConv2d):
                last.relu = True
                child = nn.Identity()
                setattr(parent, name, child)
            if not isinstance(child, nn.Identity):
                last = child
            elif is_own:
                # with a batch of one to call them takes a tenth of the time
                delattr(parent, name)
    for child in parent.children():
        _take_over(child, is_own)
