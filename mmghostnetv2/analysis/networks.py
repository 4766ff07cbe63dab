"""Networks by name, for what counts and times them."""

import torch
from torch import Tensor, nn

from ..apis import init_model
from ..deployment.channel_padding import pad_ghost_channels
from ..models import fold_norms, pack_convs


def fix_regions(model: nn.Module, number: int = 100) -> nn.Module:
    """Make the second stage of a two-stage detector look at the same regions always.

    Without post-processing ``model(images)`` then returns tensors for every model of
    mmpretrain, mmdet and mmseg, and its cost does not depend on what it detects.

    Args:
        model (nn.Module): Any of these; all but a detector with ``rpn_head`` and
            ``roi_head`` stays as it is.
        number (int): Regions of an image.

    Returns:
        nn.Module: ``model`` itself, of a subclass of its class. It returns what its
        first stage returns, too.
    """
    if not (hasattr(model, 'rpn_head') and hasattr(model, 'roi_head')):
        return model
    from mmengine.structures import InstanceData

    class FixedRegions(type(model)):
        def _forward(self, batch_inputs: Tensor, batch_data_samples=None) -> tuple:
            features = self.extract_feat(batch_inputs)
            height, width = batch_inputs.shape[-2:]
            share = torch.linspace(0.1, 1, number).to(batch_inputs)[:, None]
            corner = batch_inputs.new_tensor([width, height])
            boxes = torch.cat([share * corner / 4, share * corner], dim=1)
            regions = [InstanceData(bboxes=boxes) for _ in batch_inputs]
            return self.rpn_head(features), self.roi_head.forward(features, regions)

    model.__class__ = FixedRegions
    return model


class Backbone(nn.Module):
    """A backbone whose ``eval()`` and ``train()`` return it.

    Those of mmpretrain's own return nothing.

    Args:
        backbone (nn.Module): The backbone.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor):
        return self.backbone(x)


class ChannelsLast(nn.Module):
    """A network in channels_last, which takes images in any memory format.

    Args:
        network (nn.Module): Is changed in place.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor):
        return self.network(x.contiguous(memory_format=torch.channels_last))


PADS = {'pad8': 8, 'pad16': 16}
OPTIONS = ('backbone', 'deploy', *PADS, 'channels_last')


def split_options(text: str) -> tuple[str, list[str]]:
    """Split ``NAME+OPTION...`` into the name of a network and its options.

    Raises:
        ValueError: An option is none of ``OPTIONS``.
    """
    name, *options = text.split('+')
    for option in options:
        if option not in OPTIONS:
            allowed = ', '.join(OPTIONS)
            raise ValueError(f'{text}: an option is one of {allowed}, got {option!r}')
    return name, options


def build_network(text: str, cfg_options: dict | None = None) -> nn.Module:
    """Build a network without weights that maps a batch of images to tensors.

    Args:
        text (str): A config of mmpretrain, mmdet or mmseg, its file or name, without
            post-processing; ``timm:NAME``; ``TIMMBackbone:NAME``, timm's as
            mmpretrain wraps it, with features of strides 4 to 32, for GhostNetV2 those
            of stages 1, 3, 5 and 7; or ``mmpretrain:NAME``, a model of mmpretrain's
            hub. ``+backbone`` behind it is the model's backbone alone; the other
            options are for :func:`apply_options`.
        cfg_options (dict, optional): Changes of the config, keys with dots.

    Returns:
        nn.Module: The network in eval mode.

    Raises:
        ValueError: There is no such network, or it has no config to change.
        ImportError: Its library is not installed.
    """
    name, options = split_options(text)
    network = _build(name, cfg_options)
    if 'backbone' in options:
        if not hasattr(network, 'backbone'):
            raise ValueError(f'{name} has no part named backbone')
        network = network.backbone
    return network if network.eval() is network else Backbone(network).eval()


def _build(name: str, cfg_options: dict | None) -> nn.Module:
    library, _, model = name.partition(':')
    if not model:
        return fix_regions(init_model(name, cfg_options=cfg_options))
    if cfg_options:
        raise ValueError(f'{name} is no config, so it takes no {min(cfg_options)}=')
    if library in ('timm', 'TIMMBackbone'):
        import timm

        if not timm.is_model(model):
            raise ValueError(f'timm has no model {model!r}')
        if library == 'timm':
            return timm.create_model(model)
        from mmpretrain.models import TIMMBackbone

        levels = (1, 2, 3, 4)
        return TIMMBackbone(model, features_only=True, out_indices=levels)
    if library == 'mmpretrain':
        from mmpretrain import get_model, list_models

        if model.lower() not in list_models():
            raise ValueError(f'mmpretrain has no model {model!r}')
        return get_model(model)
    raise ValueError(
        f'{name}: a library must be timm, TIMMBackbone or mmpretrain, got {library!r}'
    )


def apply_options(network: nn.Module, text: str) -> nn.Module:
    """Apply the options of a name that leave what is computed as it is.

    These are ``+deploy``, folded and packed; ``+pad8`` or ``+pad16``, folded, with
    ghost halves padded for ONNX Runtime; and ``+channels_last``.

    Args:
        network (nn.Module): What :func:`build_network` returns for ``text``; is changed
            in place.
        text (str): The same text.

    Returns:
        nn.Module: Computes the same.
    """
    _, options = split_options(text)
    if 'deploy' in options:
        network = pack_convs(fold_norms(network))
    for option in PADS.keys() & set(options):
        network = pad_ghost_channels(fold_norms(network), PADS[option])
    return ChannelsLast(network) if 'channels_last' in options else network


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Give a network the weights of another one, in the order of their layers.

    For one network in the code of two libraries, whose parameters have other names. A
    1x1 convolution fits a linear layer.

    Args:
        source (nn.Module): Has the weights.
        target (nn.Module): Gets them.

    Raises:
        ValueError: They are no two of one network.
    """
    ours, theirs = (list(n.state_dict().items()) for n in (target, source))
    if len(ours) != len(theirs):
        raise ValueError(f'{len(theirs)} weights do not fit a network of {len(ours)}')
    for (name, weight), (other, value) in zip(ours, theirs, strict=True):
        if weight.numel() != value.numel():
            raise ValueError(
                f'{other} {tuple(value.shape)} does not fit {name} '
                f'{tuple(weight.shape)}'
            )
        weight.copy_(value.view_as(weight))
