"""Evaluate a checkpoint as a config describes, by mmengine's Runner."""

import argparse
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.evaluator import DumpResults
from mmengine.runner import Runner

import mmghostnetv2  # noqa: F401  registers the models, lets own checkpoints load


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='where logs and metrics go')
    parser.add_argument('--out', metavar='FILE.pkl', help='save the predictions there')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='change config fields, as in: test_dataloader.batch_size=8',
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none'
    )
    # torch.distributed.launch passes it; mmengine reads the LOCAL_RANK it also sets
    parser.add_argument(
        '--local-rank', '--local_rank', type=int, help=argparse.SUPPRESS
    )
    return parser.parse_args()


def main():
    args = parse_args()
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options)
    cfg.launcher = args.launcher
    cfg.work_dir = (
        args.work_dir or cfg.get('work_dir') or f'work_dirs/{Path(args.config).stem}'
    )
    cfg.load_from = args.checkpoint
    cfg.resume = False  # weights alone, also with the config a resumed training wrote
    dumps = [DumpResults(args.out)] if args.out else []
    runner = Runner.from_cfg(cfg)
    runner.test_evaluator.metrics += dumps
    runner.test()


if __name__ == '__main__':
    main()
