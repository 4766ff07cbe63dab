"""Export a model of mmpretrain, mmdet or mmseg to LiteRT, formerly TensorFlow Lite.

The conversion runs in an environment of its own, which `make litert` builds. A detector
takes --output dense: its boxes are decoded inside and suppressed by
tools/deployment/run.py, which NAME.tflite.json tells how.

Nothing is written unless LiteRT returns what torch does, within 1e-5 of each output's
largest value, or twice what float32 itself rounds off there. With --int8 that file is
then quantised: weights to 8 bits with a scale a channel, activations with one a tensor;
images and outputs stay float32.

Example:
    python tools/deployment/export_tflite.py configs/ghostnetv2_100_in1k.py \
        ck_ghostnetv2_10.pth.tar --shape 224 --out ghostnetv2.tflite \
        --with-preprocess --int8 data/imagenet/val
"""

from pathlib import Path

from mmghostnetv2.deployment.calibration import find_pictures, read_calibration
from mmghostnetv2.deployment.convert import convert
from mmghostnetv2.deployment.export import export_parser
from mmghostnetv2.deployment.networks import pixel_format
from mmghostnetv2.deployment.runtimes import quantize_litert, to_litert
from mmghostnetv2.errors import exit_with_message


def main(argv=None):
    parser = export_parser(__doc__, '.tflite')
    parser.add_argument(
        '--int8',
        metavar='IMAGES',
        type=Path,
        nargs='+',
        help='quantise, with the ranges of values that up to 100 of these pictures '
        'give; folders are searched for pictures',
    )
    args = parser.parse_args(argv)
    with exit_with_message():
        pictures = find_pictures(args.int8 or [])

    def quantize(model, path):
        if pictures:
            size = args.shape[0], args.shape[-1]
            pixels = None if args.with_preprocess else pixel_format(model)
            quantize_litert(path, read_calibration(pictures, size, pixels))
            print(f'quantised by {len(pictures)} pictures, not compared any more')

    convert(args, 'litert', 'LiteRT', to_litert, finish=quantize)


if __name__ == '__main__':
    main()
