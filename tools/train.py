"""Train the model of a config with mmengine's Runner.

Example:
    python tools/train.py ghostnetv2_100_in1k --amp --work-dir work_dirs/ghostnetv2
"""

from mmengine.registry import RUNNERS

from mmghostnetv2.arguments import (
    add_runner,
    make_parser,
    named_errors,
    run_tool,
    runner_config,
)


def main(argv=None):
    parser = make_parser(__doc__)
    add_runner(parser, checkpoint=None)
    add = parser.add_argument
    text = 'resume from this checkpoint, or, without a value, from the latest one'
    add('--resume', nargs='?', const='auto', metavar='CHECKPOINT', help=text)
    add('--amp', action='store_true', help='mixed precision')
    text = 'multiply the learning rate by batch size / base_batch_size of the config'
    add('--auto-scale-lr', action='store_true', help=text)
    args = parser.parse_args(argv)

    checkpoint = None if args.resume == 'auto' else args.resume
    cfg = runner_config(args, checkpoint, resumes=True)
    if args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            lacking = 'auto_scale_lr.base_batch_size in the config'
            raise ValueError(f'--auto-scale-lr needs {lacking}')
        cfg.auto_scale_lr.enable = True
    if args.resume:
        cfg.resume = True
        cfg.load_from = checkpoint
    with named_errors(args.config):
        runner = RUNNERS.build(cfg)
        try:
            runner.train()
        except Exception as error:
            # Log the traceback, because a failure after hours is hard to reproduce. A
            # missing file or a full disk needs none.
            if not isinstance(error, OSError):
                runner.logger.exception('the training failed')
            raise


if __name__ == '__main__':
    run_tool(main)
