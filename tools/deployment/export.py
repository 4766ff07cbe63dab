r"""Export a model of mmpretrain, mmdet or mmseg to ONNX, OpenVINO or another runtime.

Example:
    python tools/deployment/export.py configs/yolov3_ghostnetv2_320.py \
        work_dirs/yolov3_ghostnetv2_320/epoch_30.pth --shape 320 \
        --out yolov3.onnx --with-preprocess

The suffix of --out chooses the format: .onnx, .xml (OpenVINO), .tflite (LiteRT), .param
(ncnn), .pte (ExecuTorch) or .mlpackage (Core ML). Batch norms are folded. Files of
detectors include the decoding of boxes and non-maximum suppression (NMS), and files of
segmentors return labels of pixels. Runtimes without NMS need --output dense for
detectors; tools/deployment/run.py suppresses the boxes. NAME.onnx.json beside NAME.onnx
describes the model.

The file is written only if the runtime returns the same outputs as torch, or the same
boxes as the library's predict. Only the shapes are compared for Core ML, which runs
only on Apple's systems.
"""

import shutil
from pathlib import Path

from mmghostnetv2.arguments import (
    add_config,
    add_out,
    add_shape,
    load_model,
    make_parser,
    run_tool,
)
from mmghostnetv2.deployment.calibration import find_pictures, read_calibration
from mmghostnetv2.deployment.export import MIN_DYNAMIC_SIDE, export_model
from mmghostnetv2.deployment.metadata import metadata_path
from mmghostnetv2.deployment.networks import OUTPUTS, pixel_format
from mmghostnetv2.deployment.runtimes import RUNTIMES, find_runtime
from mmghostnetv2.output import require_free, written


def parse(argv):
    formats = {r.suffix: r.format for r in RUNTIMES.values() if r.format}
    parser = make_parser(__doc__)
    add = parser.add_argument
    add_config(parser)
    add_shape(parser, required=True)
    add_out(parser, 'file to write', [*formats], required=True)
    text = 'format of the file (default: by the suffix of --out)'
    add('--format', choices=formats.values(), help=text)
    text = "what the file returns: predictions (default), a detector's dense boxes and "
    text += "scores before NMS, or the backbone's features"
    add('--output', choices=OUTPUTS, default='predictions', help=text)
    text = 'take RGB pixels of 0 to 255; the exported network normalises them'
    add('--with-preprocess', action='store_true', help=text)
    text = 'ONNX: leave batch, height and width free; --shape is then an example'
    add('--dynamic', action='store_true', help=text)
    text = 'ncnn: store the weights as float16; Core ML: also compute in float16'
    add('--half', action='store_true', help=text)
    text = 'ONNX, OpenVINO, LiteRT, ExecuTorch: quantise to 8-bit integers by the '
    text += 'ranges of values on up to 100 of these pictures or folders of pictures'
    add('--int8', metavar='PICTURES', type=Path, nargs='+', help=text)
    text = "also compare classifiers and segmentors with the library's predict"
    add('--check', action='store_true', help=text)
    text = 'picture for --check, stretched to --shape (default: a generated one)'
    add('--image', metavar='IMAGE', type=Path, help=text)
    args = parser.parse_args(argv)
    runtime = find_runtime(args.out)
    if args.format not in (None, runtime.format):
        parser.error(f'--format {args.format} does not fit --out {args.out}')
    options = dict(dynamic=runtime.dynamic, check=runtime.runs)
    options |= {name: name in runtime.compress for name in ('half', 'int8')}
    for name, known in options.items():
        if getattr(args, name) and not known:
            parser.error(f'--{name} is not for {runtime.title}')
    if args.image and not args.check:
        parser.error('--image is for --check')
    if args.dynamic and min(args.shape) < MIN_DYNAMIC_SIDE:
        parser.error(f'--dynamic needs sides of at least {MIN_DYNAMIC_SIDE} pixels')
    return args, runtime


def main(argv=None):
    args, runtime = parse(argv)
    out = args.out
    files = [metadata_path(out), *map(out.with_suffix, runtime.companions)]
    is_package = out.suffix == '.mlpackage' and out.is_dir()  # this format is a folder
    if is_package and not args.force:
        raise FileExistsError(f'{out} exists; --force overwrites it')
    require_free(files if is_package else [out, *files], args.force)
    compress = {'half': True} if args.half else {}
    model = load_model(args)
    if args.int8:
        pixels = None if args.with_preprocess else pixel_format(model)
        pictures = find_pictures(args.int8)
        compress['int8'] = read_calibration(pictures, args.shape, pixels)
    with written(out) as path:
        said = export_model(
            model,
            path,
            args.shape,
            args.output,
            args.with_preprocess,
            args.dynamic,
            args.check,
            args.image,
            args.checkpoint,
            **compress,
        )
        size = sum(f.stat().st_size for f in path.parent.rglob('*') if f.is_file())
        if is_package:  # because a folder cannot replace another one
            shutil.rmtree(out)
    print('\n'.join(said))
    if compress:
        print(f'then compressed by {" and ".join(compress)}, and not compared again')
    print(f'wrote {out}, {size / 1e6:.1f} MB, and {out.name}.json')


if __name__ == '__main__':
    run_tool(main)
