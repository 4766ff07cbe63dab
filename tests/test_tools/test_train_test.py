"""tools/train.py and tools/test.py with a model of two numbers."""

import pickle
import re
from pathlib import Path

import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('mmghostnetv2')  # also what lets torch.load read mmengine's files

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
TOY = """
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS


@DATASETS.register_module()
class ToyData(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return dict(x=torch.full((1,), float(index)), y=torch.full((1,), 2.0 * index))


@MODELS.register_module()
class ToyModel(BaseModel):
    def __init__(self, bias=True):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1, bias=bias)

    def forward(self, x, y, mode='tensor'):
        error = self.layer(torch.stack(x)) - torch.stack(y)
        if mode == 'loss':
            return dict(loss=error.square().mean())
        return [dict(error=one) for one in error]


@METRICS.register_module()
class ToyMetric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += [abs(sample['error'].item()) for sample in data_samples]

    def compute_metrics(self, results):
        return dict(error=sum(results) / len(results))
"""
CONFIG = """
custom_imports = dict(imports=['toy'], allow_failed_imports=False)
model = dict(type='ToyModel')
loader = dict(
    dataset=dict(type='ToyData'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    batch_size=2,
    num_workers=0,
)
train_dataloader = val_dataloader = test_dataloader = loader
val_evaluator = test_evaluator = dict(type='ToyMetric')
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2)
val_cfg = test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01))
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=False))
log_processor = dict(by_epoch=False)
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('toy')
    (folder / 'toy.py').write_text(TOY)
    (folder / 'config.py').write_text(CONFIG)
    return folder


@pytest.fixture(scope='module')
def run(run_script, folder):
    """Run a tool in the folder of the toys."""

    def run(tool, *args, fails=False):
        options = dict(cwd=folder, expect=int(fails), PYTHONPATH=str(folder))
        return run_script(TOOLS / tool, *args, **options)

    return run


@pytest.fixture(scope='module')
def trained(folder, run):
    """Two iterations, in the default work dir."""
    log = run('train.py', 'config.py', '--cfg-options', 'model.bias=False')
    return folder / 'work_dirs' / 'config', log


def test_help(run):
    text = run('train.py', '-h')
    assert '--gpus' not in text  # mim would take it for a tool of OpenMMLab 1.x


def test_train(trained):
    work_dir, log = trained
    assert (work_dir / 'iter_2.pth').is_file()
    assert 'Iter(train)' in log and 'Iter(val)' in log
    state = torch.load(work_dir / 'iter_2.pth')['state_dict']
    assert list(state) == ['layer.weight']  # --cfg-options took the bias away


@pytest.mark.parametrize('source', ['latest', 'named'])
def test_resume(run, trained, tmp_path, source):
    work_dir, _ = trained
    for file in ('iter_1.pth', 'iter_2.pth'):
        (tmp_path / file).write_bytes((work_dir / file).read_bytes())
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_2.pth'))
    log = run(
        'train.py',
        'config.py',
        '--work-dir',
        tmp_path,
        '--auto-scale-lr',
        '--resume',
        *([tmp_path / 'iter_1.pth'] if source == 'named' else []),
        '--cfg-options',
        'model.bias=False',
        'train_cfg.max_iters=3',
        'auto_scale_lr.base_batch_size=4',
    )
    assert f'resumed epoch: 0, iter: {1 if source == "named" else 2}' in log
    assert (tmp_path / 'iter_3.pth').is_file()
    assert 'LR is set based on batch size of 4' in log


def test_auto_scale_lr_says_what_it_needs(run):
    log = run('train.py', 'config.py', '--auto-scale-lr', fails=True)
    assert 'base_batch_size' in log and 'Traceback' not in log


def test_more_processes_than_gpus(run_script, folder, tmp_path):
    """As torchrun starts them, without a GPU or with fewer: one line, no log."""
    environ = dict(PYTHONPATH=str(folder), LOCAL_WORLD_SIZE='64')
    args = 'config.py', '--launcher', 'pytorch', '--work-dir', tmp_path / 'new'
    printed = run_script(TOOLS / 'train.py', *args, cwd=folder, expect=1, **environ)
    assert re.search(r'^error: 64 processes need as many GPUs', printed, re.M)
    assert 'Traceback' not in printed and not (tmp_path / 'new').exists()


def test_a_failing_training_logs_where(run, tmp_path):
    options = '--work-dir', tmp_path, '--cfg-options', 'train_dataloader.batch_size=2.5'
    printed = run('train.py', 'config.py', *options, fails=True)
    assert printed.splitlines()[-1].startswith('error: ')
    (log,) = tmp_path.glob('*/*.log')
    assert 'Traceback' in log.read_text()


def test_test(run, trained, tmp_path):
    work_dir, _ = trained
    out = tmp_path / 'predictions.pkl'
    log = run(
        'test.py',
        work_dir / 'config.py',  # the config that the training wrote
        work_dir / 'iter_2.pth',
        '--work-dir',
        tmp_path,
        '--out',
        out,
        '--cfg-options',
        'test_dataloader.batch_size=4',
    )
    weight = torch.load(work_dir / 'iter_2.pth')['state_dict']['layer.weight'].item()
    errors = [weight * x - 2 * x for x in range(4)]
    with open(out, 'rb') as file:
        found = [sample['error'].item() for sample in pickle.load(file)]
    assert found == pytest.approx(errors, abs=1e-6)
    assert 'Iter(test) [1/1]' in log
    (error,) = re.findall(r'Iter\(test\) \[1/1\].* error: ([\d.]+)', log)
    assert float(error) == pytest.approx(sum(map(abs, errors)) / 4, abs=1e-4)
