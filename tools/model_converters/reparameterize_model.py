r"""Fold the batch norms of a trained model into its convolutions, for inference.

Example:
    python tools/model_converters/reparameterize_model.py \
        configs/yolov3_ghostnetv2_320.py \
        work_dirs/yolov3_ghostnetv2_320/epoch_30.pth --out deployed/yolov3.pth
    mim test mmdet deployed/yolov3.py --checkpoint deployed/yolov3.pth

The model is one of mmpretrain, mmdet or mmseg. The batch norms of backbone, neck and
head are folded. The tool writes a checkpoint and a config beside it, which work with
the library's test command and inferencers. The new model cannot be trained. Segmentors
lose their auxiliary head, which is used only in training.

The files are written only if the model that the new config builds from the new weights
computes the same as the old one, within 1e-5 of each output's largest value. Both are
compared in double precision, so that rounding does not hide errors of the folding; the
file has single precision.
"""

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader
from torch import nn

from mmghostnetv2 import init_model
from mmghostnetv2.analysis.networks import fix_regions
from mmghostnetv2.apis import require_model
from mmghostnetv2.arguments import (
    add_config,
    add_out,
    load_config,
    make_parser,
    named_errors,
    run_tool,
)
from mmghostnetv2.deployment.runtimes import flatten, require_equal
from mmghostnetv2.models import fold_norms
from mmghostnetv2.output import require_free, written

TOLERANCE = 1e-5  # in double precision, where rounding is far smaller
SIZE = 320  # height and width of the image for the comparison, in pixels


@torch.no_grad()
def compute(model: nn.Module) -> list[np.ndarray]:
    """Return a model's outputs for a random image, in double precision."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    return flatten(fix_regions(model.double())(image))


def reparameterize(config: Config, checkpoint: str) -> tuple[Config, dict]:
    """Fold a model.

    Args:
        config (Config): Config of the model.
        checkpoint (str): File or URL with all of its weights.

    Returns:
        tuple[Config, dict]: The new config, and the new checkpoint. Its ``meta`` is the
        old one with the new config.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        RuntimeError: The checkpoint cannot be read or belongs to a different model, or
            the outputs of the folded model differ.
        ValueError: The model is folded already.
    """
    require_model(config)
    if config.model.type == 'mmghostnetv2.Folded':
        raise ValueError('this model is folded already')
    with named_errors(config.filename):
        model = init_model(config, checkpoint)
    if hasattr(model, 'auxiliary_head'):
        del model.auxiliary_head
    expected = compute(model)

    config = config.copy()
    config.model.update(type='mmghostnetv2.Folded', base=config.model.type)
    config.model.backbone.pop('init_cfg', None)
    config.model.pop('auxiliary_head', None)
    folded = init_model(config).double()
    folded.load_state_dict(fold_norms(model).state_dict(), strict=True)
    require_equal(compute(folded), expected, TOLERANCE, 'the folded model')

    source = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    meta = {**source.get('meta', {}), 'cfg': config.pretty_text}
    return config, {'meta': meta, 'state_dict': folded.float().state_dict()}


def main(argv=None):
    parser = make_parser(__doc__)
    add_config(parser, checkpoint='1')
    text = 'checkpoint to write, with NAME.py beside it'
    add_out(parser, text, ['.pth'], required=True)
    args = parser.parse_args(argv)
    config_file = args.out.with_suffix('.py')
    require_free([args.out, config_file], args.force)
    config = load_config(args)
    with written(args.out) as path:
        config, checkpoint = reparameterize(config, args.checkpoint)
        torch.save(checkpoint, path)
        config.dump(path.with_suffix('.py'))
    print(f'wrote {args.out} and {config_file}')


if __name__ == '__main__':
    run_tool(main)
