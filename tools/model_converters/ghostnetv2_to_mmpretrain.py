r"""Rename a classifier's weights from the released layout to mmpretrain's, or back.

Example:
    python tools/model_converters/ghostnetv2_to_mmpretrain.py \
        ck_ghostnetv2_10.pth.tar --out ghostnetv2_100.pth

mmpretrain needs no conversion to load released files and timm's with this package. This
tool is for programs that read mmpretrain's parameter names from a file. With --reverse
it converts your own trained weights for timm or the released code. If the file has
averaged weights (EMA), the tool converts these.

Before the tool writes the file, it builds the network from both layouts and compares
the logits.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from mmghostnetv2 import init_model
from mmghostnetv2.arguments import add_out, make_parser, run_tool
from mmghostnetv2.checkpoint import (
    mmpretrain_to_released,
    read_weights,
    released_to_mmpretrain,
)
from mmghostnetv2.models import GhostNet, GhostNetV2, GhostNetV3
from mmghostnetv2.output import require_free, written


def convert(src: str, reverse: bool = False) -> dict[str, Tensor]:
    """Return the renamed weights of a file after :func:`check`.

    Args:
        src (str): File or URL of a complete classifier, V1, V2 or V3 of any width.
        reverse (bool): Whether to rename from mmpretrain's names to the released ones.

    Raises:
        ValueError: The file is not a classifier in the layout to convert from.
    """
    weights = read_weights(src)
    stems = ['conv_stem.weight', 'backbone.conv_stem.weight']
    stem, other = reversed(stems) if reverse else stems
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
            f'ghostnet*_in1k.py: {error}'
        ) from error
    return renamed


@torch.no_grad()
def check(released: dict[str, Tensor], converted: dict[str, Tensor]) -> None:
    """Build the network from both layouts and compare the logits.

    Raises:
        KeyError, RuntimeError: Parameters are missing, too many or of other shapes.
        ValueError: The logits differ.
    """
    parts = {part for key in released for part in key.split('.')}
    network = GhostNetV2 if 'short_conv' in parts else GhostNet
    if 'primary_rpr_conv' in parts:
        network = GhostNetV3
    # The last stage tells the width, because the stems of 1.0x and 1.1x are equal.
    width = round(len(released['blocks.9.0.conv.weight']) / 960, 2)
    backbone = network(width).eval()
    images = torch.randn(2, 3, 96, 96)

    missing, _ = backbone.load_state_dict(released, strict=False)
    if missing:
        raise KeyError(f'lacks {len(missing)} parameters, such as {missing[0]}')
    features = backbone(images)[0].mean((2, 3), keepdim=True)
    weight, bias = released['conv_head.weight'], released['conv_head.bias']
    hidden = F.conv2d(features, weight, bias).relu().flatten(1)
    weight, bias = released['classifier.weight'], released['classifier.bias']
    expected = F.linear(hidden, weight, bias)

    options = {
        'model.backbone.type': type(backbone).__name__,
        'model.backbone.widen_factor': width,
        'model.head.in_channels': features.shape[1],
        'model.head.mid_channels': [hidden.shape[1]],
        'model.head.num_classes': expected.shape[1],
    }
    classifier = init_model('ghostnetv2_100_in1k', cfg_options=options)
    # load_state_dict also accepts released names, so they are refused here.
    unknown = converted.keys() - classifier.state_dict().keys()
    if unknown:
        raise KeyError(f'mmpretrain has no {min(unknown)}')
    classifier.load_state_dict(converted, strict=True)
    difference = (classifier(images) - expected).abs().max() / expected.abs().max()
    if not difference <= 1e-5:
        raise ValueError(f'the logits differ by {difference:.1e} of the largest one')


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument('src', metavar='SRC', help='file or URL to read')
    add_out(parser, 'checkpoint to write', required=True)
    text = "rename from mmpretrain's names to the released ones"
    parser.add_argument('--reverse', action='store_true', help=text)
    args = parser.parse_args(argv)
    require_free([args.out], args.force)
    with written(args.out) as path:
        weights = convert(args.src, args.reverse)
        torch.save({'state_dict': weights}, path)
    print(f'wrote {len(weights)} parameters and buffers to {args.out}')


if __name__ == '__main__':
    run_tool(main)
