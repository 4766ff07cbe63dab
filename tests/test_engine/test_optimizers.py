import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper, OptimWrapper, build_optim_wrapper
from torch import nn

from mmghostnetv2 import config_path

CONFIG = config_path('ghostnetv2_100_in1k')


def test_without_timm(monkeypatch):
    """Only training needs it: the released models work without."""
    pytest.importorskip('mmpretrain', reason='the config inherits from it')
    monkeypatch.setitem(sys.modules, 'timm', None)
    monkeypatch.setitem(sys.modules, 'timm.optim', None)
    config = Config.fromfile(CONFIG)
    with pytest.raises(ImportError, match='RMSpropTF.*: pip install timm'):
        build_optim_wrapper(nn.Linear(1, 1), config.optim_wrapper)


@pytest.mark.parametrize('gpu', [False, True], ids=['cpu', 'gpu'])
def test_mixed_precision_on_a_gpu_alone(gpu, monkeypatch):
    if gpu and not torch.cuda.is_available():
        pytest.skip('needs a GPU')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    cfg = dict(type='GPUAmpOptimWrapper', optimizer=dict(type='SGD', lr=0.1))
    wrapper = build_optim_wrapper(nn.Linear(1, 1), cfg)
    assert type(wrapper) is (AmpOptimWrapper if gpu else OptimWrapper)


def test_by_hand():
    """Mean square starts at one, epsilon is in the root, the rate in the momentum."""
    pytest.importorskip('timm', reason='the optimizer is its own')
    pytest.importorskip('mmpretrain', reason='the config inherits from it')
    layer = nn.Linear(1, 2, bias=False).double()
    wrapper = build_optim_wrapper(layer, Config.fromfile(CONFIG).optim_wrapper)
    w = layer.weight.detach().clone()
    mean_square, velocity = torch.ones_like(w), torch.zeros_like(w)
    for step in range(20):
        layer.weight.grad = (layer.weight.detach() - step) ** 3
        wrapper.step()
        gradient = (w - step) ** 3 + 1e-5 * w
        mean_square = 0.9 * mean_square + 0.1 * gradient**2
        velocity = 0.9 * velocity + 0.064 * gradient / (mean_square + 0.001).sqrt()
        w -= velocity
        torch.testing.assert_close(layer.weight.detach(), w, rtol=1e-9, atol=1e-9)
