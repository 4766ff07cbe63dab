"""Rename a classifier's weights from the released layout to mmpretrain's, or back.

mmpretrain loads released and timm's files as they are. This is for what reads the
parameters of a file by itself, and, with --reverse, for own trainings that timm or the
released code shall load. Averaged weights (EMA) are preferred where a file has both.

Before anything is written, the network that the file describes is built with both
layouts, and their logits are compared.

Example:
    python tools/model_converters/ghostnetv2_to_mmpretrain.py ck_ghostnetv2_10.pth.tar \
        ghostnetv2_100.pth
"""

import argparse
from pathlib import Path

import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from torch import Tensor
from torch.nn import functional as F

from mmghostnetv2 import config_path
from mmghostnetv2.checkpoint import (
    mmpretrain_to_released,
    read_weights,
    released_to_mmpretrain,
)
from mmghostnetv2.models import GhostNet, GhostNetV2


def convert(src: str, reverse: bool = False) -> dict[str, Tensor]:
    """Return the renamed weights of a file, checked.

    Args:
        src (str): File or URL of a whole classifier, any width, V1 or V2.
        reverse (bool): From mmpretrain's names to the released ones.

    Raises:
        ValueError: The file is not a classifier in the layout to convert from.
    """
    weights = read_weights(src)
    stem, other = 'conv_stem.weight', 'backbone.conv_stem.weight'
    if reverse:
        stem, other = other, stem
    if stem not in weights:
        hint = 'the wrong direction' if other in weights else 'no GhostNet'
        raise ValueError(f'{src} has no {stem}: {hint}')
    try:
        if reverse:
            renamed = mmpretrain_to_released(weights)
            check(renamed, weights)
        else:
            renamed = released_to_mmpretrain(weights)
            check(weights, renamed)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f'{src} is not a classifier as released or as trained by '
            f'ghostnetv2_*_in1k.py: {error}'
        ) from error
    return renamed


@torch.no_grad()
def check(released: dict[str, Tensor], converted: dict[str, Tensor]) -> None:
    """Build the network that the weights describe from both layouts, and compare.

    Raises:
        KeyError, RuntimeError: Parameters are missing, too many or of other shapes.
        ValueError: The logits differ.
    """
    v2 = any('.short_conv.' in key for key in released)
    # the widest layer tells the width best: the stem of 1.1x is that of 1.0x
    width = round(len(released['blocks.9.0.conv.weight']) / 960, 2)
    backbone = (GhostNetV2 if v2 else GhostNet)(width).eval()
    images = torch.randn(2, 3, 96, 96)

    missing, _ = backbone.load_state_dict(released, strict=False)
    if missing:
        raise KeyError(f'lacks {len(missing)} parameters, such as {missing[0]}')
    features = backbone(images)[0].mean((2, 3), keepdim=True)
    hidden = F.conv2d(
        features, released['conv_head.weight'], released['conv_head.bias']
    ).relu()
    expected = F.linear(
        hidden.flatten(1), released['classifier.weight'], released['classifier.bias']
    )

    cfg = Config.fromfile(config_path('ghostnetv2_100_in1k')).model
    cfg.backbone.update(type=type(backbone).__name__, widen_factor=width)
    cfg.head.update(
        in_channels=features.shape[1],
        mid_channels=[hidden.shape[1]],
        num_classes=expected.shape[1],
    )
    classifier = MODELS.build(cfg).eval()
    # by itself the classifier would take released names, too
    strangers = converted.keys() - classifier.state_dict().keys()
    if strangers:
        raise KeyError(f'mmpretrain has no {min(strangers)}')
    classifier.load_state_dict(converted, strict=True)
    difference = (classifier(images) - expected).abs().max() / expected.abs().max()
    if not difference <= 1e-5:
        raise ValueError(f'the logits differ by {difference:.1e} of the largest')


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('src', metavar='SRC', help='file or URL to read')
    parser.add_argument('dst', metavar='DST', type=Path, help='file to write')
    parser.add_argument(
        '--reverse', action='store_true', help="from mmpretrain's names to released"
    )
    parser.add_argument('--force', action='store_true', help='overwrite DST')
    args = parser.parse_args()
    if args.dst.exists() and not args.force:
        raise SystemExit(f'{args.dst} exists; --force overwrites it')
    try:
        weights = convert(args.src, args.reverse)
    except (OSError, RuntimeError, ValueError) as error:
        raise SystemExit(f'{type(error).__name__}: {error}') from error
    args.dst.parent.mkdir(parents=True, exist_ok=True)
    torch.save({'state_dict': weights}, args.dst)
    print(f'wrote {len(weights)} parameters and buffers to {args.dst}')


if __name__ == '__main__':
    main()
