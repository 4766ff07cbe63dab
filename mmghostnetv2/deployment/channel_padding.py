"""Ghost halves padded to the blocks of channels that ONNX Runtime computes in.

It keeps features in blocks of 8 or 16 channels, the width of the CPU's registers, from
one convolution to the next, but concatenates them so only where all parts are whole
blocks. Those of a Ghost module are half of its channels each, which few are.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..models import DFCAttention, GhostNet
from ..models.ghost_module import GhostModule


class _Layout(NamedTuple):
    """Where channels lie among more, ``size`` of them; zeros are in between."""

    positions: Tensor
    size: int

    def pad(self, x: Tensor, dim: int = 0) -> Tensor:
        shape = list(x.shape)
        shape[dim] = self.size
        return x.new_zeros(shape).index_copy_(dim, self.positions, x)


class _Padding:
    """Changes layers in place, for halves that are multiples of a number."""

    def __init__(self, multiple: int) -> None:
        self.multiple = multiple

    def halves(self, channels: int) -> tuple[_Layout, _Layout]:
        """Return the layouts of a Ghost module's output and of one half alone."""
        half = (channels + 1) // 2
        size = -(-half // self.multiple) * self.multiple
        positions = torch.arange(channels)
        positions[half:] += size - half
        return _Layout(positions, 2 * size), _Layout(torch.arange(half), size)

    def conv(
        self,
        conv: nn.Conv2d,
        inputs: _Layout | None = None,
        outputs: _Layout | None = None,
    ) -> None:
        """Pad a convolution; None leaves a side as it is."""
        weight = conv.weight.data
        if inputs is not None:
            conv.in_channels = inputs.size
            if conv.groups > 1:  # depth-wise
                conv.groups = inputs.size
            else:
                weight = inputs.pad(weight, 1)
        if outputs is not None:
            conv.out_channels = outputs.size
            weight = outputs.pad(weight)
            if conv.bias is not None:
                conv.bias = nn.Parameter(outputs.pad(conv.bias.data))
        conv.weight = nn.Parameter(weight)

    def ghost(self, module: GhostModule, inputs: _Layout) -> _Layout:
        """Pad a Ghost module; return the layout of its output."""
        outputs, half = self.halves(module.out_channels)
        self.conv(module.primary_conv[0], inputs, half)
        self.conv(module.cheap_operation[0], half, half)
        if module.short_conv is not None:
            pointwise, *others = _convs(module.short_conv)
            self.conv(pointwise, inputs, outputs)
            for depthwise in others:
                self.conv(depthwise, outputs, outputs)
        module.out_channels = outputs.size
        return outputs

    def backbone(self, backbone: GhostNet) -> list[_Layout]:
        """Pad a network; return the layout of each stage's output but the last's."""
        layout, _ = self.halves(backbone.conv_stem.out_channels)
        self.conv(backbone.conv_stem, None, layout)
        layouts = []
        for stage in backbone.blocks[: len(backbone.arch_settings)]:
            for block in stage:
                mid = self.ghost(block.ghost1, layout)
                if block.conv_dw is not None:
                    self.conv(block.conv_dw, mid, mid)
                if block.se is not None:
                    self.conv(block.se.conv_reduce, mid)
                    self.conv(block.se.conv_expand, None, mid)
                outputs = self.ghost(block.ghost2, mid)
                for conv in _convs(block.shortcut):
                    depthwise = conv.groups > 1
                    self.conv(conv, layout, layout if depthwise else outputs)
                layout = outputs
            layouts.append(layout)
        for stage in backbone.blocks[len(backbone.arch_settings) :]:
            self.conv(stage[0].conv, layout)
        return layouts


class _WithoutPadding:
    """Hook that cuts what was added out of the outputs; the last stage's have none."""

    def __init__(self, layouts: list[_Layout]) -> None:
        self.layouts = layouts

    def __call__(
        self, backbone: GhostNet, args: tuple, outs: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        cut = []
        for index, out in zip(backbone.out_indices, outs, strict=True):
            if index < len(self.layouts):
                positions, size = self.layouts[index]
                half, first = size // 2, (len(positions) + 1) // 2
                parts = out[:, :first], out[:, half : half + len(positions) - first]
                out = torch.cat(parts, dim=1)
            cut.append(out)
        return tuple(cut)


def _convs(module: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


def pad_ghost_channels(model: nn.Module, multiple: int) -> nn.Module:
    """Add channels of zeros so that each half of a Ghost module is a multiple.

    What is computed stays the same, with more multiplications. This is for ONNX Runtime
    alone; other runtimes get slower.

    Args:
        model (nn.Module): A GhostNet or GhostNetV2, or a model that has it as its
            ``backbone``; norms are folded, see :func:`mmghostnetv2.models.fold_norms`.
            Is changed in place.
        multiple (int): What each half is made a multiple of: 16 for CPUs with AVX-512,
            else 8.

    Returns:
        nn.Module: ``model`` itself.

    Raises:
        ValueError: ``multiple`` is below 1, or the network is another one, has norms
            left, another attention than DFC, or been padded.
    """
    if multiple < 1:
        raise ValueError(f'multiple must be at least 1, got {multiple}')
    backbone = getattr(model, 'backbone', model)
    if not isinstance(backbone, GhostNet):
        raise ValueError(
            f'only GhostNet and GhostNetV2 can be padded, not {type(backbone).__name__}'
        )
    for name, module in backbone.named_modules():
        if isinstance(module, GhostModule):
            kind = type(module.short_conv)
            if not issubclass(kind, (DFCAttention, type(None))):
                raise ValueError(f'{name}: {kind.__name__} cannot be padded')
        elif [*module.parameters(recurse=False)] and not isinstance(module, nn.Conv2d):
            raise ValueError(f'{name}: {type(module).__name__} is to be folded first')
    if any(type(h) is _WithoutPadding for h in backbone._forward_hooks.values()):
        raise ValueError('the network is padded already')
    layouts = _Padding(multiple).backbone(backbone)
    backbone.register_forward_hook(_WithoutPadding(layouts))
    return model
