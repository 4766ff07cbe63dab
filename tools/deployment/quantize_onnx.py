"""Quantise an ONNX file of export_onnx.py to 8-bit integers, by ONNX Runtime.

Ranges of values come from pictures. The file runs in ONNX Runtime and in OpenVINO;
evaluate.py tells what it costs and gains there. Weights get a scale a channel,
activations one a tensor. The last layers, those that no other convolution or linear
layer follows, and what comes after them, such as the decoding of boxes, stay in
float32: there eight bits cost most and gain least.

Example:
    python tools/deployment/quantize_onnx.py yolov3.onnx data/coco/val2017 \
        --out yolov3_int8.onnx
    python tools/deployment/evaluate.py configs/yolov3_ghostnetv2_320.py \
        yolov3.onnx yolov3_int8.onnx
"""

import argparse
import json
import sys
from pathlib import Path

from mmghostnetv2.deployment.calibration import find_pictures, read_calibration
from mmghostnetv2.deployment.export import require_free, written
from mmghostnetv2.deployment.metadata import metadata_path, save_metadata
from mmghostnetv2.deployment.networks import PixelFormat
from mmghostnetv2.deployment.quantize import quantize
from mmghostnetv2.errors import exit_with_message


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('model', metavar='NAME.onnx', type=Path, help='file of export_onnx.py')
    add(
        'images',
        metavar='IMAGES',
        type=Path,
        nargs='+',
        help='pictures or folders of some; up to 100 are used, evenly spaced',
    )
    add('--out', metavar='INT8.onnx', type=Path, required=True, help='file to write')
    add('--force', action='store_true', help='overwrite it')
    args = parser.parse_args(argv)
    if args.out.suffix != '.onnx':
        parser.error(f'argument --out: must end in .onnx, got {args.out}')
    sidecar = metadata_path(args.model)
    for path in (args.model, sidecar):
        if not path.is_file():
            sys.exit(f'no such file: {path}; export_onnx.py writes both')
    require_free([args.out, metadata_path(args.out)], args.force)
    with exit_with_message(sidecar):
        meta = json.loads(sidecar.read_text())
        size, normalised = meta['input']['shape'][2:], not meta['input']['preprocess']
        pixels = PixelFormat(*(meta['input'][name] for name in PixelFormat._fields))
    if meta.get('int8'):
        sys.exit(f'{args.model} has eight bits already')
    with written(args.out) as path:
        pictures = find_pictures(args.images)
        images = read_calibration(pictures, size, pixels if normalised else None)
        with exit_with_message(args.model):
            quantize(args.model, images.numpy(), path)
        save_metadata(meta | dict(int8=True), path)
        sizes = [file.stat().st_size / 1e6 for file in (args.model, path)]
    print(f'wrote {args.out}, {sizes[1]:.1f} MB instead of {sizes[0]:.1f} MB')


if __name__ == '__main__':
    main()
