"""Networks that end in predictions, against the libraries' own predict."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from mmghostnetv2 import config_path, init_model
from mmghostnetv2.deployment.check import library_predict
from mmghostnetv2.deployment.networks import Detector, deployable, find_task

from .conftest import assert_same_detections, make_model, rounding, to_images

NORM = dict(type='BN')
# Light heads, which without norms would return anything, and fewer boxes. RTMDet and
# YOLOv3 need multiples of 32.
DETECTORS = {
    'yolov3_ghostnetv3_320': {},
    'ssdlite_ghostnetv2_coco': {},
    'retinanet_ghostnetv2_fpn_coco': {
        'model.neck.norm_cfg': NORM,
        'model.bbox_head.norm_cfg': NORM,
        'model.bbox_head.stacked_convs': 1,
        'spread': 1.0,
    },
    'rtmdet-tiny_ghostnetv2_coco': {'model.test_cfg.nms_pre': 500},
}
SEGMENTORS = {
    'fpn_ghostnetv2_ade20k': {},
    'deeplabv3_ghostnetv2_ade20k': {'model.decode_head.channels': 16},
}
SIZE = (160, 192)


@torch.no_grad()
def run(model, pixels, output='predictions', preprocess=False):
    outputs = deployable(model, output, preprocess)(
        to_images(model, pixels, preprocess)
    )
    outputs = [outputs] if torch.is_tensor(outputs) else outputs
    return [output.numpy() for output in outputs]


@pytest.fixture(scope='module', params=DETECTORS)
def detector(request, pictures):
    """A detector and pictures."""
    pytest.importorskip('mmdet', reason='needs mmdet')
    pixels = pictures(SIZE)
    return make_model(request.param, pixels, **DETECTORS[request.param]), pixels


def check_detections(model, pixels, pictures_found):
    """Compare the network on all pictures with predict on each."""
    (dets, labels), rounded = run(model, pixels), rounding(model, pixels)
    number = model.bbox_head.test_cfg.max_per_img
    assert dets.shape == (len(pixels), number, 5)
    assert labels.shape == (len(pixels), number)
    for picture, ours, classes in zip(pixels, dets, labels, strict=True):
        theirs = [output[0] for output in library_predict(model, picture)]
        found = len(theirs[0])
        pictures_found.append(theirs)
        assert_same_detections((ours[:found], classes[:found]), theirs, rounded)
        # filled up with what is none
        assert (classes[found:] == -1).all() and not ours[found:].any()


def test_detections_are_those_of_predict(detector):
    """Of a batch, in order, to a thousandth of a pixel."""
    model, pixels = detector
    found = []
    check_detections(model, pixels[:2], found)
    for boxes, labels in found:
        assert len(boxes) > 50 and np.ptp(boxes[:, 4]) > 0.05
        assert len(set(labels)) > 9


def test_thresholds_of_test_cfg_hold(detector):
    """Of scores and sizes, so that some of max_per_img boxes are none."""
    model, pixels = detector
    cfg, found = model.bbox_head.test_cfg, []
    before = cfg.copy()
    # between two scores that are far apart
    scores = np.sort(library_predict(model, pixels[0])[0][0, :, 4])[20:-20]
    gap = np.diff(scores).argmax()
    try:
        cfg.update(
            score_thr=float(scores[gap : gap + 2].mean()),
            nms_pre=400,
            max_per_img=400,
            min_bbox_size=4,
            nms=dict(type='nms', iou_threshold=0.1),
        )
        if 'conf_thr' in cfg:
            cfg.conf_thr = 0.5
        check_detections(model, pixels[:2], found)
    finally:
        cfg.update(before)
        if 'min_bbox_size' not in before:
            del cfg['min_bbox_size']
    assert 0 < sum(len(boxes) for boxes, _ in found) < 800


def test_dense_boxes_hold_those_that_are_found(detector):
    """All scores of all boxes, from which the best ones come."""
    model, pixels = detector
    boxes, scores, *factors = run(model, pixels[:1], 'dense')
    assert boxes.shape == (*scores.shape[:2], 4)
    if factors:
        scores = scores * factors[0][..., None]
    ((found,), (labels,)) = library_predict(model, pixels[0])
    for box, label in zip(found[:10], labels, strict=False):
        errors = np.abs(boxes[0] - box[:4]).max(1)
        best = np.flatnonzero(errors < 1e-2)
        assert np.abs(scores[0, best, label] - box[4]).min() < 1e-5


@pytest.fixture(scope='module', params=SEGMENTORS)
def segmentor(request, pictures):
    """A segmentor and pictures."""
    pytest.importorskip('mmseg', reason='needs mmseg')
    pixels = pictures(SIZE)
    return make_model(request.param, pixels, **SEGMENTORS[request.param]), pixels


@pytest.mark.parametrize('size', [SIZE, (97, 130)])
def test_labels_of_pixels_are_those_of_predict(segmentor, pictures, size):
    model, _ = segmentor
    pixels = pictures(size, 2)
    (labels,) = run(model, pixels)
    assert labels.shape == (2, *size) and len(np.unique(labels)) > 5
    for picture, ours in zip(pixels, labels, strict=True):
        assert (ours == library_predict(model, picture)[0]).mean() >= 0.9999


@pytest.fixture(scope='module')
def classifier(pictures):
    pytest.importorskip('mmpretrain', reason='needs mmpretrain')
    pixels = pictures((96, 96))
    return make_model('ghostnetv2_100_in1k', pixels), pixels


@pytest.mark.parametrize('preprocess', [False, True])
def test_scores_are_those_of_predict(classifier, preprocess):
    model, pixels = classifier
    (scores,) = run(model, pixels, preprocess=preprocess)
    expected = np.concatenate([library_predict(model, p)[0] for p in pixels])
    assert np.abs(scores - expected).max() < 1e-5 * expected.max()
    assert len(set(scores.argmax(1))) > 1


@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32])
@pytest.mark.parametrize(
    'name', ['yolov3_ghostnetv2_320', 'rtmdet-tiny_ghostnetv2_coco']
)
def test_normalisation_is_the_data_preprocessors(pictures, name, dtype):
    """With channels that it turns round, and without."""
    pytest.importorskip('mmdet', reason='needs mmdet')
    size = (64, 96)
    (pixels,) = pictures(size, 1)
    for conversion in (True, False):
        model = init_model(
            config_path(name),
            cfg_options={'model.data_preprocessor.bgr_to_rgb': conversion},
        )
        bgr = torch.from_numpy(pixels[..., ::-1].copy()).permute(2, 0, 1)
        expected = model.data_preprocessor(dict(inputs=[bgr], data_samples=None))
        normalise = deployable(model, 'features', preprocess=True)[0]
        rgb = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(dtype)
        assert torch.allclose(normalise(rgb), expected['inputs'], atol=1e-6)


def test_features_are_the_backbones(classifier):
    model, pixels = classifier
    network = deployable(model, 'features')
    assert network.output_names == ('features0',)
    images = to_images(model, pixels[:1])
    with torch.no_grad():
        assert torch.equal(
            network(images)[0], model.extract_feat(images, 'backbone')[0]
        )


def test_names_of_outputs(detector):
    model, _ = detector
    assert deployable(model).output_names == ('dets', 'labels')
    assert deployable(model, preprocess=True).output_names == ('dets', 'labels')
    dense = ['boxes', 'scores', 'objectness'][: 2 + ('YOLO' in type(model).__name__)]
    assert deployable(model, 'dense').output_names == tuple(dense)


def test_a_detector_is_built_around_a_model_in_training(detector):
    """The model stays in its mode, and its statistics as they are."""
    model = copy.deepcopy(detector[0]).double().train()
    model.backbone.eval()
    modes = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    for suppress in (False, True):
        network = Detector(model, suppress)
        assert network.model is model
        assert [module.training for module in model.modules()] == modes
        for name, value in model.state_dict().items():
            assert torch.equal(value, state[name]), name


def test_heads_with_centerness_name_it_too():
    pytest.importorskip('mmdet', reason='needs mmdet')
    name, options = (
        'retinanet_ghostnetv2_fpn_coco',
        {'model.bbox_head.type': 'ATSSHead'},
    )
    model = init_model(config_path(name), cfg_options=options)
    network = deployable(model, 'dense')
    assert network.output_names == ('boxes', 'scores', 'factors')
    with torch.no_grad():
        _, scores, factors = network(torch.zeros(1, 3, 64, 64))
    assert factors.shape == scores.shape[:2]
    model.bbox_head.bbox_coder.encode_size = 5  # rotated boxes
    with pytest.raises(NotImplementedError, match='only boxes of four numbers'):
        deployable(model, 'dense')


def test_what_cannot_be_exported_is_refused(classifier):
    model, _ = classifier
    with pytest.raises(ValueError, match="one of .* got 'boxes'"):
        deployable(model, 'boxes')
    with pytest.raises(ValueError, match="'dense' is for detectors, not for class"):
        deployable(model, 'dense')


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        ('mask-rcnn_ghostnetv2_fpn_coco', {}, 'two-stage detectors'),
        (
            'yolov3_ghostnetv2_320',
            {'model.test_cfg.nms': dict(type='soft_nms', iou_threshold=0.5)},
            'soft_nms',
        ),
        (
            'retinanet_ghostnetv2_fpn_coco',
            {'model.bbox_head.type': 'PAAHead'},
            'PAAHead overrides the prediction',
        ),
    ],
)
def test_detectors_that_cannot_be_exported(name, options, message):
    pytest.importorskip('mmdet', reason='needs mmdet')
    model = init_model(config_path(name), cfg_options=options)
    with pytest.raises(NotImplementedError, match=message):
        deployable(model)
    features = deployable(model, 'features')(torch.zeros(1, 3, 64, 64))
    expected = model.backbone(torch.zeros(1, 3, 64, 64))
    assert all(map(torch.equal, features, expected)) and len(features) == len(expected)


def test_detectors_without_boxes():
    """Such as SOLO."""
    model = nn.Module()
    model.mask_head = nn.Identity()
    assert find_task(model) == 'detection'
    with pytest.raises(NotImplementedError, match='Module: .* without a bbox_head'):
        deployable(model)


def test_backbones_that_do_not_tell_their_features(classifier):
    model, _ = classifier
    model = copy.copy(model)
    model._modules = dict(model._modules, backbone=nn.Conv2d(3, 4, 3))
    with pytest.raises(NotImplementedError, match='Conv2d has no sequence out_indices'):
        deployable(model, 'features')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            {'model.test_cfg': dict(mode='slide', crop_size=(9, 9), stride=(5, 5))},
            "mode='slide'",
        ),
        (
            {'model.decode_head.out_channels': 1, 'model.decode_head.num_classes': 2},
            'one output channel',
        ),
        # whose forward returns more than logits
        (
            {
                'model.decode_head': dict(
                    _delete_=True,
                    type='DAHead',
                    in_channels=160,
                    in_index=3,
                    channels=16,
                    pam_channels=8,
                    num_classes=150,
                    norm_cfg=NORM,
                )
            },
            'DAHead overrides the prediction',
        ),
    ],
)
def test_segmentors_that_cannot_be_exported(options, message):
    pytest.importorskip('mmseg', reason='needs mmseg')
    model = init_model(config_path('fpn_ghostnetv2_ade20k'), cfg_options=options)
    with pytest.raises(NotImplementedError, match=message):
        deployable(model)


@pytest.mark.parametrize('name', ['MaskFormerHead', 'Mask2FormerHead'])
def test_heads_that_classify_masks_cannot_be_exported(name):
    heads = pytest.importorskip('mmseg.models.decode_heads', reason='needs mmseg')
    model = init_model(config_path('fpn_ghostnetv2_ade20k'))
    cls = getattr(heads, name)
    model.decode_head = cls.__new__(cls)  # to build one takes mmdet and a long config
    with pytest.raises(NotImplementedError, match=f'{name} overrides the prediction'):
        deployable(model)
