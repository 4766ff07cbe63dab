"""Networks by name, to be counted and timed."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from ..apis import init_model
from ..deployment.networks import deployable
from ..models import fold_norms


def fix_regions(model: nn.Module, number: int = 100) -> nn.Module:
    """Let the second stage of a two-stage detector always process the same regions.

    ``model(images)`` then returns tensors without post-processing, as for every other
    model of mmpretrain, mmdet and mmseg. Its cost does not depend on its detections.

    Args:
        model (nn.Module): Model of these libraries. It is changed only if it has an
            ``rpn_head`` and a ``roi_head``.
        number (int): Number of regions in each image.

    Returns:
        nn.Module: ``model`` itself. If it was changed, its class is now a subclass that
        returns the outputs of both stages.
    """
    if not (hasattr(model, 'rpn_head') and hasattr(model, 'roi_head')):
        return model
    from mmengine.structures import InstanceData

    base: Any = type(model)

    class FixedRegions(base):
        def _forward(self, batch_inputs: Tensor, batch_data_samples=None) -> tuple:
            features = self.extract_feat(batch_inputs)
            height, width = batch_inputs.shape[-2:]
            # The boxes grow and move along the diagonal of the image.
            share = torch.linspace(0.1, 1, number).to(batch_inputs)[:, None]
            corner = batch_inputs.new_tensor([width, height])
            boxes = torch.cat([share * corner / 4, share * corner], dim=1)
            regions = [InstanceData(bboxes=boxes) for _ in batch_inputs]
            return self.rpn_head(features), self.roi_head.forward(features, regions)

    model.__class__ = FixedRegions
    return model


OPTIONS = (
    'backbone',
    'predictions',
    'deploy',
    'reparameterized',
    'channels_last',
    'int8',
)


def has_config(name: str) -> bool:
    """Tell whether a name is that of a config, not LIBRARY:NAME."""
    return ':' not in name.replace('::', '')


def split_options(text: str) -> tuple[str, list[str]]:
    """Split ``NAME+OPTION...`` into the name of a network and its options.

    Raises:
        ValueError: An option is not one of ``OPTIONS``.
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
        text (str): One of: file or name of a config of mmpretrain, mmdet or mmseg, as
            :func:`~mmghostnetv2.apis.read_config` takes it, whose model is run without
            post-processing; ``timm:NAME``;
            ``TIMMBackbone:NAME``, a network of timm in mmpretrain's wrapper, with
            features of strides 4 to 32 (stages 1, 3, 5 and 7 of GhostNetV2); or
            ``mmpretrain:NAME``, a model of mmpretrain's hub. ``+backbone`` at the end
            selects only the model's backbone, and ``+predictions`` adds the
            post-processing, see :func:`~mmghostnetv2.deployment.networks.deployable`.
            :func:`apply_options` applies the other options, except ``+int8``, which is
            one of :func:`~mmghostnetv2.analysis.build_runner`.
        cfg_options (dict, optional): Changes of the config; the keys may have dots.

    Returns:
        nn.Module: The network in eval mode.

    Raises:
        ValueError: There is no such network, or it has no config to change.
        ImportError: Its library is not installed.
        NotImplementedError: Its predictions cannot be exported.
    """
    name, options = split_options(text)
    network: Any = _build(name, cfg_options)
    if 'backbone' in options:
        if not hasattr(network, 'backbone'):
            raise ValueError(f'{name} has no part named backbone')
        network = network.backbone
    if 'predictions' in options:
        network = deployable(network)
    if network.eval() is not network:  # mmpretrain's backbones return None
        network = nn.Sequential(OrderedDict(backbone=network)).eval()
    return network


def _build(name: str, cfg_options: dict | None) -> nn.Module:
    if has_config(name):
        return fix_regions(init_model(name, cfg_options=cfg_options))
    library, _, model = name.partition(':')
    if cfg_options:
        raise ValueError(f'{name} has no config to change by {min(cfg_options)}=')
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
    """Apply those options of a name that do not change what the network computes.

    ``+deploy`` merges branches and folds the batch norms. ``+reparameterized`` merges
    the branches of a network of timm as timm does. ``+channels_last`` changes the
    memory format of the weights; the outputs of convolutions then have this format,
    too. ``network``, which :func:`build_network` built for the same text, is changed in
    place and returned.
    """
    _, options = split_options(text)
    if 'reparameterized' in options:
        from timm.utils import reparameterize_model

        network = reparameterize_model(network, inplace=True)
    if 'deploy' in options:
        fold_norms(network)
    if 'channels_last' in options:
        network.to(memory_format=torch.channels_last)
    return network


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy the weights of ``source`` to ``target``.

    If ``target`` does not load them by their names, they are copied in the order of
    their layers: two libraries may name the parameters of a network differently, but
    register its layers in the same order. The weight of a 1x1 convolution fits a linear
    layer.

    Raises:
        ValueError: The number of weights or the size of one of them differs.
    """
    try:
        target.load_state_dict(source.state_dict())
        return
    except RuntimeError:
        pass
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
