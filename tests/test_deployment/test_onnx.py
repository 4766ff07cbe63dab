"""ONNX files of whole models of any size, against the libraries' predict."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from mmghostnetv2.deployment.check import library_predict
from mmghostnetv2.deployment.networks import batch_nms, deployable
from mmghostnetv2.deployment.runtimes import RUNTIMES
from mmghostnetv2.models import SqueezeExcite, fold_norms

from .conftest import SIDE, assert_same_detections, make_model, rounding, to_images

onnx = pytest.importorskip('onnx', reason='needs onnx')
onnxruntime = pytest.importorskip('onnxruntime', reason='needs onnxruntime')
pytest.importorskip('onnxscript', reason='exports')
write = RUNTIMES['onnxruntime'].write


def open_file(path):
    """Check what the file is made of; return a function of images."""
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} <= {'', 'ai.onnx'}
    assert 'BatchNormalization' not in {node.op_type for node in model.graph.node}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        path, options, providers=['CPUExecutionProvider']
    )
    names = [output.name for output in session.get_outputs()]

    def run(images):
        return dict(zip(names, session.run(None, {'images': images}), strict=True))

    run.input_shape = session.get_inputs()[0].shape
    return run


@pytest.mark.parametrize('dynamic', [False, True])
def test_squeeze_excite_has_one_operator_for_its_gate(tmp_path, dynamic):
    """Not an addition, a clip and a division."""
    gate = SqueezeExcite(4, 1.0)
    for conv in gate.conv_reduce, gate.conv_expand:
        with torch.no_grad():
            conv.weight.copy_(torch.eye(4)[..., None, None])
            conv.bias.zero_()
    path = tmp_path / 'a.onnx'
    write(gate.eval(), torch.zeros(1, 4, 96, 96), path, dynamic)
    found = [node.op_type for node in onnx.load(path).graph.node]
    assert 'HardSigmoid' in found and not {'Clip', 'Div'} & {*found}
    values = torch.tensor([-1.0, 0.0, 1.5, 9.0]).view(1, 4, 1, 1)
    (out,) = open_file(path)(values.expand(1, 4, 96, 96).numpy()).values()
    expected = values * torch.tensor([0.5, 0.5, 0.75, 1.0]).view(1, 4, 1, 1)
    assert np.abs(out - expected.numpy()).max() < 1e-6


def check_boxes(run, model, pictures, sizes, preprocess=False):
    """Compare two pictures of each size with the library's predictions.

    Compared with the network in double precision, the file rounds at most twice as much
    as torch does.
    """
    assert run.input_shape == ['batch', 3, 'height', 'width']
    number = model.bbox_head.test_cfg.max_per_img
    exact = deployable(copy.deepcopy(model)).double()
    for size in sizes:
        pixels = pictures(size, 2)
        outputs = run(to_images(model, pixels, preprocess).numpy())
        with torch.no_grad():
            double = [x.numpy() for x in exact(to_images(model, pixels).double())]
        rounded = rounding(model, pixels)
        assert outputs['dets'].shape == (2, number, 5)
        assert outputs['labels'].dtype == np.int64
        for i, picture in enumerate(pixels):
            theirs = [output[0] for output in library_predict(model, picture)]
            found = len(theirs[0])
            assert found > 30
            ours = outputs['dets'][i, :found], outputs['labels'][i, :found]
            assert_same_detections(ours, theirs, rounded)
            precise = double[0][i, :found], double[1][i, :found]
            assert_same_detections(ours, precise, rounded, factor=2)


def test_yolov3_of_any_size(exported, trained, pictures):
    """Other sizes than that of the export; one is no multiple of 64."""
    run = open_file(exported('detector') / 'a.onnx')
    sizes = [(160, 192), (96, 224)]
    check_boxes(run, trained.models['detector'], pictures, sizes, preprocess=True)


def test_anchor_heads_of_any_size(pictures, tmp_path):
    pytest.importorskip('mmdet', reason='needs mmdet')
    options = {'model.test_cfg.max_per_img': 60, 'model.test_cfg.nms_pre': 500}
    options |= {'model.backbone.type': 'ShortGhostNetV2'}
    options |= {'model.bbox_head.stacked_convs': 1}
    model = make_model('rtmdet-tiny_ghostnetv2_coco', pictures((160, 192)), **options)
    network = deployable(fold_norms(model))
    write(network, torch.rand(1, 3, 96, 128), tmp_path / 'a.onnx', dynamic=True)
    run = open_file(tmp_path / 'a.onnx')
    check_boxes(run, model, pictures, [(160, 192), (96, 224)])


def test_segmentors_of_any_size(exported, trained, pictures):
    """Odd features, too, and the two pixels that attention needs at least."""
    run = open_file(exported('segmentor') / 'a.onnx')
    model = trained.models['segmentor']
    found = set()
    for size in [(160, 192), (99, 145), (33, 33)]:
        pixels = pictures(size, 2)
        (labels,) = run(to_images(model, pixels).numpy()).values()
        theirs = np.concatenate([library_predict(model, p)[0] for p in pixels])
        assert labels.shape == theirs.shape
        assert (labels == theirs).mean() >= 0.9999
        found.update(np.unique(labels))
    assert len(found) > 1


def test_fixed_size(exported, trained, pictures):
    run = open_file(exported('classifier') / 'a.onnx')
    assert run.input_shape == [1, 3, SIDE, SIDE]
    model, (pixels,) = trained.models['classifier'], pictures((SIDE, SIDE), 1)
    outputs = run(to_images(model, pixels[None]).numpy())
    (expected,) = library_predict(model, pixels)
    assert np.abs(outputs['scores'] - expected).max() < 1e-4 * expected.max()
    with pytest.raises(Exception, match='INVALID_ARGUMENT'):
        run(np.zeros((1, 3, 160, 160), np.float32))


def test_a_file_holds_the_post_processing_once(exported):
    """Decoded boxes are suppressed by one operator."""
    graph = onnx.load(exported('detector') / 'a.onnx').graph
    assert [n.op_type for n in graph.node].count('NonMaxSuppression') == 1


class Suppression(nn.Module):
    def forward(self, x):
        return batch_nms(x[:, :4].mT, x[:, 4:], 0.5, 20)


def test_suppression(tmp_path):
    """The operator of the ONNX standard, also where no box is left."""
    corners = torch.rand(1, 2, 50)
    x = torch.cat([corners, corners + 0.3, torch.rand(1, 1, 50)], dim=1)
    write(Suppression().eval(), x, tmp_path / 'a.onnx')
    run = open_file(tmp_path / 'a.onnx')
    (rows,) = run(x.numpy()).values()
    assert rows.tolist() == Suppression()(x).tolist() and 0 < len(rows) <= 20
    x[:, 4] = 0
    (rows,) = run(x.numpy()).values()
    assert rows.shape == Suppression()(x).shape == (0, 3)


def test_plain_network_and_what_cannot_be_exported(tmp_path):
    x = torch.rand(1, 3, 4, 5)
    conv = nn.Conv2d(3, 2, 1).eval()
    write(conv, x, tmp_path / 'a.onnx')
    (output,) = open_file(tmp_path / 'a.onnx')(x.numpy()).values()
    np.testing.assert_allclose(output, conv(x).detach(), atol=1e-6)

    class Unknown(nn.Module):
        def forward(self, x):
            return torch.linalg.eigvals(x)

    with pytest.raises(RuntimeError, match='cannot be exported: .*eig'):
        write(Unknown(), torch.rand(1, 1, 4, 4), tmp_path / 'b.onnx')
