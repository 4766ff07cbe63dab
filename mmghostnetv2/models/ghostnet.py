"""GhostNet (V1), and what all backbones of this package have in common."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from math import inf
from typing import Any

import torch
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # torch has no public name for it

from ..checkpoint import (
    partial_loading,
    refuse_other_heads,
    refuse_other_networks,
    released_to_mmpretrain,
    use_released_init,
)
from ..registry import register_model
from .branches import adapt_weights
from .checks import check_choice, is_int
from .fold_norms import fold_norms
from .ghost_module import GhostBottleneck, GhostModule, RecomputedGhostModule
from .recompute import recompute
from .squeeze_excite import make_divisible


@register_model
class GhostNet(BaseModule):
    """GhostNet (V1) backbone.

    Source: `GhostNet: More Features from Cheap Operations
    <https://arxiv.org/abs/1911.11907>`_. Parameters have the names and shapes of the
    released weights and of timm's ``ghostnet_100``. Stages past the deepest of
    ``out_indices`` are not built, because distributed training fails if a parameter
    gets no gradient.

    Args:
        widen_factor (float): Factor of every channel count. The product is rounded to a
            multiple of 4. Defaults to 1.0.
        out_indices (Sequence[int]): Stages, of the ten from 0 to 9, whose output is
            returned; negative ones count from the end. Defaults to (9, ).
        output_stride (int): 8, 16 or 32. Blocks that would go beyond it keep the size,
            and the layers after them are dilated instead (DeepLab). Defaults to 32.
        frozen_stages (int): The stem and the stages from 0 to this one are frozen: no
            gradient, norms in eval mode. -1 freezes nothing. Defaults to -1.
        norm_eval (bool): Keep all batch norms in eval mode. Defaults to False.
        with_cp (bool | str): What to recompute in the backward pass, to save memory:
            True means every block; 'attention' means only the concatenation and the
            attention in Ghost modules, which is faster and saves less memory. Defaults
            to False.
        zero_init_residual (bool): Initialise the weights of the last norms of every
            block with zero, so that it starts as its shortcut. This speeds up short
            trainings. Defaults to False, as in the released code.
        in_channels (int): Channels of the input image. Defaults to 3.
        norm_cfg (dict): Config of the normalisation layers.
            Defaults to dict(type='BN').
        act_cfg (dict): Config of the activations except those inside
            squeeze-and-excitation. Defaults to dict(type='ReLU', inplace=True).
        deploy (bool): Build the network as :meth:`switch_to_deploy` leaves it. Weights
            that a training saved are folded when they are loaded. Defaults to False.
        init_cfg (dict | list[dict], optional): Initialisation. None leaves PyTorch's
            own, as the released code does. ``type='Pretrained'`` takes released and
            timm files as they are, see :mod:`mmghostnetv2.checkpoint`.
        pretrained (None): Only None, which has no effect. mmseg's segmentors pass their
            own ``pretrained`` on to the backbone.

    Attributes:
        out_channels (tuple[int, ...]): Channels of each output, shallow to deep.
        out_strides (tuple[int, ...]): Stride of each output in pixels of the input.

    Raises:
        TypeError, ValueError: An argument is of the wrong type or out of range.

    Example:
        >>> import torch
        >>> from mmghostnetv2.models import GhostNet
        >>> backbone = GhostNet(out_indices=(4, 6, 8))
        >>> [tuple(f.shape) for f in backbone(torch.rand(1, 3, 320, 320))]
        [(1, 40, 40, 40), (1, 112, 20, 20), (1, 160, 10, 10)]
    """

    # The blocks of each stage, a row each: kernel size, expanded channels, output
    # channels, squeeze-and-excitation ratio, stride. A tenth stage, a 1x1 convolution
    # to the last block's expanded channels, follows.
    arch_settings = (
        ((3, 16, 16, 0, 1),),
        ((3, 48, 24, 0, 2),),
        ((3, 72, 24, 0, 1),),
        ((5, 72, 40, 0.25, 2),),
        ((5, 120, 40, 0.25, 1),),
        ((3, 240, 80, 0, 2),),
        (
            (3, 200, 80, 0, 1),
            (3, 184, 80, 0, 1),
            (3, 184, 80, 0, 1),
            (3, 480, 112, 0.25, 1),
            (3, 672, 112, 0.25, 1),
        ),
        ((5, 672, 160, 0.25, 2),),
        (
            (5, 960, 160, 0, 1),
            (5, 960, 160, 0.25, 1),
            (5, 960, 160, 0, 1),
            (5, 960, 160, 0.25, 1),
        ),
    )

    # What builds the blocks and their Ghost modules. The second class of Ghost modules
    # is for ``with_cp='attention'``.
    bottleneck: Callable[..., GhostBottleneck] = GhostBottleneck
    ghost_modules: tuple[Callable[..., GhostModule], ...] = (
        GhostModule,
        RecomputedGhostModule,
    )

    def __init__(
        self,
        widen_factor: float = 1.0,
        out_indices: Sequence[int] = (9,),
        output_stride: int = 32,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool | str = False,
        zero_init_residual: bool = False,
        in_channels: int = 3,
        norm_cfg: dict = dict(type='BN'),
        act_cfg: dict = dict(type='ReLU', inplace=True),
        deploy: bool = False,
        init_cfg: dict | list[dict] | None = None,
        pretrained: None = None,
    ) -> None:
        super().__init__(init_cfg)
        if pretrained is not None:
            raise ValueError(
                f'pretrained must be None, got {pretrained!r}, perhaps from a base '
                'config of mmseg: set model.pretrained=None, and name the weights in '
                "the backbone's init_cfg=dict(type='Pretrained', checkpoint=...)"
            )
        num_stages = len(self.arch_settings) + 1
        is_number = isinstance(widen_factor, (int, float)) and widen_factor is not True
        if not is_number or not 0 < widen_factor < inf:
            raise ValueError(
                f'widen_factor must be a number above 0, got {widen_factor!r}'
            )
        if not is_int(in_channels) or in_channels < 1:
            raise ValueError(f'in_channels must be an int above 0, got {in_channels!r}')
        for name, cfg in (('norm_cfg', norm_cfg), ('act_cfg', act_cfg)):
            if not isinstance(cfg, dict) or 'type' not in cfg:
                raise TypeError(f'{name} must be a dict with a type, got {cfg!r}')
        check_choice('output_stride', output_stride, (8, 16, 32))
        check_choice('with_cp', with_cp, (False, True, 'attention'))
        if not is_int(frozen_stages) or not -1 <= frozen_stages < num_stages:
            raise ValueError(
                f'frozen_stages must be an int from -1 (none) to {num_stages - 1}, '
                f'got {frozen_stages!r}'
            )
        self.out_indices = _check_out_indices(out_indices, num_stages)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        # Without bool(), 1 would pass the check but recompute nothing.
        self.with_cp = with_cp if with_cp == 'attention' else bool(with_cp)
        self.zero_init_residual = zero_init_residual

        channels = make_divisible(16 * widen_factor)
        self.conv_stem = nn.Conv2d(in_channels, channels, 3, 2, 1, bias=False)
        self.bn1 = build_norm_layer(norm_cfg, channels)[1]
        self.act1 = build_activation_layer(act_cfg)

        ghost_module = self.ghost_modules[with_cp == 'attention']
        stages, out_channels, out_strides = [], [], []
        num_blocks, net_stride, dilation = 0, 2, 1
        for rows in self.arch_settings:
            stage = []
            for kernel_size, mid, out, se_ratio, stride in rows:
                keep_size = net_stride * stride > output_stride
                mid_channels = make_divisible(mid * widen_factor)
                next_channels = make_divisible(out * widen_factor)
                stage.append(
                    self.bottleneck(
                        channels,
                        mid_channels,
                        next_channels,
                        kernel_size,
                        stride,
                        se_ratio,
                        dilation=dilation,
                        keep_size=keep_size,
                        norm_cfg=norm_cfg,
                        act_cfg=act_cfg,
                        ghost_module=ghost_module,
                        **self._attention(num_blocks),
                    )
                )
                if keep_size:
                    dilation *= stride
                else:
                    net_stride *= stride
                channels = next_channels
                num_blocks += 1
            stages.append(nn.Sequential(*stage))
            out_channels.append(channels)
            out_strides.append(net_stride)
        last = OrderedDict(
            conv=nn.Conv2d(channels, mid_channels, 1, bias=False),
            bn1=build_norm_layer(norm_cfg, mid_channels)[1],
            act=build_activation_layer(act_cfg),
        )
        stages.append(nn.Sequential(nn.Sequential(last)))
        out_channels.append(mid_channels)
        out_strides.append(net_stride)

        self.blocks: Any = nn.Sequential(*stages[: self.out_indices[-1] + 1])
        self.out_channels = tuple(out_channels[i] for i in self.out_indices)
        self.out_strides = tuple(out_strides[i] for i in self.out_indices)
        self._freeze_stages()
        self.register_load_state_dict_pre_hook(adapt_weights)
        self.register_load_state_dict_pre_hook(refuse_other_networks)
        if deploy:
            self.switch_to_deploy()

    def switch_to_deploy(self) -> None:
        """Fold the batch norms into the convolutions, for inference.

        The outputs stay the same up to rounding. The weights are then those of a
        network built with ``deploy=True``. Inference is fastest in channels_last.
        """
        fold_norms(self)

    def _attention(self, block: int) -> dict:
        """Return ``attention`` and ``enhance`` of GhostBottleneck for block 0 to 15."""
        return {}

    def init_weights(self) -> None:
        """Apply first ``zero_init_residual`` and then ``init_cfg``.

        As in every BaseModule, a second call changes nothing.
        """
        self.init_cfg: Any = use_released_init(self.init_cfg)
        is_folded = isinstance(self.bn1, nn.Identity)
        if self.zero_init_residual and not is_folded and not self.is_init:
            for block in chain(*self.blocks[: len(self.arch_settings)]):
                for norm in block.ghost2.norms():
                    if norm.weight is None:
                        raise ValueError(
                            'zero_init_residual needs norms with weights, and '
                            f'norm_cfg makes {norm}'
                        )
                    nn.init.zeros_(norm.weight)
        super().init_weights()

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights as in torch; ``strict=False`` logs what does not fit."""
        with nullcontext() if strict else partial_loading():
            return super().load_state_dict(state_dict, strict, assign)

    @staticmethod
    def _checkpoint_filter(state_dict: dict, prefix: str, *args) -> None:
        """Let mmpretrain's ImageClassifier load released and timm files as they are.

        If a backbone has a method of this name, ImageClassifier registers it as its own
        pre-hook of ``load_state_dict``.

        Raises:
            RuntimeError: The weights are those of a detector or segmentor.
        """
        refuse_other_heads(state_dict, prefix)
        if f'{prefix}conv_stem.weight' in state_dict:
            released = {
                key.removeprefix(prefix): state_dict.pop(key)
                for key in list(state_dict)
                if key.startswith(prefix)
            }
            for key, value in released_to_mmpretrain(released).items():
                state_dict[prefix + key] = value

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Extract features.

        Args:
            x (Tensor): Images of shape (N, in_channels, H, W), any H and W >= 1.

        Returns:
            tuple[Tensor]: For each of ``out_indices``, shallow to deep, features of
            shape (N, C, ceil(H / stride), ceil(W / stride)), C and stride as in
            ``out_channels`` and ``out_strides``.
        """
        x = self.act1(self.bn1(self.conv_stem(x)))
        outs = []
        for i, stage in enumerate(self.blocks):
            for block in stage:
                if self.with_cp is True and torch.is_grad_enabled():
                    x = recompute(block, x)
                else:
                    x = block(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        stem = (self.conv_stem, self.bn1)
        for module in (*stem, *self.blocks[: self.frozen_stages + 1]):
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> 'GhostNet':
        """Set the mode; frozen layers stay in eval mode."""
        super().train(mode)
        self._freeze_stages()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


def _check_out_indices(out_indices, num_stages: int) -> tuple[int, ...]:
    """Return the indices counted from 0, ascending."""
    if not isinstance(out_indices, Sequence) or not all(map(is_int, out_indices)):
        raise TypeError(
            f'out_indices must be a sequence of ints such as (4, 6, 8), '
            f'got {out_indices!r}'
        )
    if any(not -num_stages <= i < num_stages for i in out_indices):
        raise ValueError(
            f'out_indices must lie between {-num_stages} and {num_stages - 1}, '
            f'got {out_indices!r}'
        )
    indices = sorted({i % num_stages for i in out_indices})
    if not indices or len(indices) != len(out_indices):
        raise ValueError(
            f'out_indices must name at least one stage and none twice, '
            f'got {out_indices!r}'
        )
    return tuple(indices)
