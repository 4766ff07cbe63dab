"""The real configs on images in COCO's layout, by the libraries' own scripts."""

import json
import re

import numpy as np
import pytest
import torch

import mmghostnetv2  # noqa: F401  lets torch.load read what training saved

from ..conftest import ROOT
from .conftest import scalars

pytest.importorskip('mmdet', reason='needs mmdet')
from mmdet.apis import DetInferencer
from mmengine.config import Config
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

ITERS = 2  # an epoch, four images each
# so few iterations teach nothing: take boxes of any score, and a few of each scale
KEEP_ALL = [
    'model.test_cfg.score_thr=0.0',
    'model.test_cfg.conf_thr=0.0',
    'model.test_cfg.nms_pre=20',
]


@pytest.fixture(scope='module')
def trained(openmmlab, coco_mini, tmp_path_factory):
    """Train for two epochs; return the config and the work directory."""
    config = ROOT / 'configs' / 'yolov3_ghostnetv2_320.py'
    work_dir = tmp_path_factory.mktemp(config.stem)
    openmmlab('train', 'mmdet', config, *options(coco_mini, work_dir, 2))
    return config, work_dir


def options(coco_mini, work_dir, max_epochs, *more) -> list[str]:
    return [
        '--work-dir',
        str(work_dir),
        '--cfg-options',
        f'train_cfg.max_epochs={max_epochs}',
        'train_cfg.val_interval=2',
        'model.backbone.init_cfg=None',
        # so that momentum alone moves the optimizer's state, see test_resume
        'optim_wrapper.optimizer.weight_decay=0',
        'train_dataloader.batch_size=4',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'train_dataloader.dataset.times=1',
        f'train_dataloader.dataset.dataset.indices={4 * ITERS}',
        f'train_dataloader.dataset.dataset.data_root={coco_mini}/',
        *evaluation('val', coco_mini),
        'default_hooks.logger.interval=1',
        *KEEP_ALL,
        'randomness.seed=0',
        *more,
    ]


def evaluation(split, coco_mini) -> list[str]:
    return [
        f'{split}_dataloader.batch_size=8',
        f'{split}_dataloader.num_workers=0',
        f'{split}_dataloader.persistent_workers=False',
        f'{split}_dataloader.dataset.data_root={coco_mini}/',
        f'{split}_evaluator.ann_file={coco_mini}/annotations/instances_val2017.json',
    ]


def losses(work_dir) -> list[dict]:
    """Read what every training iteration logged."""
    return [line for line in scalars(work_dir) if 'loss' in line]


def test_training(trained):
    check_training(trained[1], epochs=2)


def test_training_416(openmmlab, coco_mini, tmp_path):
    config = ROOT / 'configs' / 'yolov3_ghostnetv2_416.py'
    openmmlab('train', 'mmdet', config, *options(coco_mini, tmp_path, 1))
    check_training(tmp_path, epochs=1)


def check_training(work_dir, epochs) -> None:
    lines = losses(work_dir)[: epochs * ITERS]
    assert [line['step'] for line in lines] == list(range(1, epochs * ITERS + 1))
    for line in lines:
        values = [v for k, v in line.items() if 'loss' in k]
        assert len(values) == 5 and np.isfinite(values).all()
    state = torch.load(work_dir / f'epoch_{epochs}.pth')
    assert state['meta']['iter'] == epochs * ITERS
    assert all(torch.isfinite(v).all() for v in state['state_dict'].values())
    assert any('ghost1.short_conv' in key for key in state['state_dict'])


@pytest.mark.parametrize('size', [320, 416])
def test_recipe(size):
    """What the config says of the paper's recipe (section 5.2)."""
    config = Config.fromfile(ROOT / 'configs' / f'yolov3_ghostnetv2_{size}.py')
    assert config.optim_wrapper.optimizer == dict(
        type='SGD', lr=0.003, momentum=0.9, weight_decay=0.0005
    )
    assert config.train_cfg.max_epochs == 30
    assert config.auto_scale_lr.base_batch_size == 192
    resize = [t for t in config.test_pipeline if t['type'] == 'Resize']
    assert [t['scale'] for t in resize] == [(size, size)]
    assert config.model.backbone.out_indices == (4, 6, 8)
    assert config.model.backbone.init_cfg.checkpoint == 'ghostnet://ghostnetv2-100'


