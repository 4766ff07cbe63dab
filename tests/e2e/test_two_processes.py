"""Two processes on CPUs do what one does with the same images."""

import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmghostnetv2.forks import mim_package

from ..conftest import ROOT

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(),
    reason='gloo_cpu.py is for machines without a GPU: set CUDA_VISIBLE_DEVICES=',
)

ITERS = 4
BATCH = 4
# each image's statistics, whichever images share a process with it
GN = dict(type='GN', num_groups=1)


def loaders(train_dataset, val_dataset, **train) -> dict:
    """Load images in order; between two processes those to test on split unevenly."""
    workers = dict(num_workers=0, persistent_workers=False)
    train.update(batch_size=BATCH, sampler=dict(shuffle=False), dataset=train_dataset)
    val = dict(batch_size=2, dataset=val_dataset, **workers)
    return dict(
        train_dataloader=dict(**train, **workers),
        val_dataloader=val,
        test_dataloader=val,
    )


def classification(request, folder) -> dict:
    data_root = str(request.getfixturevalue('digits') / 'classification')
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    # some of each class, which lie one after the other
    train, val = (
        dict(data_root=data_root, pipeline=pipeline, indices=list(range(0, *step)))
        for step in ((1437, 90), (360, 33))
    )
    return dict(
        model=dict(
            backbone=dict(widen_factor=0.25, norm_cfg=GN),
            head=dict(in_channels=240, dropout_rate=0.0),
        ),
        train_cfg=dict(max_epochs=1),
        test_evaluator=dict(topk=(3,)),  # top-1 may be 0, so little is learnt
        **loaders(train, val),
    )


def detection(request, folder) -> dict:
    data_root = f'{request.getfixturevalue("coco_mini")}/'
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(96, 96), keep_ratio=False),
        dict(
            type='PackDetInputs',
            meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
        ),
    ]
    train = dict(data_root=data_root, pipeline=pipeline, indices=ITERS * BATCH // 2)
    val = dict(data_root=data_root, pipeline=pipeline, indices=7)
    return dict(
        model=dict(
            backbone=dict(widen_factor=0.25, norm_cfg=GN, init_cfg=None),
            neck=dict(in_channels=[40, 28, 12], norm_cfg=GN),
            bbox_head=dict(norm_cfg=GN),
            # boxes of any score, so little is learnt
            test_cfg=dict(score_thr=0.0, conf_thr=0.0, nms_pre=20),
        ),
        train_cfg=dict(max_epochs=1),
        val_evaluator=dict(
            ann_file=f'{data_root}annotations/instances_val2017.json',
            outfile_prefix=f'{folder}/found',
        ),
        test_evaluator=dict(ann_file=f'{folder}/truth.json'),
        **loaders(dict(times=2, dataset=train), val, batch_sampler=None),
    )


def segmentation(request, folder) -> dict:
    data_root = str(request.getfixturevalue('digits') / 'segmentation')
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', reduce_zero_label=True),
        dict(type='PackSegInputs'),
    ]
    dataset = dict(data_root=data_root, pipeline=pipeline)
    return dict(
        model=dict(
            data_preprocessor=dict(size=(96, 96)),
            backbone=dict(widen_factor=0.25, norm_cfg=GN, init_cfg=None),
            neck=dict(in_channels=[8, 12, 28, 40]),
            decode_head=dict(norm_cfg=GN, dropout_ratio=0.0),
        ),
        train_cfg=dict(max_iters=ITERS, val_interval=ITERS),
        default_hooks=dict(checkpoint=dict(interval=ITERS)),
        **loaders(dataset, dataset),
    )


@dataclass
class Task:
    package: str
    config: str
    fields: Callable
    lr: float
    # whether a batch's loss is the sum over its images instead of the mean
    sums: bool = False


TASKS = [
    Task('mmpretrain', 'digits/ghostnetv2_100_digits.py', classification, 0.02),
    Task('mmdet', 'yolov3_ghostnetv2_320.py', detection, 1e-4, sums=True),
    Task('mmseg', 'segmentors/fpn_ghostnetv2_ade20k.py', segmentation, 0.01),
]


