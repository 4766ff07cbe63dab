"""Export a classifier, YOLOv3's dense boxes or any model's backbone to ncnn.

YOLOv3 takes --output dense: its boxes are decoded inside and suppressed by
tools/deployment/run.py. A backbone, of any model of mmpretrain, mmdet or mmseg, takes
--output features. NAME.bin has the weights of NAME.param, and NAME.param.json describes
the model.

Nothing is written unless ncnn returns, from weights in float32, what torch does, within
1e-5 of each output's largest value, or twice what float32 itself rounds off there.
Segmentors and the dense boxes of SSD, RetinaNet and RTMDet are refused: ncnn lacks
operators of theirs, or returns other shapes.

Example:
    python tools/deployment/export_ncnn.py configs/yolov3_ghostnetv2_320.py \
        work_dirs/yolov3_ghostnetv2_320/epoch_30.pth --shape 320 \
        --out yolov3.param --output dense --with-preprocess --half
"""

from mmghostnetv2.deployment.convert import convert
from mmghostnetv2.deployment.export import export_parser
from mmghostnetv2.deployment.runtimes import onnx_to_ncnn
from mmghostnetv2.deployment.to_onnx import to_onnx


def main(argv=None):
    parser = export_parser(__doc__, '.param')
    parser.add_argument(
        '--half', action='store_true', help='then store the weights as float16'
    )
    args = parser.parse_args(argv)

    def write(network, images, path):
        source = path.parent / 'source.onnx'
        to_onnx(network, images.shape, source)
        onnx_to_ncnn(source, path)
        if not args.half:
            source.unlink()

    def halve(model, path):
        source = path.parent / 'source.onnx'
        if args.half:
            onnx_to_ncnn(source, path, half=True)
            source.unlink()

    convert(args, 'ncnn', 'ncnn', write, finish=halve)


if __name__ == '__main__':
    main()
