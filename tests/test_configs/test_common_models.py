"""Detectors and segmentors of mmdet and mmseg need no operator that is missing.

The configs are the libraries' own. Each model trains a step and predicts. With mmcv's
compiled operators this passes as well.
"""

from importlib import import_module
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData

import mmghostnetv2  # noqa: F401  provides the operators

DETECTORS = [
    'retinanet/retinanet_r18_fpn_1x_coco',
    'fcos/fcos_r18_fpn_gn-head-center-normbbox-centeronreg-giou_8xb8-amp-lsj-200e_coco',
    'atss/atss_r18_fpn_8xb8-amp-lsj-200e_coco',
    'rtmdet/rtmdet_tiny_8xb32-300e_coco',
    'yolox/yolox_nano_8xb8-300e_coco',
    'faster_rcnn/faster-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco',
    'mask_rcnn/mask-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco',
    'ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco',
]
SEGMENTORS = [
    'deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024',
    'upernet/upernet_r18_4xb4-80k_ade20k-512x512',
    'pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024',
    'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512',
]


def build(library, name):
    """Build a model of a library's config, without pretrained weights."""
    root = Path(import_module(library).__file__).parent / '.mim' / 'configs'
    cfg = Config.fromfile(root / f'{name}.py').model
    cfg.backbone.init_cfg = None
    # needs the runner's iterations
    cfg.data_preprocessor.batch_augments = None
    if name.startswith('ssd/'):  # mmdet's own head cannot predict
        cfg.bbox_head.type = 'PredictingSSDHead'
    if library == 'mmseg':
        cfg.pretrained = None
        cfg.data_preprocessor.size = (64, 96)
    # Untrained models find boxes of low scores and no size.
    every = dict(score_thr=0.0, min_bbox_size=-1)
    test_cfg = cfg.get('test_cfg') or {}
    for part in (test_cfg, test_cfg.get('rcnn', {})):
        part.update({key: every[key] for key in every.keys() & part.keys()})
    models = import_module(f'{library}.registry').MODELS
    model = models.build(cfg)
    model.init_weights()
    return revert_sync_batchnorm(model)


def check(model, data):
    """Train a step and predict."""
    losses = model.train()(**model.data_preprocessor(data, True), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total) and total > 0
    assert any(p.grad is not None and p.grad.any() for p in model.backbone.parameters())
    with torch.no_grad():
        result, _ = model.eval()(**model.data_preprocessor(data), mode='predict')
    return result


@pytest.mark.parametrize('name', DETECTORS)
def test_detector(name):
    pytest.importorskip('mmdet', reason='needs mmdet')
    from mmdet.testing import demo_mm_inputs

    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = build('mmdet', name)
        masks = 'mask-rcnn' in name
        data = demo_mm_inputs(2, [[3, 128, 160]] * 2, num_items=[3, 2], with_mask=masks)
        result = check(model, data)
    found = result.pred_instances
    assert 0 < len(found) == len(found.bboxes) == len(found.labels)
    assert torch.isfinite(found.bboxes).all() and (found.scores >= 0).all()
    assert masks == ('masks' in found)


@pytest.mark.parametrize('name', SEGMENTORS)
def test_segmentor(name):
    pytest.importorskip('mmseg', reason='needs mmsegmentation')
    from mmseg.structures import SegDataSample

    torch.manual_seed(0)
    data = dict(inputs=[], data_samples=[])
    for _ in range(2):  # norms cannot be trained with one value
        labels = PixelData(data=torch.randint(19, (1, 64, 96)))
        sample = SegDataSample(gt_sem_seg=labels)
        sample.set_metainfo(dict(img_shape=(64, 96), ori_shape=(64, 96)))
        data['inputs'].append(torch.randint(256, (3, 64, 96)))
        data['data_samples'].append(sample)
    with DefaultScope.overwrite_default_scope('mmseg'):
        result = check(build('mmseg', name), data)
    assert result.pred_sem_seg.data.shape == (1, 64, 96)


def test_pretrained_of_segmentor():
    """The weights that mmseg's base configs name for a ResNet are refused by name."""
    mmseg = pytest.importorskip('mmseg', reason='needs mmsegmentation')
    root = Path(mmseg.__file__).parent / '.mim' / 'configs'
    cfg = Config.fromfile(root / '_base_/models/fpn_r50.py').model
    cfg.backbone = dict(type='GhostNetV2', out_indices=(2, 4, 6, 8))
    cfg.neck.in_channels = [24, 40, 112, 160]
    models = import_module('mmseg.registry').MODELS
    with DefaultScope.overwrite_default_scope('mmseg'):
        models.build({**cfg, 'pretrained': None})
        with pytest.raises(ValueError, match='resnet50_v1c.*model.pretrained=None'):
            models.build(cfg)
