"""Descriptions of exported models, against the pipelines and libraries they tell of."""

import json

import pytest
import torch
from mmengine.config import Config

from mmghostnetv2 import config_path, init_model
from mmghostnetv2.deployment.metadata import (
    describe,
    load_metadata,
    metadata_path,
    preparation,
    save_metadata,
)
from mmghostnetv2.deployment.networks import deployable
from mmghostnetv2.models import GhostNetV2

from .conftest import load, needs


def prepare(pipeline, size=(96, 128), dynamic=False):
    cfg = Config(dict(test_dataloader=dict(dataset=dict(pipeline=pipeline))))
    return preparation(cfg, size, dynamic)


def test_preparation_of_classifiers_keeps_the_part_of_the_picture():
    """At another size than the config's 224, as much of 256 is cropped."""
    cfg = Config.fromfile(config_path('ghostnetv2_100_in1k'))
    for side, edge in ((224, 256), (112, 128), (448, 512)):
        found = preparation(cfg, (side, side))
        assert (found['resize'], found['edge']) == ('short_edge', edge)
        assert found['size'] == [side, side]
        assert (found['backend'], found['interpolation']) == ('pillow', 'bicubic')
        assert not found['unknown']


def test_preparation_of_what_is_stretched():
    found = prepare([dict(type='Resize', scale=(50, 40))])
    assert (found['resize'], found['size']) == ('stretch', [96, 128])
    assert (found['backend'], found['interpolation']) == ('cv2', 'bilinear')


def test_preparation_of_several_datasets():
    """They have one pipeline, or none can be described."""
    fit, stretch = (
        dict(
            type='CocoDataset',
            metainfo=dict(classes=('a', 'b')),
            pipeline=[dict(type='Resize', scale=(40, 50), keep_ratio=keep_ratio)],
        )
        for keep_ratio in (True, False)
    )

    def concatenated(*datasets):
        dataset = dict(type='ConcatDataset', datasets=list(datasets))
        return Config(dict(test_dataloader=dict(dataset=dataset)))

    cfg = concatenated(fit, dict(type='RepeatDataset', times=2, dataset=fit))
    assert preparation(cfg, (96, 128))['resize'] == 'fit'
    with pytest.raises(ValueError, match='test_dataloader have different pipelines'):
        preparation(concatenated(fit, stretch), (96, 128))


def test_preparation_of_what_fits():
    """Static inside the size, dynamic by the longest and the shortest side."""
    pipeline = [dict(type='mmdet.Resize', scale=(40, 50), keep_ratio=True)]
    found = prepare(pipeline)
    assert (found['resize'], found['pad_to']) == ('fit', [96, 128])
    assert 'scale' not in found
    found = prepare(pipeline, dynamic=True)
    assert (found['scale'], found['pad_to']) == ([50, 40], None)


def test_preparation_with_padding_in_the_pipeline():
    pipeline = [
        dict(type='Resize', scale=(64, 48), keep_ratio=True),
        dict(type='Pad', size=(64, 48), pad_val=dict(img=(114, 114, 114))),
    ]
    assert prepare(pipeline)['pad_to'] == [96, 128]
    found = prepare(pipeline, dynamic=True)
    assert (found['pad_value'], found['pad_to']) == (114, [48, 64])


def test_steps_that_are_not_described_are_listed():
    steps = [dict(type='LoadImageFromFile'), dict(type='Pad', size_divisor=32)]
    steps += [dict(type='RandomFlip'), dict(type='CenterCrop', crop_size=3)]
    found = prepare([*steps, dict(type='PackInputs')])
    assert found['unknown'] == ['Pad', 'RandomFlip', 'CenterCrop']
    assert found['resize'] == 'none'


def describe_model(name, output='predictions', preprocess=False, checkpoint=None, **kw):
    model = init_model(config_path(name), cfg_options=kw.pop('cfg_options', None))
    network = deployable(model, output, preprocess)
    return describe(model, network, output, (1, 3, 64, 64), checkpoint=checkpoint, **kw)


def test_classes_and_palette_of_the_data_set():
    datasets = pytest.importorskip('mmdet.datasets', reason='needs mmdet')
    meta = describe_model('yolov3_ghostnetv2_320')
    known = datasets.CocoDataset.METAINFO
    assert meta['classes'] == list(known['classes'])
    assert [tuple(colour) for colour in meta['palette']] == known['palette']
    assert meta['versions'].keys() == {'mmghostnetv2', 'torch', 'mmdet'}


def test_classes_of_the_config_and_of_the_checkpoint(tmp_path):
    """Those of the checkpoint come first: it knows what it was trained on."""
    pytest.importorskip('mmdet', reason='needs mmdet')
    name = 'yolov3_ghostnetv2_320_digits'
    meta = describe_model(name)
    assert meta['classes'] == list('0123456789') and meta['checkpoint'] is None
    path = tmp_path / 'digits.pth'
    saved = dict(classes=tuple('abcdefghij'), palette=[(1, 2, 3)] * 10)
    torch.save(dict(meta=dict(dataset_meta=saved), state_dict={}), path)
    meta = describe_model(name, checkpoint=str(path))
    assert meta['classes'] == list('abcdefghij')
    assert meta['palette'] == [[1, 2, 3]] * 10
    assert (meta['config'], meta['checkpoint']) == (name, 'digits.pth')


