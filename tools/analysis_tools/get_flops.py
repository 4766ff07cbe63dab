"""Count parameters and FLOPs of a network, block by block.

Example:
    python tools/analysis_tools/get_flops.py yolov3_ghostnetv2_320 --shape 320
    python tools/analysis_tools/get_flops.py timm:ghostnetv2_100

FLOPs are multiply-accumulates of convolutions and linear layers, as the paper counts
them. A NETWORK is the file or the name of a config of mmpretrain, mmdet or mmseg;
timm:NAME; TIMMBackbone:NAME or mmpretrain:NAME. It is counted from the normalised image
to the outputs of its head. NETWORK+backbone is the backbone alone. The second stage of
a two-stage detector gets 100 regions an image. Other options of benchmark.py, such as
+deploy, are refused, because a network is counted as it is trained.
"""

from mmghostnetv2.analysis import build_network, count_blocks
from mmghostnetv2.analysis.networks import split_options
from mmghostnetv2.arguments import (
    add_cfg_options,
    add_shape,
    make_parser,
    named_errors,
    run_tool,
)
from mmghostnetv2.output import markdown_table


def tabulate(blocks):
    """Return the blocks and their sum as the lines of a Markdown table."""
    parameters = sum(block.parameters for block in blocks)
    flops = sum(block.flops for block in blocks)
    rows = [('block', 'type', 'parameters', 'FLOPs', 'share of FLOPs')]
    for name, kind, *numbers in [*blocks, ('**all**', '', parameters, flops)]:
        share = numbers[1] / flops if flops else 0
        rows.append([name, kind, *(f'{n:,}' for n in numbers), f'{share:.1%}'])
    return markdown_table(rows, numbers=3)


def main(argv=None):
    parser = make_parser(__doc__)
    add = parser.add_argument
    add('network', metavar='NETWORK', help='config, its name, or LIBRARY:NAME')
    add_shape(parser, default=(224, 224))
    add_cfg_options(parser)
    args = parser.parse_args(argv)
    height, width = args.shape
    with named_errors(args.network):
        refused = [x for x in split_options(args.network)[1] if x != 'backbone']
        if refused:
            raise ValueError(
                'a network is counted as it is trained: leave out '
                f'+{", +".join(refused)}'
            )
        network = build_network(args.network, args.cfg_options)
    with named_errors(f'{args.network} at {height}x{width} pixels'):
        blocks = count_blocks(network, args.shape)
    print(f'{args.network}, one image of {height}x{width} pixels', end='\n\n')
    print('\n'.join(tabulate(blocks)))


if __name__ == '__main__':
    run_tool(main)
