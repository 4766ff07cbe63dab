"""Count parameters and FLOPs of a network, block by block.

FLOPs are multiply-accumulates of convolutions and linear layers, as the paper counts
them. Takes a config of mmpretrain, mmdet or mmseg, by file or by name, whose model is
counted from the normalised image to what its head returns; timm:NAME; TIMMBackbone:NAME
or mmpretrain:NAME. NETWORK+backbone is the backbone alone. Of a two-stage detector 100
regions an image go through the second stage. Other options of the benchmark's names,
+deploy for one, are refused: a network is counted as it is trained.

Example:
    python tools/analysis_tools/get_flops.py yolov3_ghostnetv2_320 --shape 320
    python tools/analysis_tools/get_flops.py timm:ghostnetv2_100
"""

import argparse

from mmengine.config import DictAction

from mmghostnetv2.analysis.complexity import count_blocks
from mmghostnetv2.analysis.networks import build_network, split_options
from mmghostnetv2.errors import exit_with_message


def tabulate(blocks):
    """Write the table of the blocks as lines of Markdown."""
    parameters = sum(block.parameters for block in blocks)
    flops = sum(block.flops for block in blocks)
    lines = [
        '| block | type | parameters | FLOPs | share of FLOPs |',
        '| --- | --- | ---: | ---: | ---: |',
    ]
    rows = [(b.name, b.type, b.parameters, b.flops) for b in blocks]
    for name, kind, *numbers in [*rows, ('**all**', '', parameters, flops)]:
        cells = [name, kind, *(f'{number:,}' for number in numbers)]
        share = numbers[1] / flops if flops else 0
        lines.append(f'| {" | ".join(cells)} | {share:.1%} |')
    return lines


def refuse_options(network):
    """Raise a ValueError if a name has options that change how a network is run."""
    refused = [x for x in split_options(network)[1] if x != 'backbone']
    if refused:
        raise ValueError(
            'costs are counted of the network as it is trained: leave '
            f'+{", +".join(refused)} out'
        )


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('network', metavar='NETWORK', help='config, its name, or LIBRARY:NAME')
    add(
        '--shape',
        type=int,
        nargs='+',
        default=[224],
        metavar='PIXELS',
        help='height and width, or one number for a square (default: 224)',
    )
    add(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='changes of the config',
    )
    args = parser.parse_args(argv)
    if len(args.shape) > 2 or min(args.shape) < 1:
        parser.error(f'--shape takes one or two sides from 1 up, got {args.shape}')
    height, width = args.shape[0], args.shape[-1]
    with exit_with_message(args.network):
        refuse_options(args.network)
        network = build_network(args.network, args.cfg_options)
    where = f'{args.network} cannot be counted at {height}x{width} pixels'
    with exit_with_message(where):
        blocks = count_blocks(network, (height, width))
    print(f'{args.network}, one image of {height}x{width} pixels', end='\n\n')
    print('\n'.join(tabulate(blocks)))


if __name__ == '__main__':
    main()
