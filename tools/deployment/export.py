r"""Export a model of mmpretrain, mmdet or mmseg to ONNX, OpenVINO or another runtime.

Example:
    python tools/deployment/export.py configs/yolov3_ghostnetv2_320.py \
        work_dirs/yolov3_ghostnetv2_320/epoch_30.pth --shape 320 \
        --out yolov3.onnx --with-preprocess

The suffix of --out chooses the format: .onnx, .xml (OpenVINO), .tflite (LiteRT), .param
(ncnn), .pte (ExecuTorch) or .mlpackage (Core ML). Batch norms are folded, a detector's
boxes are decoded and suppressed, a segmentor's pixels are labelled. Runtimes without a
non-maximum suppression take detectors with --output dense, whose boxes
tools/deployment/run.py suppresses. NAME.onnx.json beside NAME.onnx describes the model.

Nothing is written unless the runtime returns what torch returns, or finds the boxes
that the library's predict finds.
"""

import shutil
from pathlib import Path

from mmghostnetv2.apis import init_model
from mmghostnetv2.arguments import (
    add_config,
    add_out,
    add_shape,
    load_config,
    make_parser,
    named_errors,
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
    add(
        '--format',
        choices=formats.values(),
        help='format of the file; the suffix of --out chooses it by default',
    )
    add(
        '--output',
        choices=OUTPUTS,
        default='predictions',
        help="what the file returns: predictions (default), a detector's dense boxes "
        "and scores before suppression, or the backbone's features",
    )
    add(
        '--with-preprocess',
        action='store_true',
        help='take RGB pixels of 0 to 255; normalisation becomes part of the network',
    )
    add(
        '--dynamic',
        action='store_true',
        help='ONNX: leave batch, height and width free; --shape is then an example',
    )
    add(
        '--half',
        action='store_true',
        help='ncnn: store the weights as float16; Core ML: also compute in float16',
    )
    add(
        '--int8',
        metavar='PICTURES',
        type=Path,
        nargs='+',
        help='LiteRT: quantise, with the ranges of values on up to 100 of these '
        'pictures; folders are searched for pictures',
    )
    add(
        '--check',
        action='store_true',
        help="also compare classifiers and segmentors with the library's own predict",
    )
    add(
        '--image',
        metavar='IMAGE',
        type=Path,
        help='picture for --check, stretched to --shape; a generated one by default',
    )
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
    config = load_config(args)
    with named_errors(args.config):
        model = init_model(config, args.checkpoint)
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
        if is_package:  # a folder cannot be moved over another one
            shutil.rmtree(out)
    print('\n'.join(said))
    if compress:
        print(f'{" and ".join(compress)}: smaller after that, and not compared again')
    print(f'wrote {out}, {size / 1e6:.1f} MB, and {out.name}.json')


if __name__ == '__main__':
    run_tool(main)
