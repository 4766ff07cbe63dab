"""The released learning rate, against timm's own scheduler."""

import pytest
import torch
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn
from torch.optim import SGD

import mmghostnetv2  # noqa: F401

EPOCHS = 450
RECIPE = dict(type='TimmStepLR', noise_range=(0.42 * EPOCHS, 0.9 * EPOCHS))


def make_optimizer():
    """Two groups of different learning rate."""
    layer = nn.Linear(1, 1)
    return SGD([dict(params=layer.weight, lr=0.064), dict(params=layer.bias, lr=0.1)])


def run(optimizer, scheduler, epochs) -> list[list[float]]:
    """Return the learning rates of each epoch, and leave the scheduler after it."""
    curve = []
    for _ in range(epochs):
        curve.append([group['lr'] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return curve


def build(**kwargs):
    optimizer = make_optimizer()
    cfg = dict(RECIPE, optimizer=optimizer, **kwargs)
    return optimizer, PARAM_SCHEDULERS.build(cfg)


def test_equals_timm():
    timm = pytest.importorskip('timm.scheduler', reason='the peer of this test')
    optimizer = make_optimizer()
    peer = timm.StepLRScheduler(
        optimizer,
        decay_t=2.4,
        decay_rate=0.973,
        warmup_t=3,
        warmup_lr_init=1e-6,
        warmup_prefix=False,  # as in timm 0.3.2
        noise_range_t=[0.42 * EPOCHS, 0.9 * EPOCHS],
        noise_pct=0.67,
        noise_std=1.0,
        noise_seed=42,
    )
    expected = []
    for epoch in range(EPOCHS):  # as timm 0.3.2's train.py steps it
        expected.append([group['lr'] for group in optimizer.param_groups])
        peer.step(epoch + 1)
    curve = run(*build(), EPOCHS)
    torch.testing.assert_close(
        torch.tensor(curve, dtype=torch.double),
        torch.tensor(expected, dtype=torch.double),
        rtol=0,
        atol=1e-9,
    )
    # not equal by being constant
    rates = [first for first, _ in curve]
    assert rates[0] == 1e-6 and len(set(rates)) > 300


def test_values_by_hand():
    """Warm-up over epochs 0 to 2, which the decay counts, too; noise in its range."""
    rates = [first for first, _ in run(*build(), EPOCHS)]
    assert rates[:3] == pytest.approx([1e-6, 0.021334, 0.042667], abs=1e-6)
    assert rates[3] == pytest.approx(0.064 * 0.973)  # floor(3 / 2.4) = 1
    assert rates[188] == pytest.approx(0.064 * 0.973**78)  # floor(188 / 2.4) = 78
    assert rates[405] == pytest.approx(0.064 * 0.973**168)  # the noise is over
    noisy = [rates[e] / (0.064 * 0.973 ** (e * 5 // 12)) - 1 for e in range(189, 405)]
    assert all(0 < abs(noise) < 0.67 for noise in noisy)
    assert len(set(noisy)) == len(noisy)


def test_resumes():
    """From the middle of the noise on, as if never interrupted."""
    whole = run(*build(), 210)
    first = build()
    run(*first, 200)
    optimizer, scheduler = build()
    optimizer.load_state_dict(first[0].state_dict())
    scheduler.load_state_dict(first[1].state_dict())
    assert run(optimizer, scheduler, 10) == whole[200:]


@pytest.mark.parametrize('name', ['decay_epochs', 'noise_limit'])
def test_bad_arguments(name):
    with pytest.raises(ValueError, match=f'{name} must be above 0, got 0'):
        build(**{name: 0})
