"""Fold the batch norms of a trained model into its convolutions, for inference.

Takes a config and a checkpoint of mmpretrain, mmdet or mmseg, and folds backbone, neck
and head. What it writes, a checkpoint and its config beside it, runs as any other one
with the library's own test command and inferencers, but cannot be trained. Segmentors
lose their auxiliary head, which serves training alone.

Nothing is written unless the model that the new config builds from the new weights
computes the same as the old one, within 1e-5 of each output's largest value. Both are
compared in double precision, so that rounding does not hide what folding does; written
are single ones.

Example:
    python tools/model_converters/reparameterize_model.py \
        configs/yolov3_ghostnetv2_320.py \
        work_dirs/yolov3_ghostnetv2_320/epoch_30.pth deployed/yolov3.pth
    mim test mmdet deployed/yolov3.py --checkpoint deployed/yolov3.pth
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.runner import CheckpointLoader
from torch import nn

from mmghostnetv2 import init_model
from mmghostnetv2.analysis.networks import fix_regions
from mmghostnetv2.apis import read_config
from mmghostnetv2.deployment.export import require_free, written
from mmghostnetv2.deployment.runtimes import flatten, require_equal
from mmghostnetv2.errors import exit_with_message
from mmghostnetv2.models import fold_norms

TOLERANCE = 1e-5
SIZE = 320


@torch.no_grad()
def compute(model: nn.Module) -> list[np.ndarray]:
    """Return a model's outputs for a random image, in double precision."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    return flatten(fix_regions(model.double())(image))


def fold_config(config: Config) -> Config:
    """Return the config of a model with its batch norms folded."""
    config = config.copy()
    model = config.model
    model.base = model.type
    model.type = 'mmghostnetv2.Folded'
    model.backbone.pop('init_cfg', None)
    model.pop('auxiliary_head', None)
    return config


def reparameterize(config: Config, checkpoint: str) -> tuple[Config, dict]:
    """Fold a model.

    Args:
        config (Config): Config of the model.
        checkpoint (str): File or URL with all of its weights.

    Returns:
        tuple[Config, dict]: The new config and checkpoint, whose ``meta`` is that of
        the old one with the new config.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        RuntimeError: It cannot be read, is one of another model, or the folded model
            computes something else.
        ValueError: The model is folded already.
    """
    if config.model.type == 'mmghostnetv2.Folded':
        raise ValueError('this model is folded already')
    config.model.pop('auxiliary_head', None)
    model = init_model(config, checkpoint)
    expected = compute(model)

    folded_config = fold_config(config)
    folded = init_model(folded_config).double()
    folded.load_state_dict(fold_norms(model).state_dict(), strict=True)
    require_equal(compute(folded), expected, TOLERANCE, 'the folded model')

    source = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    meta = {**source.get('meta', {}), 'cfg': folded_config.pretty_text}
    return folded_config, {'meta': meta, 'state_dict': folded.float().state_dict()}


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('config', metavar='CONFIG', help='config file, or the name of one of ours')
    add('checkpoint', metavar='CHECKPOINT', help='file or URL with the weights')
    add('out', metavar='OUT', type=Path, help='NAME.pth to write, beside it NAME.py')
    add('--force', action='store_true', help='overwrite both')
    add(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='changes of the config',
    )
    args = parser.parse_args(argv)
    if args.out.suffix != '.pth':
        parser.error(f'OUT must end in .pth, got {args.out}')
    config_file = args.out.with_suffix('.py')
    require_free([args.out, config_file], args.force)
    with exit_with_message(args.config):
        config = read_config(args.config)
        config.merge_from_dict(args.cfg_options)
    with written(args.out) as path:
        config, checkpoint = reparameterize(config, args.checkpoint)
        torch.save(checkpoint, path)
        config.dump(path.with_suffix('.py'))
    print(f'wrote {args.out} and {config_file}')


if __name__ == '__main__':
    main()
