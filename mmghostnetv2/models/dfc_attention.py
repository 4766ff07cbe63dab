import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn


class DFCAttention(nn.Sequential):
    """Decoupled fully connected attention (GhostNetV2 paper, section 4.1, Eqs. 4-6).

    Every value of the gate gathers a whole neighbourhood: first along its row, then
    along its column, by two depth-wise convolutions on features of half the size. The
    six layers are held as items 0 to 5, the names of the released weights.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the gate.
        kernel_size (int): Length of the row and of the column convolution; odd.
        dilation (int): Dilation of both.
        norm_cfg (dict): Config of the normalisation layers.

    Raises:
        ValueError: ``kernel_size`` is even, and the gate would not fit the features.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 5,
        dilation: int = 1,
        norm_cfg: dict = dict(type='BN'),
    ) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f'kernel_size must be odd, got {kernel_size}')

        def conv_norm(channels: int, kernel: tuple[int, int], groups: int = 1):
            padding = tuple(dilation * (k // 2) for k in kernel)
            yield nn.Conv2d(
                channels,
                out_channels,
                kernel,
                padding=padding,
                dilation=dilation,
                groups=groups,
                bias=False,
            )
            yield build_norm_layer(norm_cfg, out_channels)[1]

        super().__init__(
            *conv_norm(in_channels, (1, 1)),
            *conv_norm(out_channels, (1, kernel_size), out_channels),
            *conv_norm(out_channels, (kernel_size, 1), out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute the gate.

        Args:
            x (Tensor): Features of shape (N, in_channels, H, W), any H and W >= 1.

        Returns:
            Tensor: Gate in (0, 1) of shape (N, out_channels, H, W).
        """
        height, width = x.shape[-2:]
        # a side of one pixel has nothing to halve
        x = F.avg_pool2d(x, (min(height, 2), min(width, 2)))
        gate = super().forward(x).sigmoid()
        return F.interpolate(gate, size=(height, width), mode='nearest')