def test_input_and_colour_of_the_padding():
    """The libraries pad what they have normalised, RTMDet's pipeline does before."""
    pytest.importorskip('mmdet', reason='needs mmdet')
    meta = describe_model('yolov3_ghostnetv2_320', preprocess=True)
    form = meta['input']
    assert form['preprocess'] and form['shape'] == [1, 3, 64, 64]
    # what is padded becomes 0: (colour - mean) / std, in RGB
    assert form['rgb'] and meta['prepare']['pad_colour'] == form['mean']
    assert meta['prepare']['divisor'] == 32
    meta = describe_model('rtmdet-tiny_ghostnetv2_coco')
    assert meta['prepare']['pad_colour'] == [114.0] * 3 and not meta['clip']
    assert not meta['input']['preprocess']
    options = {
        'model.data_preprocessor.bgr_to_rgb': False,
        'model.data_preprocessor.mean': [10, 20, 30],
        'model.data_preprocessor.std': [1, 2, 4],
        'model.data_preprocessor.pad_value': 1,
    }
    meta = describe_model('retinanet_ghostnetv2_fpn_coco', cfg_options=options)
    assert not meta['input']['rgb'] and meta['input']['mean'] == [10, 20, 30]
    assert meta['prepare']['pad_colour'] == [34, 22, 11]  # of blue, green, red
    assert meta['clip'] is True


@pytest.mark.parametrize(
    ('name', 'levels'),
    [
        # anchors at strides 32, 16 and 8, suppressed as one level
        ('yolov3_ghostnetv2_320', [3 * (4 + 16 + 64)]),
        # nine anchors at strides 8 to 128
        ('retinanet_ghostnetv2_fpn_coco', [9 * n for n in (64, 16, 4, 1, 1)]),
    ],
)
def test_suppression_of_dense_boxes(name, levels):
    pytest.importorskip('mmdet', reason='needs mmdet')
    meta = describe_model(name, 'dense', preprocess=True)
    cfg = init_model(config_path(name)).bbox_head.test_cfg
    assert meta['suppression'] == dict(
        levels=levels,
        score_thr=cfg.score_thr,
        conf_thr=cfg.get('conf_thr', -1),
        nms_pre=cfg.nms_pre,
        min_bbox_size=cfg.min_bbox_size if 'min_bbox_size' in cfg else -1,
        iou_threshold=cfg.nms.iou_threshold,
        max_per_img=cfg.max_per_img,
    )
    assert 'suppression' not in describe_model(name)


def test_backbones_of_detectors_of_two_stages():
    """What cannot be exported as a whole may be described as far as it can."""
    pytest.importorskip('mmdet', reason='needs mmdet')
    meta = describe_model('mask-rcnn_ghostnetv2_fpn_coco', 'features')
    assert (meta['task'], meta['output']) == ('detection', 'features')
    assert meta['outputs'] == [f'features{i}' for i in range(4)]


def test_file_beside_the_model(tmp_path):
    model = tmp_path / 'a.b.onnx'
    path = save_metadata(dict(task='none', levels=[1, 2]), model)
    assert path == metadata_path(model) == tmp_path / 'a.b.onnx.json'
    assert json.loads(path.read_text()) == dict(task='none', levels=[1, 2])


NEW_STYLE = """
from mmengine.config import read_base
from mmpretrain.datasets import CenterCrop, ImageNet, LoadImageFromFile, PackInputs
from mmpretrain.datasets import ResizeEdge
from mmpretrain.models import GlobalAveragePooling, ImageClassifier, LinearClsHead

from mmghostnetv2.models import GhostNetV2

with read_base():
    from .base import model_scope

default_scope = model_scope
model = dict(
    type=ImageClassifier,
    backbone=dict(type=GhostNetV2, widen_factor=0.3),
    neck=dict(type=GlobalAveragePooling),
    head=dict(type=LinearClsHead, num_classes=10, in_channels=CHANNELS),
)
pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=ResizeEdge, scale=256, edge='short', backend='pillow'),
    dict(type=CenterCrop, crop_size=224),
    dict(type=PackInputs),
]
test_dataloader = dict(dataset=dict(type=ImageNet, pipeline=pipeline))
data_preprocessor = dict(mean=[1, 2, 3], std=[4, 5, 6], to_rgb=True)
"""


def test_new_style_config(tmp_path):
    """Types are classes in it, not names; it is exported as any other."""
    datasets = pytest.importorskip('mmpretrain.datasets', reason='needs mmpretrain')
    needs('onnxruntime')
    channels = GhostNetV2(widen_factor=0.3).out_channels[-1]
    config = tmp_path / 'new_style.py'
    (tmp_path / 'base.py').write_text("model_scope = 'mmpretrain'")
    config.write_text(NEW_STYLE.replace('CHANNELS', str(channels)))
    out = tmp_path / 'a.onnx'
    args = [config, '--shape', 64, '--out', out, '--check']
    load('export').main([*map(str, args)])
    meta = load_metadata(out)
    assert meta['task'] == 'classification' and meta['config'] == 'new_style'
    found = meta['prepare']
    assert (found['resize'], found['edge']) == ('short_edge', round(256 * 64 / 224))
    assert found['backend'] == 'pillow' and not found['unknown']
    assert meta['classes'] == list(datasets.ImageNet.METAINFO['classes'])
