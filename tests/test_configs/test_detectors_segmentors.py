"""Every detector and segmentor trains a step and predicts.

The pipelines and optimizers are those of the configs; pictures and heads are smaller.
"""

import json
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner, set_random_seed
from PIL import Image
from torch.nn.modules.batchnorm import _BatchNorm

from ..conftest import ROOT

# The divisor of all sizes in the pipelines, and options that make the head lighter
CASES = {
    'detectors/ssdlite_ghostnetv2_coco': (2, {}),
    'detectors/retinanet_ghostnetv2_fpn_coco': (
        8,
        {'model.bbox_head.stacked_convs': 1},
    ),
    'detectors/rtmdet-tiny_ghostnetv2_coco': (5, {}),  # its neck needs multiples of 32
    'detectors/rtmdet-tiny_ghostnetv3_coco': (5, {}),
    'detectors/mask-rcnn_ghostnetv2_fpn_coco': (
        8,
        {
            'model.roi_head.bbox_head.fc_out_channels': 16,
            'model.train_cfg.rcnn.sampler.num': 16,
        },
    ),
    'segmentors/upernet_ghostnetv2_ade20k': (4, {'model.decode_head.channels': 16}),
    'segmentors/fpn_ghostnetv2_ade20k': (4, {}),
    'deeplabv3_ghostnetv2_ade20k': (4, {'model.decode_head.channels': 16}),
    'segmentors/deeplabv3_ghostnetv2_d16_ade20k': (
        4,
        {'model.decode_head.channels': 16},
    ),
    'detectors/retinanet_resnet50_dfc_coco': (
        8,
        {
            'model.bbox_head.stacked_convs': 1,
            'model.backbone.zero_init_residual': False,  # as if pretrained
        },
    ),
    'baselines/yolov3_ghostnet_110_320': (2, {}),
    'baselines/deeplabv3_ghostnet_110_ade20k': (4, {'model.decode_head.channels': 16}),
}
# The second part of a config's name -> the weights that its backbone starts from
STARTS = {
    'ghostnetv2': 'ghostnet://ghostnetv2-100',
    'ghostnetv3': 'ghostnet://ghostnetv3-100',
    'ghostnet': 'work_dirs/ghostnet_110_in1k/epoch_450.pth',
    'resnet50': 'torchvision://resnet50',
}
# The stages up to stride 4, which are those that mmdet's recipes freeze in a ResNet
FROZEN = re.compile(r'backbone\.(conv_stem|bn1|blocks\.[0-2]|conv1|layer1)\.')
FREEZES = ('retinanet', 'mask-rcnn')
NORM_EVAL = ('retinanet_ghostnetv2', 'mask-rcnn')
HEIGHT, WIDTH = 97, 143


def walk(node):
    """Yield every dict inside a config."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from walk(child)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    """Two pictures of two boxes each, in COCO's layout and in ADE20K's."""
    root = tmp_path_factory.mktemp('scenes')
    for folder in ('train2017', 'annotations/training', 'images'):
        (root / folder).mkdir(parents=True)
    (root / 'images' / 'training').symlink_to(root / 'train2017')
    rng = np.random.default_rng(0)
    categories = [dict(id=1, name='person'), dict(id=2, name='bicycle')]
    truth = dict(images=[], annotations=[], categories=categories)
    for i in range(2):
        picture = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
        labels = np.zeros((96, 128), np.uint8)
        truth['images'].append(dict(id=i, file_name=f'{i}.jpg', width=128, height=96))
        for category, (x, y, w, h) in ((1, (8, 8, 48, 40)), (2, (60, 30, 60, 60))):
            picture[y : y + h, x : x + w] = 80 * category
            labels[y : y + h, x : x + w] = category
            truth['annotations'].append(
                dict(
                    id=2 * i + category,
                    image_id=i,
                    category_id=category,
                    bbox=[x, y, w, h],
                    area=w * h,
                    segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
                    iscrowd=0,
                )
            )
        Image.fromarray(picture).save(root / 'train2017' / f'{i}.jpg')
        Image.fromarray(labels).save(root / 'annotations' / 'training' / f'{i}.png')
    path = root / 'annotations' / 'instances_train2017.json'
    path.write_text(json.dumps(truth))
    return root


@pytest.fixture(scope='module', params=CASES)
def config(request, scenes):
    """The config made small, in its library's scope."""
    library = 'mmseg' if request.param.endswith('ade20k') else 'mmdet'
    pytest.importorskip(library, reason=f'needs {library}')
    divisor, options = CASES[request.param]
    config = Config.fromfile(ROOT / 'configs' / f'{request.param}.py')
    config.merge_from_dict(options)
    loader = config.train_dataloader
    loader.update(batch_size=2, num_workers=0, persistent_workers=False)
    for node in walk(loader.dataset):
        if 'data_root' in node:
            node['data_root'] = f'{scenes}/'
    pipelines = [loader.dataset, config.test_dataloader, config.test_pipeline]
    for node in walk([*pipelines, config.model.data_preprocessor]):
        for key in {'scale', 'img_scale', 'crop_size', 'size'} & node.keys():
            node[key] = tuple(side // divisor for side in node[key])
    few = dict(score_thr=0.0, nms_pre=50, max_per_img=20)  # keeps boxes of any score
    for node in walk(config.model.test_cfg):
        node.update({key: few[key] for key in few.keys() & node.keys()})
    with DefaultScope.overwrite_default_scope(library):
        yield config


@pytest.fixture(scope='module')
def model(config):
    """The model as mmengine's Runner makes it, without released weights."""
    set_random_seed(0)
    without = config.model.copy()
    without.backbone = {**config.model.backbone, 'init_cfg': None}
    model = import_module(f'{config.default_scope}.registry').MODELS.build(without)
    model.init_weights()
    model.cfg = config
    return revert_sync_batchnorm(model)


def test_no_config_is_forgotten():
    names = {
        f'{folder}/{path.stem}'
        for folder in ('detectors', 'segmentors')
        for path in (ROOT / 'configs' / folder).glob('*.py')
    }
    assert names and names <= CASES.keys()


def test_resnet_has_attention_where_it_is_not_frozen():
    models = pytest.importorskip('mmdet.registry', reason='needs mmdet').MODELS
    path = ROOT / 'configs' / 'detectors' / 'retinanet_resnet50_dfc_coco.py'
    with DefaultScope.overwrite_default_scope('mmdet'):
        resnet = models.build(Config.fromfile(path).model.backbone)
    channels = [
        [block.dfc[0].in_channels for block in stage if hasattr(block, 'dfc')]
        for stage in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4)
    ]
    assert channels == [[], [128] * 4, [256] * 6, [512] * 3]


