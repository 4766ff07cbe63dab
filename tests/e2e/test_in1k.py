"""The ImageNet config on other images, by the libraries' own scripts."""

import json
import pickle
import re

import numpy as np
import pytest
import torch
from PIL import Image

import mmghostnetv2  # noqa: F401  lets torch.load read what training saved

from ..conftest import ROOT
from .conftest import scalars

pytest.importorskip('mmpretrain', reason='needs mmpretrain')
pytest.importorskip('timm', reason='the recipe has its optimizer')

CONFIG = ROOT / 'configs' / 'ghostnetv2_100_in1k.py'
ITERS, BATCH = 3, 4


@pytest.fixture(scope='module')
def crops(coco_mini, tmp_path_factory):
    """Objects cut out of COCO's images, in ImageNet's layout: three classes."""
    root = tmp_path_factory.mktemp('crops')
    for split in ('train', 'val'):
        truth = json.loads(
            (coco_mini / f'annotations/instances_{split}2017.json').read_text()
        )
        files = {image['id']: image['file_name'] for image in truth['images']}
        by_class = {}
        for item in truth['annotations']:
            if min(item['bbox'][2:]) >= 24:
                by_class.setdefault(item['category_id'], []).append(item)
        for label in sorted(by_class, key=lambda label: -len(by_class[label]))[:3]:
            folder = root / split / str(label)
            folder.mkdir(parents=True)
            for item in by_class[label][:6]:
                x, y, w, h = item['bbox']
                image = Image.open(
                    coco_mini / f'{split}2017' / files[item['image_id']]
                ).convert('RGB')
                image.crop((x, y, x + w, y + h)).save(folder / f'{item["id"]}.png')
    return root


@pytest.fixture(scope='module')
def trained(crops, openmmlab, tmp_path_factory):
    """Train for three epochs; return the options of the images, the work directory."""
    classes = sorted(path.name for path in (crops / 'val').iterdir())
    data = [f'model.head.num_classes={len(classes)}', 'model.head.topk=(1,)']
    data += ['val_evaluator.topk=(1,)', 'test_evaluator.topk=(1,)']
    for split in ('train', 'val', 'test'):
        data += [
            f'{split}_dataloader.dataset.data_root={crops}',
            f'{split}_dataloader.dataset.metainfo.classes={",".join(classes)}',
            f'{split}_dataloader.num_workers=0',
            f'{split}_dataloader.persistent_workers=False',
            f'{split}_dataloader.batch_size={BATCH}',
        ]
    data += [f'train_dataloader.dataset.indices={ITERS * BATCH}']
    work_dir = tmp_path_factory.mktemp('in1k')
    openmmlab('train', 'mmpretrain', CONFIG, *options(work_dir, data))
    return data, work_dir


def options(work_dir, data) -> list[str]:
    return [
        '--work-dir',
        str(work_dir),
        '--cfg-options',
        'train_cfg.max_epochs=3',
        'train_cfg.val_interval=3',
        'default_hooks.logger.interval=1',
        'randomness.seed=0',
        *data,
    ]


def test_training(trained):
    """The released schedule, and raw and averaged weights, saved and validated."""
    _, work_dir = trained
    lines = [line for line in scalars(work_dir) if 'loss' in line]
    assert [line['step'] for line in lines[: 2 * ITERS]] == list(
        range(1, 2 * ITERS + 1)
    )
    assert np.isfinite([line['loss'] for line in lines]).all()
    rates = [line['lr'] for line in lines[: 2 * ITERS]]
    assert rates == pytest.approx([1e-6] * ITERS + [0.0213340] * ITERS, abs=1e-7)
    validated = [line for line in scalars(work_dir) if 'accuracy/top1' in line]
    assert all('accuracy/top1_origin' in line for line in validated) and validated
    state = torch.load(work_dir / 'epoch_2.pth')
    assert state['ema_state_dict'].keys() >= {
        f'module.{key}' for key in state['state_dict']
    }
    for key in (
        'backbone.blocks.8.3.ghost1.short_conv.0.weight',
        'head.layers.1.fc.bias',
    ):
        average, raw = (
            state['state_dict'][key],
            state['ema_state_dict'][f'module.{key}'],
        )
        assert (average - raw).abs().max() > 1e-6


def test_compiled(trained, openmmlab, tmp_path):
    """mmengine's ``compile`` trains as without. The first five blocks are enough."""
    data, _ = trained
    short = ['model.backbone.out_indices=(4,)', 'model.head.in_channels=40']
    short += ['train_cfg.max_epochs=2']
    losses = []
    for name, compiled in (('plain', []), ('compiled', ['compile.backend=aot_eager'])):
        args = [*options(tmp_path / name, data), *short, *compiled]
        openmmlab('train', 'mmpretrain', CONFIG, *args)
        lines = scalars(tmp_path / name)
        losses.append([line['loss'] for line in lines if 'loss' in line])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert len({*losses[0]}) == 2 * ITERS


def test_top1_is_that_of_the_predictions(trained, crops, openmmlab, tmp_path):
    data, work_dir = trained
    out = tmp_path / 'predictions.pkl'
    output = openmmlab(
        'test', 'mmpretrain', CONFIG, work_dir / 'epoch_2.pth',
        '--work-dir', tmp_path, '--out', out, '--out-item', 'pred',
        '--cfg-options', *data,
    )  # fmt: skip
    predictions = pickle.loads(out.read_bytes())
    hits = [p['pred_label'].item() == p['gt_label'].item() for p in predictions]
    folders = sorted((crops / 'val').iterdir())
    labels = [i for i, folder in enumerate(folders) for _ in folder.iterdir()]
    assert [p['gt_label'].item() for p in predictions] == labels
    printed = re.search(r'accuracy/top1: ([\d.]+)', output)[1]
    assert float(printed) == pytest.approx(100 * np.mean(hits), abs=1e-3)


def test_resume(trained, openmmlab, tmp_path):
    """The third epoch has the rate that it had without interruption."""
    data, work_dir = trained
    resume = ['--resume', work_dir / 'epoch_2.pth', *options(tmp_path, data)]
    openmmlab('train', 'mmpretrain', CONFIG, *resume)
    whole, resumed = (
        [(line['step'], line['lr']) for line in scalars(folder) if 'loss' in line]
        for folder in (work_dir, tmp_path)
    )
    assert resumed == whole[2 * ITERS :] and len(resumed) == ITERS
    assert resumed[0][1] == pytest.approx(0.0426670, abs=1e-7)
