"""Train what a config describes, by mmengine's Runner.

Example:
    python tools/train.py ghostnetv2_100_in1k --amp --work-dir work_dirs/ghostnetv2
"""

from mmengine.registry import RUNNERS

from mmghostnetv2.arguments import (
    add_config,
    add_runner,
    make_parser,
    run_tool,
    runner_config,
)


def main(argv=None):
    parser = make_parser(__doc__)
    add_config(parser, checkpoint=None)
    add_runner(parser)
    add = parser.add_argument
    text = 'go on from this checkpoint, or from the latest in the work dir'
    add('--resume', nargs='?', const='auto', metavar='CHECKPOINT', help=text)
    add('--amp', action='store_true', help='mixed precision')
    text = "scale the learning rate by batch size over the config's base_batch_size"
    add('--auto-scale-lr', action='store_true', help=text)
    args = parser.parse_args(argv)

    cfg = runner_config(args)
    if args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise ValueError(
                '--auto-scale-lr needs auto_scale_lr.base_batch_size in the config'
            )
        cfg.auto_scale_lr.enable = True
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    runner = RUNNERS.build(cfg)
    try:
        runner.train()
    except Exception:
        # A failure after hours may not be easy to repeat, so its traceback is logged.
        runner.logger.exception('the training failed')
        raise


if __name__ == '__main__':
    run_tool(main)
