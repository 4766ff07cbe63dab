"""The ADE20K configs on other images, by the libraries' own scripts."""

import re

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

import mmghostnetv2  # noqa: F401  lets torch.load read what training saved

from ..conftest import ROOT

pytest.importorskip('mmseg', reason='needs mmsegmentation')

ITERS = 8  # enough to learn which class is the most frequent
SMALL, LARGE = 64, 128  # pixels: the crop, and the shorter side of a test image


def write_config(path, base, classes, **data) -> None:
    """A child of one of the configs, on few and small images."""
    dataset = dict(
        _delete_=True,
        type='BaseSegDataset',
        metainfo=dict(classes=classes),
        reduce_zero_label=True,
        indices=5,
    )
    load = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', reduce_zero_label=True),
    ]
    train = [
        dict(type='Resize', scale=(2 * LARGE, LARGE), keep_ratio=True),
        # smaller than the crop on one side, which the preprocessor pads
        dict(type='RandomResize', scale=(2 * LARGE, LARGE), ratio_range=(0.4, 0.49)),
        dict(type='RandomCrop', crop_size=(SMALL, SMALL)),
    ]
    pack = dict(type='PackSegInputs')
    test = [load[0], train[0], load[1], pack]
    loader = dict(batch_size=2, num_workers=0, persistent_workers=False)
    config = dict(
        _base_=str(ROOT / 'configs' / base),
        model=dict(
            data_preprocessor=dict(size=(SMALL, SMALL)),
            backbone=dict(init_cfg=None),
            decode_head=dict(num_classes=len(classes)),
        ),
        train_dataloader=loader
        | dict(dataset=dict(dataset, **data['train'], pipeline=[*load, *train, pack])),
        val_dataloader=loader
        | dict(batch_size=1, dataset=dict(dataset, **data['val'], pipeline=test)),
        train_cfg=dict(max_iters=ITERS, val_interval=ITERS),
        param_scheduler=[dict(type='ConstantLR', factor=1, by_epoch=False)],
        default_hooks=dict(logger=dict(interval=1), checkpoint=dict(interval=ITERS)),
        randomness=dict(seed=0),
    )
    if 'deeplabv3' in base:
        config['model']['auxiliary_head'] = dict(num_classes=len(classes))
    config['test_dataloader'] = config['val_dataloader']
    path.write_text('\n'.join(f'{key} = {value!r}' for key, value in config.items()))


@pytest.fixture(scope='module')
def digits_config(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp('digits') / 'fpn_on_digits.py'
    splits = {
        split: dict(
            data_root=str(digits / 'segmentation'),
            data_prefix=dict(
                img_path=f'images/{name}', seg_map_path=f'annotations/{name}'
            ),
        )
        for split, name in (('train', 'training'), ('val', 'validation'))
    }
    classes = ('background', *'0123456789')
    write_config(path, 'segmentors/fpn_ghostnetv2_ade20k.py', classes, **splits)
    return path


@pytest.fixture(scope='module')
def coco_config(coco_mini, tmp_path_factory):
    masks = coco_mini / 'semseg'
    if not masks.is_dir():
        pytest.skip('no semantic masks in $COCO_MINI/semseg')
    path = tmp_path_factory.mktemp('coco') / 'deeplabv3_on_coco.py'
    splits = {
        split: dict(
            data_root=str(coco_mini),
            data_prefix=dict(img_path='val2017', seg_map_path='semseg/val2017'),
            ann_file='semseg/val2017.txt',
        )
        for split in ('train', 'val')
    }
    classes = tuple((masks / 'classes.txt').read_text().splitlines())
    write_config(path, 'deeplabv3_ghostnetv2_ade20k.py', classes, **splits)
    return path


@pytest.fixture(scope='module', params=['digits', 'coco'])
def trained(request, openmmlab, tmp_path_factory):
    config = request.getfixturevalue(f'{request.param}_config')
    work_dir = tmp_path_factory.mktemp(config.stem)
    openmmlab('train', 'mmseg', config, '--work-dir', work_dir)
    return config, work_dir


def test_training(trained):
    _, work_dir = trained
    state = torch.load(work_dir / f'iter_{ITERS}.pth')
    assert state['meta']['iter'] == ITERS
    assert all(torch.isfinite(value).all() for value in state['state_dict'].values())
    losses = re.findall(r'loss: ([\d.]+)', next(work_dir.glob('*/*.log')).read_text())
    assert len(losses) == ITERS


@pytest.mark.parametrize('mode', ['whole', 'slide'])
def test_miou_is_that_of_the_saved_predictions(mode, trained, openmmlab, tmp_path):
    """Sliding over real images; for digits the window is larger than the picture."""
    config, work_dir = trained
    modes = [f'model.test_cfg.mode={mode}']
    if mode == 'slide':
        window = 2 * LARGE if 'digits' in config.stem else SMALL
        modes += [f'model.test_cfg.crop_size=({window},{window})']
        modes += ['model.test_cfg.stride=(48,48)']
    output = openmmlab(
        'test', 'mmseg', config, work_dir / f'iter_{ITERS}.pth',
        '--work-dir', tmp_path, '--out', tmp_path / 'out', '--cfg-options', *modes,
    )  # fmt: skip
    cfg = Config.fromfile(config).test_dataloader.dataset
    folder = f'{cfg.data_root}/{cfg.data_prefix.seg_map_path}'
    counts = np.zeros((256, 256), int)
    predictions = sorted((tmp_path / 'out').glob('*.png'))
    assert len(predictions) == 5
    for path in predictions:
        # both count the classes from 1
        predicted = np.array(Image.open(path)).ravel()
        truth = np.array(Image.open(f'{folder}/{path.name}')).ravel()
        known = truth > 0
        np.add.at(counts, (truth[known], predicted[known]), 1)
    hits, union = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
    num = len(cfg.metainfo.classes)
    assert union[num + 1 :].sum() == 0 and union[0] == 0
    occurring = union > 0
    iou = 100 * hits[occurring] / union[occurring]
    printed = float(re.search(r'mIoU: ([\d.]+)', output)[1])
    assert printed == pytest.approx(iou.mean(), abs=0.006)
    assert printed > 0


def test_sync_bn_falls_back(trained):
    """On one process, to BN, as mmengine says in the log."""
    _, work_dir = trained
    log = next(work_dir.glob('*/*.log')).read_text()
    assert 'automatically reverted to BatchNormXd' in log
    assert 'SyncBN' in (next(work_dir.glob('*.py'))).read_text()
