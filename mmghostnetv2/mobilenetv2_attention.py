"""MobileNetV2 with attention. Importing this module needs mmpretrain."""

from mmengine.registry import MODELS
from mmpretrain.models import MobileNetV2
from torch import Tensor, nn

from .models.checks import check_choice

POSITIONS = ('expanded', 'output')


class GatedExpansion(nn.Sequential):
    """Convolutions of an inverted residual, with attention on the expanded features.

    The last item is the attention. It computes its gate from the block's input. If the
    block does not expand its input, the gate is applied to the input.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map the block's input to its output without the shortcut."""
        *expansion, depthwise, projection, attention = self
        expanded = expansion[0](x) if expansion else x
        return projection(depthwise(attention(x, expanded)))


class MobileNetV2Attention(MobileNetV2):
    """mmpretrain's MobileNetV2 with attention in every block (paper, Table 4).

    The attention is ``layerI.J.conv.attention``; all other parameters keep their names,
    so weights of MobileNetV2 load.

    Args:
        attention (dict): Config of the attention layer without its channels, which are
            added for each block.
        position (str): Which features the attention gates. 'expanded' means the
            expanded features, with a gate computed from the block's input; the layer
            must take both, as DFCAttention does. 'output' means the projection's output
            before the shortcut is added, with a gate computed from this output.
        kwargs: As in mmpretrain's MobileNetV2. The outputs are as there, too.

    Raises:
        ValueError: ``position`` is not one of the allowed values.
        TypeError: ``position`` is 'expanded', but the layer takes one input only.

    Example:
        >>> import torch
        >>> from mmghostnetv2.mobilenetv2_attention import MobileNetV2Attention
        >>> backbone = MobileNetV2Attention(attention=dict(type='DFCAttention'))
        >>> [tuple(f.shape) for f in backbone(torch.rand(1, 3, 224, 224))]
        [(1, 1280, 7, 7)]
    """

    def __init__(self, attention: dict, position: str = 'expanded', **kwargs) -> None:
        check_choice('position', position, POSITIONS)
        self.attention = attention
        self.position = position
        super().__init__(**kwargs)

    def make_layer(self, *args, **kwargs) -> nn.Sequential:
        """Build the parent's blocks and add the attention to each."""
        layer = super().make_layer(*args, **kwargs)
        for block in layer:
            first, projection = block.conv[0], block.conv[-1]
            if self.position == 'expanded':
                channels = dict(
                    in_channels=first.in_channels, out_channels=projection.in_channels
                )
                block.conv = GatedExpansion(*block.conv)
            else:
                channels = dict(in_channels=projection.out_channels)
            block.conv.attention = MODELS.build(dict(self.attention, **channels))
        return layer
