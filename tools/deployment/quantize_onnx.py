r"""Quantise an ONNX file of export.py to 8-bit integers with ONNX Runtime's quantiser.

Example:
    python tools/deployment/quantize_onnx.py yolov3.onnx data/coco/val2017 \
        --out yolov3_int8.onnx
    python tools/deployment/evaluate.py configs/yolov3_ghostnetv2_320.py \
        yolov3.onnx yolov3_int8.onnx

The ranges of values are measured on the pictures. The file runs in ONNX Runtime and in
OpenVINO; evaluate.py measures its accuracy and speed. Weights have one scale for each
channel, and activations one for each tensor. The last convolutions and linear layers
and all that follows, such as the decoding of boxes, stay in float32, because eight bits
cost the most accuracy and save the least time there.
"""

from pathlib import Path

from mmghostnetv2.arguments import add_out, make_parser, named_errors, run_tool
from mmghostnetv2.deployment.calibration import find_pictures, read_calibration
from mmghostnetv2.deployment.metadata import (
    load_metadata,
    metadata_path,
    save_metadata,
)
from mmghostnetv2.deployment.networks import PixelFormat
from mmghostnetv2.deployment.quantize import quantize
from mmghostnetv2.output import require_free, written


def main(argv=None):
    parser = make_parser(__doc__)
    add = parser.add_argument
    add('model', metavar='NAME.onnx', type=Path, help='file of export.py')
    text = 'pictures or folders of pictures; up to 100 are used, evenly spaced'
    add('pictures', metavar='PICTURES', type=Path, nargs='+', help=text)
    add_out(parser, 'file to write', ['.onnx'], required=True)
    args = parser.parse_args(argv)
    require_free([args.out, metadata_path(args.out)], args.force)
    meta = load_metadata(args.model)
    with named_errors(metadata_path(args.model)):
        form = meta['input']
        pixels = PixelFormat(*(form[name] for name in PixelFormat._fields))
        size, normalises = form['shape'][2:], form['preprocess']
    if meta.get('int8'):
        raise ValueError(f'{args.model} is quantised already')
    images = read_calibration(
        find_pictures(args.pictures), size, None if normalises else pixels
    )
    with written(args.out) as path:
        with named_errors(args.model):
            quantize(args.model, images.numpy(), path)
        save_metadata(meta | dict(int8=True), path)
        before, after = (file.stat().st_size / 1e6 for file in (args.model, path))
    print(f'wrote {args.out}, {after:.1f} MB instead of {before:.1f} MB')


if __name__ == '__main__':
    run_tool(main)
