"""Processes of a launcher without a GPU, as configs/_base_/gloo_cpu.py sets them up."""

import os
import socket
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.registry import RUNNERS
from torch import distributed, nn

from ..conftest import ROOT

CONFIG = ROOT / 'configs' / '_base_' / 'gloo_cpu.py'
RENDEZVOUS = ('WORLD_SIZE', 'RANK', 'MASTER_ADDR', 'MASTER_PORT')


@pytest.fixture(autouse=True)
def environ(monkeypatch):
    """Without a launcher's variables and without a GPU."""
    for name in RENDEZVOUS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    return monkeypatch


@pytest.fixture
def group(tmp_path):
    """A process group of this process alone."""
    store = distributed.FileStore(str(tmp_path / 'store'), 1)
    distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    yield distributed.group.WORLD
    distributed.destroy_process_group()


class Model(BaseModel):
    def __init__(self, norm=nn.SyncBatchNorm):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), norm(4), nn.Conv2d(4, 2, 3))

    def forward(self, inputs, mode='tensor'):
        return self.layers(inputs)


def build_runner(tmp_path, launcher, **fields):
    """Build the runner as the libraries' tools do, from the config's dumped copy."""
    Config.fromfile(CONFIG).dump(tmp_path / 'dumped.py')
    cfg = Config.fromfile(tmp_path / 'dumped.py')
    cfg.update(
        model=dict(type=f'{__name__}.Model'),
        work_dir=str(tmp_path),
        experiment_name=tmp_path.name,
        launcher=launcher,
        **fields,
    )
    return RUNNERS.build(cfg)


def test_single_process(tmp_path):
    runner = build_runner(tmp_path, 'none')
    assert type(runner.model) is Model
    assert not distributed.is_initialized()


def test_incomplete_environment(environ, tmp_path):
    environ.setenv('WORLD_SIZE', '2')
    with pytest.raises(ValueError, match='RANK expected, but not set'):
        build_runner(tmp_path, 'pytorch')


def test_with_a_gpu_mmengine_creates_the_group(environ, tmp_path):
    """Its NCCL group, which fails on a machine without a GPU."""
    environ.setattr(torch.cuda, 'is_available', lambda: True)
    for name, value in zip(RENDEZVOUS, ('1', '0', '127.0.0.1', '1'), strict=True):
        environ.setenv(name, value)
    environ.setenv('LOCAL_RANK', '1000')
    with pytest.raises((RuntimeError, AssertionError), match='(?i)cuda|nvidia'):
        build_runner(tmp_path, 'pytorch')
    assert not distributed.is_initialized()


def test_only_the_runner_joins_processes(tmp_path):
    """Imports and configs do not; the group is left before the process ends."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    values = dict(zip(RENDEZVOUS, ('1', '0', '127.0.0.1', port), strict=True))
    code = f"""
import atexit, pkgutil, sys
from mmengine.config import Config
from mmengine.registry import RUNNERS
from torch import distributed

atexit.register(lambda: print(distributed.is_initialized()))
sys.modules['mmpretrain'] = None  # saves time
import mmghostnetv2.engine as engine
for module in pkgutil.iter_modules(engine.__path__, engine.__name__ + '.'):
    if not module.name.endswith('ema_hook'):  # needs mmpretrain
        __import__(module.name)
config = Config.fromfile({str(CONFIG)!r})
print(distributed.is_initialized())
config.model = dict(type='torch.nn.Linear', in_features=1, out_features=1)
config.update(launcher='pytorch', work_dir={str(tmp_path)!r})
RUNNERS.build(config)
print(distributed.get_backend())
"""
    printed = subprocess.check_output(
        [sys.executable, '-c', code],
        env=os.environ | values | {'CUDA_VISIBLE_DEVICES': ''},
        text=True,
    ).splitlines()
    words = ('False', 'True', 'gloo')
    assert [word for word in printed if word in words] == ['False', 'gloo', 'False']


def test_sync_bn_trains(group, tmp_path):
    """As BN does, where torch's own refuses; the group that exists is kept."""
    images = torch.rand(2, 3, 8, 8)
    with pytest.raises(ValueError, match='only work with GPU'):
        MMDistributedDataParallel(Model())(images)
    fields = dict(find_unused_parameters=True)
    model = build_runner(tmp_path, 'pytorch', **fields).model
    assert distributed.group.WORLD is group
    assert isinstance(model, MMDistributedDataParallel)
    assert model.find_unused_parameters
    expected = Model(nn.BatchNorm2d)
    for network in (model, expected):
        network(images).square().sum().backward()
    for (name, a), b in zip(
        model.module.named_parameters(), expected.parameters(), strict=True
    ):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    torch.testing.assert_close(model.module.state_dict(), expected.state_dict())


@pytest.mark.parametrize(
    'options',
    [
        dict(broadcast_buffers=True),
        dict(type='MMDistributedDataParallel', broadcast_buffers=True),
        dict(type='MMSeparateDistributedDataParallel'),
    ],
    ids=['options', 'type and options', 'another type'],
)
def test_options_of_the_wrapper(options, group, tmp_path):
    model = build_runner(tmp_path, 'pytorch', model_wrapper_cfg=options).model
    assert type(model).__name__ == options.get('type', 'MMDistributedDataParallel')
    if 'broadcast_buffers' in options:
        assert model.broadcast_buffers and not model.find_unused_parameters
