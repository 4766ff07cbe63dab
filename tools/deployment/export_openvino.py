"""Export a model of mmpretrain, mmdet or mmseg to OpenVINO, in float32.

The network is that of export_onnx.py, suppression and all. NAME.bin has the weights of
NAME.xml, and NAME.xml.json describes the model; tools/deployment/run.py runs it.
Nothing is written unless OpenVINO returns what torch does, within 1e-5 of each output's
largest value, or twice what float32 itself rounds off there; a detector's boxes are
compared with those of the library's predict.

Example:
    python tools/deployment/export_openvino.py configs/yolov3_ghostnetv2_320.py \
        work_dirs/yolov3_ghostnetv2_320/epoch_30.pth --shape 320 \
        --out yolov3.xml --with-preprocess --check
"""

from mmghostnetv2.deployment.convert import convert
from mmghostnetv2.deployment.export import export_parser
from mmghostnetv2.deployment.runtimes import onnx_to_openvino
from mmghostnetv2.deployment.to_onnx import to_onnx


def write(network, images, path):
    source = path.parent / 'source.onnx'
    to_onnx(network, images.shape, source)
    onnx_to_openvino(source, path)
    source.unlink()


def main(argv=None):
    args = export_parser(__doc__, '.xml').parse_args(argv)
    convert(args, 'openvino', 'OpenVINO', write, suppresses=True)


if __name__ == '__main__':
    main()