def test_resume(trained, openmmlab, coco_mini, tmp_path):
    """The run goes on at the next iteration, with the optimizer's momentum.

    It is started from elsewhere, by the config's name.
    """
    config, work_dir = trained
    no_gradient = 'optim_wrapper.clip_grad.max_norm=1e-30'
    resumed = options(coco_mini, work_dir, 3, no_gradient)
    openmmlab('train', 'mmghostnetv2', config.name, '--resume', *resumed, cwd=tmp_path)
    steps = [line['step'] for line in losses(work_dir)]
    assert steps == list(range(1, 3 * ITERS + 1))
    before = torch.load(work_dir / 'epoch_2.pth')
    after = torch.load(work_dir / 'epoch_3.pth')
    assert after['meta']['iter'] == 3 * ITERS
    states = before['optimizer']['state'], after['optimizer']['state']
    assert states[0].keys() == states[1].keys() and len(states[0]) > 200
    for key, state in states[0].items():
        torch.testing.assert_close(
            states[1][key]['momentum_buffer'],
            state['momentum_buffer'] * 0.9**ITERS,
            rtol=1e-4,
            atol=1e-12,
        )


@pytest.fixture(scope='module')
def inferencer(trained):
    config, work_dir = trained
    return DetInferencer(
        str(work_dir / config.name),  # as trained, KEEP_ALL included
        str(work_dir / 'epoch_2.pth'),
        device='cpu',
        show_progress=False,
    )


@pytest.fixture(scope='module')
def pictures(coco_mini) -> list[str]:
    return [str(path) for path in sorted((coco_mini / 'val2017').glob('*.jpg'))[:8]]


def test_inferencer_draws_boxes(inferencer, pictures, tmp_path):
    results = inferencer(
        pictures[:2], pred_score_thr=0.0, out_dir=str(tmp_path), return_vis=True
    )
    for result in results['predictions']:
        assert len(result['bboxes']) > 0
        assert np.isfinite(result['bboxes']).all()
        x1, y1, x2, y2 = np.array(result['bboxes']).T
        assert (x2 >= x1).all() and (y2 >= y1).all()
    assert len(list((tmp_path / 'vis').glob('*.jpg'))) == 2
    plain = inferencer(pictures[:2], pred_score_thr=1.1, return_vis=True)
    for a, b in zip(results['visualization'], plain['visualization'], strict=True):
        assert (a != b).any()


def test_ap_is_that_of_pycocotools(
    trained, inferencer, pictures, mim, coco_mini, tmp_path
):
    """Truth is made from the detector's own boxes, since it learnt nothing yet."""
    config, work_dir = trained
    truth = json.loads(
        (coco_mini / 'annotations' / 'instances_val2017.json').read_text()
    )
    names = [path.rsplit('/', 1)[1] for path in pictures]
    truth['images'] = [i for i in truth['images'] if i['file_name'] in names]
    ids = {image['file_name']: image['id'] for image in truth['images']}
    truth['annotations'] = []
    rng = np.random.default_rng(0)
    predictions = inferencer(pictures)['predictions']
    for name, prediction in zip(names, predictions, strict=True):
        boxes, labels = prediction['bboxes'], prediction['labels']
        for k in range(0, len(boxes), 2):
            x1, y1, x2, y2 = boxes[k] + rng.uniform(-4, 4, 4)
            box = [float(v) for v in (x1, y1, max(x2 - x1, 1), max(y2 - y1, 1))]
            truth['annotations'].append(
                dict(
                    id=len(truth['annotations']) + 1,
                    image_id=ids[name],
                    category_id=truth['categories'][labels[k]]['id'],
                    bbox=box,
                    area=box[2] * box[3],
                    iscrowd=0,
                )
            )
    ann_file = tmp_path / 'truth.json'
    ann_file.write_text(json.dumps(truth))
    dumped = tmp_path / 'predictions'
    output = mim(
        'test', 'mmghostnetv2', config.name, '--checkpoint', work_dir / 'epoch_2.pth',
        '--work-dir', tmp_path, '--cfg-options', *KEEP_ALL,
        *evaluation('test', coco_mini),
        f'test_dataloader.dataset.ann_file={ann_file}',
        f'test_evaluator.ann_file={ann_file}',
        f'test_evaluator.outfile_prefix={dumped}', cwd=tmp_path,
    )  # fmt: skip

    coco = COCO(str(ann_file))
    evaluation_ = COCOeval(coco, coco.loadRes(f'{dumped}.bbox.json'), 'bbox')
    evaluation_.evaluate()
    evaluation_.accumulate()
    evaluation_.summarize()
    printed = dict(re.findall(r'coco/bbox_(mAP\w*): (-?[\d.]+)', output))
    expected = evaluation_.stats[:6]
    keys = ['mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l']
    assert [float(printed[key]) for key in keys] == pytest.approx(expected, abs=6e-4)
    assert expected[0] > 0.05  # neither is right by being empty


def test_checkpoint_alone_is_enough(trained, inferencer, pictures):
    """The inferencer finds config, classes and plugin inside the checkpoint."""
    weights = str(trained[1] / 'epoch_2.pth')
    alone = DetInferencer(weights=weights, device='cpu', show_progress=False)
    a, b = (i(pictures[:1])['predictions'][0] for i in (alone, inferencer))
    assert a == b and len(a['bboxes']) > 0
