"""Kills at every moment of a write, and trainings that go on bit by bit."""

import errno
import itertools
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmghostnetv2.engine import SafeCheckpointHook
from mmghostnetv2.forks import mim_package

fcntl = pytest.importorskip('fcntl', reason='locks of files')

EPOCHS = 4


class Noisy(torch.utils.data.Dataset):
    """Pictures with augmentations by three random generators."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        noise = random.random() + np.random.rand() + torch.rand(4)
        return {'inputs': index + noise}


class Net(BaseModel):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 1))

    def forward(self, inputs, mode):
        out = self.layers(torch.stack(list(inputs)) + np.random.rand())
        return {'loss': out.pow(2).mean()} if mode == 'loss' else [{} for _ in out]


class Score(BaseMetric):
    """Better in every other epoch, and a user of random numbers."""

    scores = (1.0, 3.0, 2.0, 4.0)
    epoch = 0

    def process(self, data_batch, data_samples):
        torch.rand(1), np.random.rand(), random.random()
        self.results.append(0)

    def compute_metrics(self, results):
        self.epoch += 1
        return {'acc': self.scores[self.epoch - 1]}


class StopBefore(Hook):
    priority = 'VERY_LOW'

    def __init__(self, step, by_epoch=True):
        self.step, self.by_epoch = step, by_epoch

    def before_train_epoch(self, runner):
        if self.by_epoch and runner.epoch == self.step:
            raise InterruptedError

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if not self.by_epoch and runner.iter == self.step:
            raise InterruptedError


def train(
    work_dir,
    stop=None,
    resume=False,
    workers=0,
    by_epoch=True,
    seed=1,
    cfg=None,
    **options,
):
    """Train 4 epochs of 4 iterations, or 16 iterations, validating after each 4."""
    data = dict(dataset=Noisy(), batch_size=2, num_workers=workers)
    shuffled = dict(type='DefaultSampler', shuffle=True)
    hook = dict(type='SafeCheckpointHook', interval=1, by_epoch=by_epoch, **options)
    loop = dict(by_epoch=True, max_epochs=EPOCHS, val_interval=1)
    train_data = data | dict(sampler=shuffled)
    if workers and by_epoch:
        train_data['worker_init_fn'] = dict(type='keep_torch_seeds')
    if not by_epoch:
        train_data['sampler'] = dict(type='InfiniteSampler', shuffle=True)
        loop = dict(by_epoch=False, max_iters=16, val_interval=4)
        hook['interval'] = 4
    torch.manual_seed(3)  # for the initial weights
    runner = Runner(
        Net(),
        str(work_dir),
        train_dataloader=train_data,
        val_dataloader=data | dict(sampler=shuffled | dict(shuffle=False)),
        train_cfg=loop,
        val_cfg={},
        val_evaluator=[Score()],
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.001, momentum=0.9)),
        default_hooks=dict(checkpoint=hook),
        custom_hooks=[] if stop is None else [StopBefore(stop, by_epoch)],
        resume=resume,
        cfg=dict(resume=resume, **(cfg or {})),
        randomness=dict(seed=seed),
        experiment_name=f'{work_dir.name}{next(COUNT)}',
    )
    if stop is None:
        runner.train()
    else:
        with pytest.raises(InterruptedError):
            runner.train()
    return runner


COUNT = itertools.count()


def names(folder, pattern='*.pth'):
    return sorted(x.name for x in folder.glob(pattern) if x.name[0] != '.')


@pytest.mark.parametrize(
    ('by_epoch', 'workers', 'seed'),
    [(True, 0, None), (True, 2, None), (False, 2, 1)],
    ids=['no workers', 'workers', 'iterations'],
)
def test_a_resumed_training_is_exact(by_epoch, workers, seed, tmp_path):
    """Sampling, augmentation in workers or not, dropout and momentum."""
    if not by_epoch and mim_package('mmdet') != 'mmdet':
        pytest.skip('the fork of mmengine skips samples without their augmentations')
    last, stop = ('epoch_4.pth', 2) if by_epoch else ('iter_16.pth', 8)
    options = dict(workers=workers, by_epoch=by_epoch, save_best='acc')
    train(tmp_path / 'whole', **options)
    train(tmp_path / 'stopped', stop=stop, **options)
    train(tmp_path / 'stopped', resume=True, seed=seed, **options)
    whole, resumed = (torch.load(tmp_path / x / last) for x in ('whole', 'stopped'))
    early = 'epoch_1.pth' if by_epoch else 'iter_4.pth'
    first = torch.load(tmp_path / 'whole' / early)
    assert whole['meta']['seed'] == resumed['meta']['seed']
    for key, value in whole['state_dict'].items():
        assert torch.equal(value, resumed['state_dict'][key]), key
        assert not torch.equal(value, first['state_dict'][key]), 'it learns'


# ---- what a kill leaves


@pytest.fixture
def on_writing(monkeypatch):
    """Call a function when a file is complete and has not got its name yet."""

    return lambda function: monkeypatch.setattr(os, 'fsync', lambda _: function())


def test_older_files_are_removed_last(on_writing, tmp_path):
    """With ``max_keep_ckpts=1``, mmengine removes the only one before it writes."""
    seen = []
    on_writing(lambda: seen.append(names(tmp_path)))
    train(tmp_path, max_keep_ckpts=1, save_best='acc')
    assert names(tmp_path) == ['best_acc_epoch_4.pth', 'epoch_4.pth']
    best, first = 'best_acc_epoch_1.pth', 'epoch_1.pth'
    assert seen[:4] == [[], [first], [best, first], [best, first]]
    kinds = [{name[:4] for name in each} for each in seen[2:]]
    assert all(kind == {'best', 'epoc'} for kind in kinds), seen


def test_a_write_that_fails_changes_nothing(on_writing, tmp_path):
    """The file that is written again keeps its content, and the new one is removed."""

    class Full(Exception):
        pass

    def fail():
        if names(tmp_path) == ['best_acc_epoch_1.pth', 'epoch_1.pth']:
            raise Full  # when epoch_1.pth is written again, as its score is the best

    on_writing(fail)
    with pytest.raises(Full):
        train(tmp_path, save_best='acc')
    assert torch.load(tmp_path / 'epoch_1.pth')['meta']['epoch'] == 1
    assert not list(tmp_path.glob('.unfinished*'))
    on_writing(lambda: None)
    train(tmp_path, resume=True)
    assert torch.load(tmp_path / 'epoch_4.pth')['meta']['epoch'] == 4


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ('harm', 'resumed'),
    [
        (lambda folder: (folder / 'last_checkpoint').write_text(''), 2),
        (lambda folder: (folder / 'last_checkpoint').unlink(), 2),
        (lambda folder: (folder / 'last_checkpoint').write_text('/gone/a.pth'), 2),
        (lambda folder: cut(folder / 'epoch_2.pth'), 1),
        (lambda folder: (folder / 'epoch_2.pth').write_bytes(b''), 1),
        # killed before the file was named
        (lambda f: (f / 'last_checkpoint').write_text(str(f / 'epoch_1.pth')), 2),
    ],
    ids=['empty', 'missing', 'moved', 'cut off', 'no bytes', 'not named'],
)
def test_the_newest_readable_checkpoint_is_resumed(harm, resumed, tmp_path):
    train(tmp_path, stop=2)
    harm(tmp_path)
    runner = train(tmp_path, resume=True, stop=resumed)
    assert runner.epoch == resumed
    text = ''.join(log.read_text() for log in tmp_path.glob('*/*.log'))
    assert f'epoch_{resumed}.pth, which is resumed' in text
    damaged = f'cannot resume: cannot read weights from {tmp_path / "epoch_2.pth"}'
    assert (damaged in text) == (resumed == 1)


def test_nothing_to_resume_is_a_fresh_start(tmp_path):
    (tmp_path / 'last_checkpoint').touch()
    assert train(tmp_path, resume=True, stop=0).iter == 0


def test_only_damaged_checkpoints_are_not_thrown_away(tmp_path):
    train(tmp_path, stop=1)
    cut(tmp_path / 'epoch_1.pth')
    with pytest.raises(RuntimeError, match='none of the checkpoints in'):
        train(tmp_path, resume=True)
    assert names(tmp_path) == ['epoch_1.pth']


def test_weights_alone_are_not_resumed(tmp_path):
    """They have no epoch. What was published from a training may lie in its folder."""
    train(tmp_path, stop=1)
    path = tmp_path / 'epoch_1.pth'
    torch.save({'state_dict': torch.load(path)['state_dict']}, path)
    said = f'{path} cannot be resumed: it holds no epoch and iter of a training'
    with pytest.raises(RuntimeError, match=re.escape(said)):
        train(tmp_path, resume=True)


def test_an_earlier_longer_training_is_not_resumed(tmp_path):
    train(tmp_path)
    train(tmp_path, stop=2)
    assert train(tmp_path, resume=True, stop=2).epoch == 2


def test_a_copied_folder_is_resumed_where_it_was(tmp_path):
    """A copy has other dates, and the pointer still names the original folder."""
    train(tmp_path / 'original', stop=3)
    shutil.copytree(tmp_path / 'original', tmp_path / 'copy')
    for age, epoch in enumerate((2, 1, 3)):
        date = 1_700_000_000 - age
        os.utime(tmp_path / f'copy/epoch_{epoch}.pth', (date, date))
    shutil.rmtree(tmp_path / 'original')
    assert train(tmp_path / 'copy', resume=True, stop=3).epoch == 3


def test_names_of_files_with_digits_of_a_width(tmp_path):
    options = dict(filename_tmpl='e_{:03d}.pth')
    train(tmp_path, stop=2, **options)
    (tmp_path / 'last_checkpoint').unlink()
    assert train(tmp_path, resume=True, stop=2, **options).epoch == 2


@pytest.mark.parametrize('name', ['out_dir', 'backend_args', 'file_client_args'])
def test_other_places_for_checkpoints_are_refused(name, tmp_path):
    with pytest.raises(TypeError, match=f'takes no {name}'):
        SafeCheckpointHook(**{name: None})


def test_a_config_that_could_not_be_read_again_is_refused(tmp_path):
    """Before the training, not when it is resumed."""
    train(tmp_path / 'plain', stop=1, cfg=dict(a=range(3), b=-float('inf'), c=set()))
    assert train(tmp_path / 'plain', resume=True, stop=1).epoch == 1
    with pytest.raises(ValueError, match='not be loaded again: line 1 .* values: data'):
        train(tmp_path, cfg=dict(data_root=Path('data')))
    assert not names(tmp_path)


def test_a_file_system_without_locks(monkeypatch, tmp_path):
    def fail(*_):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(fcntl, 'lockf', fail)
    train(tmp_path, stop=1)
    assert names(tmp_path) == ['epoch_1.pth']
    text = ''.join(log.read_text() for log in tmp_path.glob('*/*.log'))
    assert 'cannot be locked' in text and 'No locks available' in text


def test_what_a_killed_write_left_is_removed(tmp_path):
    (tmp_path / '.unfinished-epoch_1.pth').touch()
    train(tmp_path, stop=0)
    assert not list(tmp_path.glob('.unfinished*'))


def test_a_second_training_in_the_folder_is_refused(tmp_path):
    """While the first one lives; a killed one leaves no lock."""
    code = (
        'import sys, time\n'
        'from types import SimpleNamespace\n'
        'from mmengine.logging import MessageHub, MMLogger\n'
        'from mmghostnetv2.engine import SafeCheckpointHook\n'
        'hub, log = MessageHub.get_instance("a"), MMLogger.get_instance("a")\n'
        'cfg = SimpleNamespace(pretty_text="a = 1")\n'
        'runner = SimpleNamespace(work_dir=sys.argv[1], logger=log, message_hub=hub)\n'
        'runner.cfg = cfg\n'
        'hook = SafeCheckpointHook()\n'
        'hook.before_train(runner)\n'
        'print("ready", flush=True)\n'
        'time.sleep(100)\n'
    )
    command = [sys.executable, '-c', code, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            while 'ready' not in other.stdout.readline():
                assert other.poll() is None
            with pytest.raises(RuntimeError, match=f'process {other.pid} on .*: wait'):
                train(tmp_path)
            assert not names(tmp_path)
        finally:
            other.kill()
    train(tmp_path, stop=1)
    assert names(tmp_path) == ['epoch_1.pth']
