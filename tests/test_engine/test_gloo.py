import os
import socket
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS
from torch import distributed, nn

from mmghostnetv2.engine.gloo import CPUDistributedDataParallel, join_processes

from ..conftest import ROOT

RENDEZVOUS = ('WORLD_SIZE', 'RANK', 'MASTER_ADDR', 'MASTER_PORT')


@pytest.fixture
def environ(monkeypatch):
    """No launcher's variables, no GPU."""
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


def test_no_launcher(environ):
    join_processes()
    assert not distributed.is_initialized()


def test_incomplete_environment(environ):
    environ.setenv('WORLD_SIZE', '2')
    with pytest.raises(ValueError, match='RANK expected, but not set'):
        join_processes()


def test_the_group_is_left_at_exit():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    values = dict(zip(RENDEZVOUS, ('1', '0', '127.0.0.1', port), strict=True))
    code = (
        'import atexit\n'
        'from torch import distributed\n'
        'atexit.register(lambda: print("there", distributed.is_initialized()))\n'
        'import mmghostnetv2.engine.gloo\n'
        'print("before", distributed.is_initialized())\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        env=os.environ | values | {'CUDA_VISIBLE_DEVICES': ''},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ['before', 'True', 'there', 'False']


def test_a_group_that_exists_is_kept(environ, group):
    environ.setenv('WORLD_SIZE', '2')
    join_processes()
    assert distributed.group.WORLD is group


def test_nothing_changes_with_a_gpu(environ):
    config = ROOT / 'configs' / '_base_' / 'gloo_cpu.py'
    assert 'model_wrapper_cfg' in Config.fromfile(config)
    environ.setattr(torch.cuda, 'is_available', lambda: True)
    environ.setenv('WORLD_SIZE', '2')
    environ.delitem(sys.modules, 'mmghostnetv2.engine.gloo')
    assert not Config.fromfile(config)
    assert 'mmghostnetv2.engine.gloo' not in sys.modules
    join_processes()
    assert not distributed.is_initialized()


def test_sync_bn_trains(environ, group):
    """As BN does, where torch's own refuses."""

    def network(norm):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), norm(4), nn.Conv2d(4, 2, 3))

    images = torch.rand(2, 3, 8, 8)
    with pytest.raises(ValueError, match='only work with GPU'):
        MMDistributedDataParallel(network(nn.SyncBatchNorm))(images)
    wrapper = MODEL_WRAPPERS.get('CPUDistributedDataParallel')
    assert wrapper is CPUDistributedDataParallel
    # the runner names a device to every wrapper
    model = wrapper(network(nn.SyncBatchNorm), device_ids=[0])
    expected = network(nn.BatchNorm2d)
    for network_ in (model, expected):
        network_(images).square().sum().backward()
    for (name, a), b in zip(
        model.module.named_parameters(), expected.parameters(), strict=True
    ):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    torch.testing.assert_close(model.module.state_dict(), expected.state_dict())
