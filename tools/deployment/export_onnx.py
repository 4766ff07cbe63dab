"""Export a model of mmpretrain, mmdet or mmseg as one ONNX file.

A detector becomes one with its boxes decoded and suppressed, a segmentor one that
labels pixels: what comes out is what the library's predict returns. Batch norms are
folded. NAME.onnx.json beside it describes the model; tools/deployment/run.py runs it.

Example:
    python tools/deployment/export_onnx.py configs/yolov3_ghostnetv2_320.py \
        work_dirs/yolov3_ghostnetv2_320/epoch_30.pth --shape 320 \
        --out yolov3.onnx --with-preprocess --check
"""

import sys

from mmghostnetv2.arguments import at_least_one
from mmghostnetv2.deployment.channel_padding import pad_ghost_channels
from mmghostnetv2.deployment.check import check, sample_pixels
from mmghostnetv2.deployment.export import export_parser, load_network, written
from mmghostnetv2.deployment.metadata import describe, save_metadata
from mmghostnetv2.deployment.runtimes import RUNTIMES, check_runtime
from mmghostnetv2.deployment.to_onnx import to_onnx

# of fewer pixels the deepest features have one, which a graph of free sizes cannot tell
SMALLEST = 33


def main(argv=None):
    parser = export_parser(__doc__, '.onnx')
    add = parser.add_argument
    add(
        '--dynamic',
        action='store_true',
        help='leave batch, height and width free; --shape is then an example',
    )
    add(
        '--ort-pad',
        metavar='N',
        type=at_least_one,
        help='pad the halves of Ghost modules with zeros to multiples of N channels, '
        "for ONNX Runtime's blocked layout",
    )
    args = parser.parse_args(argv)
    if args.dynamic and min(args.shape) < SMALLEST:
        parser.error(f'--dynamic takes sides of {SMALLEST} pixels and more')
    try:
        check_runtime('onnxruntime')
    except ImportError as error:
        sys.exit(f'{error}')

    def pad(model):
        pad_ghost_channels(model, args.ort_pad)

    model, network, shape = load_network(args, pad if args.ort_pad else None)
    with written(args.out) as path:
        to_onnx(network, shape, path, args.dynamic)
        meta = describe(
            model, network, args.output, shape, args.dynamic, args.checkpoint
        )
        save_metadata(meta, path)
        if args.check:
            pixels = sample_pixels(shape[2:], args.image)
            session = RUNTIMES['onnxruntime'].open(path, 1)
            equal = check(
                model,
                session,
                pixels,
                args.output,
                args.with_preprocess,
                'ONNX Runtime',
            )
            print(f'ONNX Runtime and torch agree: {equal}')
        size = path.stat().st_size
    print(f'wrote {args.out}, {size / 1e6:.1f} MB, and {args.out.name}.json')


if __name__ == '__main__':
    main()