def test_starts_from_pretrained_weights(config, model):
    init_cfg = config.model.backbone.init_cfg
    backbone = Path(config.filename).stem.split('_')[1]
    assert (init_cfg.type, init_cfg.checkpoint) == ('Pretrained', STARTS[backbone])
    norms = [m for m in model.backbone.modules() if isinstance(m, _BatchNorm)]
    assert {norm.eps for norm in norms} == {1e-5}  # what they were trained with


def test_channels_and_strides(config, model):
    """With wrong strides a model would train, with every anchor in the wrong place."""
    with torch.no_grad():
        outs = model.eval().backbone(torch.zeros(1, 3, 64, 64))
    if config.model.type == 'YOLOV3':  # deepest first
        outs = outs[::-1]
    channels = tuple(out.shape[1] for out in outs)
    strides = tuple(64 // out.shape[2] for out in outs)
    if model.with_neck:
        assert tuple(config.model.neck.in_channels) == channels
    else:
        for head in (model.decode_head, model.auxiliary_head):
            expected = np.take(channels, head.in_index)
            assert np.array_equal(head.in_channels, expected)
    head = getattr(model, 'rpn_head', None) or getattr(model, 'bbox_head', None)
    if head:
        used = strides[getattr(model.neck, 'start_level', 0) :]
        anchors = [stride for stride, _ in head.prior_generator.strides]
        assert tuple(anchors[: len(used)]) == used


def test_trains(config, model, monkeypatch):
    stem = Path(config.filename).stem
    freezes = stem.startswith(FREEZES)
    batch = next(iter(Runner.build_dataloader(config.train_dataloader, seed=0)))
    optim_wrapper = build_optim_wrapper(model, config.optim_wrapper)
    monkeypatch.setattr(optim_wrapper, 'zero_grad', lambda: None)  # to read them
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    losses = model.train_step(batch, optim_wrapper)
    assert losses['loss'] > 0 and all(map(torch.isfinite, losses.values()))
    for name, parameter in model.named_parameters():
        frozen = freezes and FROZEN.match(name) is not None
        assert parameter.requires_grad != frozen, name
        same = torch.equal(parameter, before[name])
        if parameter.requires_grad:
            assert torch.isfinite(parameter.grad).all(), name
            # a level of the head may have got no box
            reached = parameter.grad.any()
            assert reached or not name.startswith('backbone.'), name
            assert not (reached and same), name
        else:
            assert same, name
    for name, buffer in model.backbone.named_buffers(prefix='backbone'):
        if name.endswith('running_mean'):
            kept = stem.startswith(NORM_EVAL) or freezes and bool(FROZEN.match(name))
            assert torch.equal(buffer, before[name]) == kept, name


def test_predicts(config, model, tmp_path):
    """On a picture of one colour, whose normalised value is known."""
    path, rgb = tmp_path / 'picture.png', (200, 100, 50)
    Image.new('RGB', (WIDTH, HEIGHT), rgb).save(path)
    seen = []
    hook = model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args))
    apis = import_module(f'{config.default_scope}.apis')
    infer = getattr(apis, 'inference_detector', None) or apis.inference_model
    result = infer(model.eval(), str(path))
    hook.remove()

    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    expected = (np.array(rgb) - mean) / std
    ((inputs,),) = seen
    np.testing.assert_allclose(inputs[0, :, 0, 0], expected, rtol=1e-5)

    if 'pred_sem_seg' in result:
        labels = result.pred_sem_seg.data
        assert labels.shape == (1, HEIGHT, WIDTH)
        assert result.seg_logits.data.shape == (150, HEIGHT, WIDTH)
        assert labels.min() >= 0 and labels.max() < 150
        return
    instances = result.pred_instances
    x1, y1, x2, y2 = instances.bboxes.T
    # RTMDet's pipeline pads to a square, and mmdet lets boxes reach into the padding
    bottom = WIDTH if config.model.type == 'RTMDet' else HEIGHT
    assert len(instances) == 20 and torch.isfinite(instances.scores).all()
    for low, high, limit in ((x1, x2, WIDTH), (y1, y2, bottom)):
        assert (low <= high).all()
        if config.model.type != 'YOLOV3':  # whose boxes mmdet does not clip
            assert (low >= 0).all()
            assert (high <= limit + 1e-3).all()  # the scale is rounded
    if model.with_mask:
        assert instances.masks.shape == (20, HEIGHT, WIDTH)
        assert instances.masks.any() and not instances.masks.all()
