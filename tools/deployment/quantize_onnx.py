"""Quantise an ONNX file of export_onnx.py to 8-bit integers, by ONNX Runtime.

Ranges of values come from pictures. The file runs in ONNX Runtime and in OpenVINO, on
CPUs with VNNI faster than in float32. Weights get a scale a channel, activations one a
tensor. The last layers, those that no other convolution or linear layer follows, and
what comes after them, such as the decoding of boxes, stay in float32: there eight bits
cost most and gain least.

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

from mmghostnetv2.deployment.calibration import read_calibration
from mmghostnetv2.deployment.export import written
from mmghostnetv2.deployment.metadata import metadata_path, save_metadata
from mmghostnetv2.deployment.networks import PixelFormat
from mmghostnetv2.deployment.quantize import quantize


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
    for path in (args.out, metadata_path(args.out)):
        if path.exists() and not args.force:
            sys.exit(f'{path} exists; --force overwrites it')
    meta = json.loads(sidecar.read_text())
    given = meta['input']
    pixels = PixelFormat(*(given[name] for name in PixelFormat._fields))
    with written(args.out) as path:
        images = read_calibration(
            args.images, given['shape'][2:], None if given['preprocess'] else pixels
        )
        quantize(args.model, images.numpy(), path)
        save_metadata(meta | dict(int8=True), path)
        sizes = [file.stat().st_size / 1e6 for file in (args.model, path)]
    print(f'wrote {args.out}, {sizes[1]:.1f} MB instead of {sizes[0]:.1f} MB')


if __name__ == '__main__':
    main()
