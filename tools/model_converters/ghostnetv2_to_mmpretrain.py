r"""Rename a classifier's weights from the released layout to mmpretrain's, or back.

Example:
    python tools/model_converters/ghostnetv2_to_mmpretrain.py \
        ck_ghostnetv2_10.pth.tar --out ghostnetv2_100.pth

mmpretrain loads released files and timm's as they are. This tool is for programs that
read the parameters of a file themselves and, with --reverse, for own trainings that
timm or the released code will load. If a file has averaged weights (EMA), these are
taken.

Before anything is written, the tool builds the network that the file describes with
both layouts and compares their logits.
"""

import torch
from mmpretrain.registry import MODELS
from torch import Tensor
from torch.nn import functional as F

from mmghostnetv2.apis import read_config
from mmghostnetv2.arguments import add_out, make_parser, run_tool
from mmghostnetv2.checkpoint import (
    mmpretrain_to_released,
    read_weights,
    released_to_mmpretrain,
)
from mmghostnetv2.models import GhostNet, GhostNetV2
from mmghostnetv2.output import require_free, written


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
        hint = 'the wrong direction' if other in weights else 'not a GhostNet'
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
    # The widest layer tells the width; the stems of 1.1x and 1.0x are equal.
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

    cfg = read_config('ghostnetv2_100_in1k').model
    cfg.backbone.update(type=type(backbone).__name__, widen_factor=width)
    cfg.head.update(
        in_channels=features.shape[1],
        mid_channels=[hidden.shape[1]],
        num_classes=expected.shape[1],
    )
    classifier = MODELS.build(cfg).eval()
    # The classifier would load released names, too, so they are refused here.
    strangers = converted.keys() - classifier.state_dict().keys()
    if strangers:
        raise KeyError(f'mmpretrain has no {min(strangers)}')
    classifier.load_state_dict(converted, strict=True)
    difference = (classifier(images) - expected).abs().max() / expected.abs().max()
    if not difference <= 1e-5:
        raise ValueError(f'the logits differ by {difference:.1e} of the largest')


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument('src', metavar='SRC', help='file or URL to read')
    add_out(parser, 'checkpoint to write', required=True)
    parser.add_argument(
        '--reverse', action='store_true', help="from mmpretrain's names to released"
    )
    args = parser.parse_args(argv)
    require_free([args.out], args.force)
    with written(args.out) as path:
        weights = convert(args.src, args.reverse)
        torch.save({'state_dict': weights}, path)
    print(f'wrote {len(weights)} parameters and buffers to {args.out}')


if __name__ == '__main__':
    run_tool(main)
