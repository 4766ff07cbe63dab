"""Evaluate a checkpoint with a config's data and metrics, by mmengine's Runner.

Example:
    python tools/test.py ghostnetv2_100_in1k work_dirs/ghostnetv2/epoch_400.pth
"""

from contextlib import nullcontext

from mmengine.evaluator import DumpResults
from mmengine.registry import RUNNERS

from mmghostnetv2.arguments import (
    add_out,
    add_runner,
    make_parser,
    named_errors,
    run_tool,
    runner_config,
)
from mmghostnetv2.output import require_free, written


def main(argv=None):
    parser = make_parser(__doc__)
    add_runner(parser, checkpoint='1')
    add_out(parser, 'save the predictions as a pickle', ('.pkl', '.pickle'))
    args = parser.parse_args(argv)
    require_free([args.out] if args.out else [], args.force)

    cfg = runner_config(args, args.checkpoint)
    cfg.load_from = args.checkpoint
    cfg.resume = False  # load only the weights, even if the config says resume=True
    output = written(args.out) if args.out else nullcontext()
    with named_errors(args.config), output as path:
        runner = RUNNERS.build(cfg)
        if path:
            runner.test_evaluator.metrics.append(DumpResults(str(path)))
        runner.test()


if __name__ == '__main__':
    run_tool(main)
