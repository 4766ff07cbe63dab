"""A detector is not trained on classes that its annotation file does not have."""

import json

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import Runner

import mmghostnetv2

pytest.importorskip('mmdet', reason='needs mmdet')

from mmdet.datasets import CocoDataset

COCO = CocoDataset.METAINFO['classes']


class Net(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, mode, **data):
        return {'loss': self.weight.sum()}


@pytest.fixture
def run(tmp_path):
    """Train or test on a file with these categories and a config's class list."""

    def make(names, classes=None, test=False):
        box = dict(image_id=1, bbox=[1, 1, 9, 9], area=81, iscrowd=0)
        truth = dict(
            images=[dict(id=1, file_name='a.png', width=20, height=20)],
            annotations=[dict(id=i, category_id=i, **box) for i in range(len(names))],
            categories=[dict(id=i, name=name) for i, name in enumerate(names)],
        )
        path = tmp_path / 'truth.json'
        path.write_text(json.dumps(truth))
        dataset = dict(
            type='mmdet.CocoDataset',
            ann_file=str(path),
            data_prefix=dict(img=''),
            pipeline=[],
        )
        if classes:
            dataset['metainfo'] = dict(classes=classes)
        repeated = dict(type='RepeatDataset', times=2, dataset=dataset)
        loader = dict(num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False))
        runner = Runner(
            Net(),
            str(tmp_path),
            train_dataloader=dict(dataset=repeated, batch_size=1, **loader),
            train_cfg=dict(by_epoch=True, max_epochs=1),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            test_dataloader=dict(dataset=dataset, batch_size=1, **loader),
            test_cfg={},
            test_evaluator=[],
            default_hooks=dict(classes=dict(type='CheckClassesHook'), checkpoint=None),
            default_scope='mmdet',
            experiment_name=f'{tmp_path.name}_{len(list(tmp_path.iterdir()))}',
        )
        runner.test() if test else runner.train()
        return runner

    return make


@pytest.mark.parametrize(
    ('names', 'classes'),
    [
        (['cat', 'dog'], ('cat', 'dog')),
        (['cat', 'dog', 'cow'], ('cat', 'cow')),  # some of the categories
        (COCO, None),
    ],
)
def test_right_list_trains(run, names, classes):
    assert run(names, classes).iter == 2


@pytest.mark.parametrize(
    ('names', 'classes', 'said'),
    [
        # some of the names are COCO's, and none is
        (['cat', 'dog'], None, r'config: 80 \(person.*file: 2 \(cat, dog\)'),
        (['mug', 'pen'], None, r'config: 80 \(person.*file: 2 \(mug, pen\)'),
        (['cat', 'dog'], ('dog', 'cat'), 'file: 2.*the order differs'),
        (['cat', 'dog'], ('cat', 'dig'), r'missing: 1 \(dig\)'),
        (['cat'], ('cat'), r'config: 3 \(c, a, t\)'),  # a comma is forgotten
    ],
)
def test_other_list_is_an_error(run, names, classes, said):
    with pytest.raises(ValueError, match=said) as error:
        run(names, classes)
    assert f'metainfo=dict(classes={tuple(names)})' in str(error.value)
    assert f'num_classes={len(names)}' in str(error.value)


def test_other_list_is_an_error_in_a_test(run):
    with pytest.raises(ValueError, match='missing: 1'):
        run(['cat', 'dog'], ('cat', 'dig'), test=True)


def test_all_own_detectors_check():
    configs = map(mmghostnetv2.config_path, mmghostnetv2.list_configs())
    checked = 0
    for path in configs:
        if 'detectors/' in path or 'yolov3_ghostnet' in path:
            hooks = Config.fromfile(path).default_hooks
            assert hooks.classes.type == 'CheckClassesHook'
            checked += 1
    assert checked >= 9