@pytest.fixture(scope='module', params=TASKS, ids=lambda task: task.package)
def trained(request, mim, openmmlab, tmp_path_factory):
    """Train in two processes, then in this one: the task, config and runner."""
    task = request.param
    pytest.importorskip(task.package, reason=f'needs {task.package}')
    folder = tmp_path_factory.mktemp(task.package)
    fields = dict(
        custom_imports=dict(imports=['mmghostnetv2', 'tests.e2e.rank_losses']),
        custom_hooks=[dict(type='RankLosses')],
        optim_wrapper=dict(
            _delete_=True, optimizer=dict(type='SGD', lr=task.lr, momentum=0.9)
        ),
        param_scheduler=[],
        randomness=dict(seed=0),
        work_dir=f'{folder}/one',
        **task.fields(request, folder),
    )
    config = folder / 'config.py'
    bases = [
        str(ROOT / 'configs' / name) for name in (task.config, '_base_/gloo_cpu.py')
    ]
    lines = [f'{key} = {value!r}' for key, value in {'_base_': bases, **fields}.items()]
    config.write_text('\n'.join(lines))
    # DDP averages over processes: half of a sum
    lr = task.lr * 2 if task.sums else task.lr
    args = [
        *('train', task.package, config, '--work-dir', folder / 'two'),
        '--cfg-options',
        f'train_dataloader.batch_size={BATCH // 2}',
        f'optim_wrapper.optimizer.lr={lr}',
    ]
    if task.package == 'mmdet':
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv('PYTHONPATH', str(ROOT))
            launcher = ['--launcher', 'pytorch', '--gpus', '2', '--port', free_port()]
            mim('train', mim_package('mmdet'), *args[2:], *launcher)
    else:
        in_two_processes(openmmlab, *args)
    runner = Runner.from_cfg(Config.fromfile(config))
    runner.train()
    return task, config, runner


def free_port() -> str:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return str(free.getsockname()[1])


def in_two_processes(openmmlab, *args) -> None:
    """Do as torch's launcher, which mim calls."""
    environ = dict(WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port())

    def start(rank):
        ranks = dict(environ, RANK=rank, LOCAL_RANK=rank)
        openmmlab(*args, '--launcher', 'pytorch', **ranks)

    with ThreadPoolExecutor() as pool:
        list(pool.map(start, '01'))


def test_losses(trained):
    task, config, _ = trained
    one, first, second = (
        [json.loads(line) for line in (config.parent / name).read_text().splitlines()]
        for name in ('one/rank0.jsonl', 'two/rank0.jsonl', 'two/rank1.jsonl')
    )
    assert len(one) == ITERS
    for whole, a, b in zip(one, first, second, strict=True):
        assert len(a['images']) == len(b['images']) == BATCH // 2
        assert sorted(a['images'] + b['images']) == sorted(whole['images'])
        for name, value in whole['losses'].items():
            both = a['losses'][name] + b['losses'][name]
            if not task.sums:
                both /= 2
            assert both == pytest.approx(value, rel=1e-4)


def test_metrics(trained, openmmlab):
    """The sampler repeats one image, to give both processes as many."""
    task, config, runner = trained
    if task.package == 'mmdet':
        take_found_for_truth(runner.cfg)
    expected = runner.test()
    assert len(runner.test_dataloader.dataset) % 2 == 1
    work_dir = config.parent / 'two_test'
    checkpoint = Path(runner.work_dir, 'last_checkpoint').read_text()
    # mmseg's test.py does not read runner_type, the one of this package does.
    package = 'mmghostnetv2' if task.package == 'mmseg' else task.package
    args = 'test', package, config, checkpoint, '--work-dir', work_dir
    in_two_processes(openmmlab, *args)
    (path,) = work_dir.glob('*/*.json')
    # Both processes write this file, which mmengine does not prevent, so the end of a
    # longer text may follow the metrics.
    metrics, _ = json.JSONDecoder().raw_decode(path.read_text())
    assert {name: metrics[name] for name in expected} == expected
    assert next(iter(expected.values())) > 0


def take_found_for_truth(cfg) -> None:
    """Make every second box that validation found a true one."""
    truth = json.loads(Path(cfg.val_evaluator.ann_file).read_text())
    found = json.loads(
        Path(f'{cfg.val_evaluator.outfile_prefix}.bbox.json').read_text()
    )
    truth['annotations'] = [
        dict(box, id=i, area=box['bbox'][2] * box['bbox'][3], iscrowd=0)
        for i, box in enumerate(found[::2], 1)
    ]
    Path(cfg.test_evaluator.ann_file).write_text(json.dumps(truth))
