"""The released ImageNet recipe, against timm, with which the weights were trained."""

import copy
import random

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import nn

from ..conftest import ROOT

pytest.importorskip('mmpretrain', reason='needs mmpretrain')
pytest.importorskip('timm', reason='the peer of these tests')
import timm
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmpretrain.datasets.transforms.auto_augment import merge_hparams
from mmpretrain.registry import MODELS, TRANSFORMS
from PIL import Image
from timm.data.auto_augment import AugmentOp, rand_augment_transform
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import RMSpropTF, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler, StepLRScheduler
from timm.utils import ModelEmaV2


@pytest.fixture(scope='module')
def config():
    return Config.fromfile(ROOT / 'configs' / 'ghostnetv2_100_in1k.py')


@pytest.mark.parametrize(
    ('width', 'factor', 'channels'),
    [(100, 1.0, 960), (130, 1.3, 1248), (160, 1.6, 1536)],
)
def test_recipe(width, factor, channels):
    """Numbers of the authors' command line."""
    config = Config.fromfile(ROOT / 'configs' / f'ghostnetv2_{width}_in1k.py')
    assert config.model.backbone.widen_factor == factor
    head = config.model.head
    assert (head.in_channels, list(head.mid_channels)) == (channels, [1280])
    assert head.dropout_rate == 0.2
    assert config.train_cfg.max_epochs == 450
    assert config.train_dataloader.batch_size * 8 == 1024
    assert config.auto_scale_lr.base_batch_size == 1024
    optimizer = config.optim_wrapper.optimizer
    assert (optimizer.lr, optimizer.eps, optimizer.weight_decay) == (0.064, 1e-3, 1e-5)
    assert (optimizer.alpha, optimizer.momentum) == (0.9, 0.9)
    assert tuple(config.param_scheduler.noise_range) == pytest.approx((189, 405))
    MODELS.build(config.model)


def test_label_smoothing(config):
    """The authors' train.py smooths by 0.1 where the command line does not say."""
    loss = MODELS.build(config.model.head.loss)
    scores, labels = torch.randn(8, 1000), torch.randint(1000, (8,))
    expected = LabelSmoothingCrossEntropy(0.1)(scores, labels)
    torch.testing.assert_close(loss(scores, labels), expected)


def test_decayed_parameters(config):
    """Weights of convolutions and linear layers, the same as timm decays."""
    model = MODELS.build(config.model)
    optimizer = build_optim_wrapper(model, config.optim_wrapper).optimizer
    ours = {0: [], 1e-5: []}
    for group in optimizer.param_groups:
        ours[group['weight_decay']] += [tuple(p.shape) for p in group['params']]
    peer = timm.create_model('ghostnetv2_100')
    for group in param_groups_weight_decay(peer, 1e-5):
        shapes = [tuple(p.shape) for p in group['params']]
        # timm's first classifier layer is a 1x1 convolution
        shapes = [(1280, 960) if s == (1280, 960, 1, 1) else s for s in shapes]
        assert sorted(ours[group['weight_decay']]) == sorted(shapes)
    assert min(map(len, ours.values())) > 100


def small_model(config):
    """The config's classifier, so small that its steps take no time."""
    torch.manual_seed(0)
    cfg = copy.deepcopy(config.model)
    cfg.backbone.update(widen_factor=0.1, out_indices=(4,))
    cfg.head.update(in_channels=4, mid_channels=[8], num_classes=10, topk=(1,))
    cfg.head.dropout_rate = 0.0
    cfg.data_preprocessor = dict(num_classes=10)
    return MODELS.build(cfg)


STEPS = 1e-6  # tolerance of weights after 30 steps
# The released recipe, as timm's optimizer takes it.
RECIPE = dict(weight_decay=1e-5, lr=0.064, alpha=0.9, eps=0.001, momentum=0.9)


def test_steps_of_all_phases(config):
    """Optimizer, weight decay and schedule: warm-up, decay, noise and after it.

    Every setting of the recipe is seen: a network that is trained with another one
    leaves the tolerance.
    """
    model = small_model(config)
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    scheduler = PARAM_SCHEDULERS.build(
        dict(config.param_scheduler, optimizer=wrapper, noise_range=(60, 120))
    )
    changes = [{}, dict(weight_decay=1.1e-5), dict(lr=0.06401), dict(alpha=0.901)]
    changes += [dict(eps=0.00101), dict(momentum=0.901)]
    peers = [copy.deepcopy(model) for _ in changes]
    start = [parameter.detach().clone() for parameter in model.parameters()]
    optimizers = []
    for peer, change in zip(peers, changes, strict=True):
        options = RECIPE | change
        groups = param_groups_weight_decay(peer, options.pop('weight_decay'))
        optimizers.append(RMSpropTF(groups, **options))
    schedulers = [
        StepLRScheduler(
            optimizer,
            decay_t=2.4,
            decay_rate=0.973,
            warmup_t=3,
            warmup_lr_init=1e-6,
            warmup_prefix=False,
            noise_range_t=[60, 120],
        )
        for optimizer in optimizers
    ]
    generator = torch.Generator().manual_seed(0)
    for epoch in range(150):
        (expected,) = {group['lr'] for group in optimizers[0].param_groups}
        rates = wrapper.get_lr()['lr']
        assert rates == pytest.approx([expected] * len(rates), rel=0, abs=1e-9)
        if epoch % 5 == 0:
            x = torch.randn(4, 3, 16, 16, generator=generator)
            y = torch.randint(10, (4,), generator=generator)
            wrapper.update_params(nn.functional.cross_entropy(model(x), y))
            for peer, optimizer in zip(peers, optimizers, strict=True):
                optimizer.zero_grad()
                nn.functional.cross_entropy(peer(x), y).backward()
                optimizer.step()
            for own, other in zip(
                model.parameters(), peers[0].parameters(), strict=True
            ):
                assert (own - other).abs().max() <= STEPS
        scheduler.step()
        for peer_scheduler in schedulers:
            peer_scheduler.step(epoch + 1)
    for before, own in zip(start, model.parameters(), strict=True):
        assert own.ndim == 1 or (own - before).abs().max() > 10 * STEPS
    for change, peer in zip(changes[1:], peers[1:], strict=True):
        pairs = zip(model.parameters(), peer.parameters(), strict=True)
        errors = [(own - other).abs().max() for own, other in pairs]
        assert max(errors) > 10 * STEPS, change


def test_average(config):
    """Of weights and buffers, by timm's factor."""
    cfg = config.custom_hooks[0]
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    kwargs = {key: cfg[key] for key in ('momentum', 'update_buffers')}
    average = ExponentialMovingAverage(model, **kwargs)
    average.update_parameters(model)  # mmengine's first update is a copy
    peer = ModelEmaV2(model, decay=0.9999)
    for _ in range(50):
        model(torch.randn(2, 3, 4, 4) * 100)
        for parameter in model.parameters():
            parameter.data.normal_(0, 100)
        average.update_parameters(model)
        peer.update(model)
    expected = peer.module.state_dict()
    for key, value in average.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[key])
            assert (value - model.state_dict()[key]).abs().max() > 0.1


# mmpretrain's operations -> timm's
PEERS = {
    'AutoContrast': 'AutoContrast',
    'Equalize': 'Equalize',
    'Invert': 'Invert',
    'Rotate': 'Rotate',
    'Posterize': 'Posterize',
    'Solarize': 'Solarize',
    'SolarizeAdd': 'SolarizeAdd',
    'ColorTransform': 'Color',
    'Contrast': 'Contrast',
    'Brightness': 'Brightness',
    'Sharpness': 'Sharpness',
    'Shear horizontal': 'ShearX',
    'Shear vertical': 'ShearY',
    'Translate horizontal': 'TranslateXRel',
    'Translate vertical': 'TranslateYRel',
}
MEAN = (124, 116, 104)


@pytest.fixture(scope='module')
def rand_augment(config):
    (augment,) = (t for t in config.train_pipeline if t['type'] == 'RandAugment')
    return augment


def name_of(policy) -> str:
    return f'{policy["type"]} {policy.get("direction", "")}'.strip()


@pytest.fixture(scope='module')
def photo():
    """RGB, 80x64 pixels, with smooth parts and edges."""
    y, x = np.mgrid[:64, :80]
    waves = [
        np.sin(x / 9 + k) + np.cos(y / 7 - k) + (x > 40) * (k - 1) for k in range(3)
    ]
    return np.clip(np.stack(waves, -1) * 45 + 120, 0, 255).astype(np.uint8)


def test_rand_augment_draws_as_timm_does(rand_augment):
    """Each operation is as likely; those that interpolate do it in two ways."""
    peer = rand_augment_transform('rand-m9-mstd0.5', {})
    names = [PEERS[name_of(policy)] for policy in rand_augment['policies']]
    assert sorted(names) == sorted(2 * [op.name for op in peer.ops])
    assert rand_augment['num_policies'] == peer.num_layers == 2
    ways = {}
    for policy in rand_augment['policies']:
        ways.setdefault(name_of(policy), []).append(policy.get('interpolation'))
    for name, interpolations in ways.items():
        geometric = name.split()[0] in ('Rotate', 'Shear', 'Translate')
        expected = ['bilinear', 'bicubic'] if geometric else [None, None]
        assert interpolations == expected
    for op in peer.ops:
        assert op.prob == 0.5  # mmpretrain's default for each
        assert op.magnitude == rand_augment['magnitude_level']
        assert op.magnitude_std == rand_augment['magnitude_std']


@pytest.mark.parametrize('name', PEERS)
@pytest.mark.parametrize('level', [8.4, 9, 9.7, 10])
def test_rand_augment_does_what_timm_does(name, level, rand_augment, photo):
    """Each operation at levels that occur, in both directions where it has two."""
    np.random.seed(0)
    random.seed(0)
    # the second of two equal operations interpolates as the peer does
    *_, policy = (p for p in rand_augment['policies'] if name_of(p) == name)
    policy = merge_hparams(dict(policy, prob=1.0), rand_augment['hparams'])
    if 'magnitude_range' in policy:
        policy |= dict(magnitude_level=level, magnitude_std=0.0, total_level=10)
    transform = TRANSFORMS.build(policy)
    hparams = dict(img_mean=MEAN, interpolation=Image.BICUBIC, magnitude_std=0)
    peer = AugmentOp(PEERS[name], prob=1.0, magnitude=level, hparams=hparams)

    def variants(augment):
        found = [augment() for _ in range(12)]
        unique = {image.tobytes(): image for image in found}
        return sorted(unique.values(), key=lambda image: image[:, :20].mean())

    bgr = photo[..., ::-1].copy()
    own = variants(lambda: transform(dict(img=bgr.copy()))['img'][..., ::-1])
    other = variants(lambda: np.array(peer(Image.fromarray(photo))))
    assert len(own) == len(other)
    for a, b in zip(own, other, strict=True):
        difference = np.abs(a.astype(float) - b)
        assert np.median(difference) <= 2, np.median(difference)
        assert difference.mean() < 4, difference.mean()


def test_random_erasing(config):
    """A fifth of the images, 2 % to a third of each, by noise about ImageNet's mean."""
    (erase,) = (t for t in config.train_pipeline if t['type'] == 'RandomErasing')
    assert erase['erase_prob'] == 0.2
    transform = TRANSFORMS.build(dict(erase, erase_prob=1.0))
    np.random.seed(0)
    blank = np.zeros((64, 64, 3), np.float32)
    patches, shares = [], []
    for _ in range(200):
        image = transform(dict(img=blank.copy()))['img']
        erased = (image != 0).any(2)
        shares.append(erased.mean())
        patches.append(image[erased])
    pixels = np.concatenate(patches)
    bgr_mean, bgr_std = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)
    # mmpretrain clips the noise to 0 to 255
    assert pixels.mean(0) == pytest.approx(bgr_mean, abs=2)
    assert pixels.std(0) == pytest.approx(bgr_std, abs=3)
    assert np.corrcoef(pixels.T)[0, 1] < 0.1  # each channel and pixel by itself
    assert 0.015 < min(shares) < 0.04 and 0.28 < max(shares) < 0.36


def test_schedule_of_v3():
    """As in the authors' train.py; timm's cosine counts the epochs of the warm-up."""
    config = Config.fromfile(ROOT / 'configs' / 'ghostnetv3_100_in1k.py')
    assert config.custom_hooks[0].momentum == pytest.approx(1 - 0.9998)
    assert config.model.head.dropout_rate == 0
    model = small_model(config)
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    decays = {group['weight_decay'] for group in wrapper.param_groups}
    assert decays == {0, 2e-5} and wrapper.param_groups[0]['nesterov']
    schedulers = [
        PARAM_SCHEDULERS.build(dict(cfg, optimizer=wrapper))
        for cfg in config.param_scheduler
    ]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    peer = CosineLRScheduler(
        optimizer, t_initial=300, lr_min=1e-5, warmup_t=3, warmup_lr_init=1e-4
    )
    for epoch in range(300):
        expected = optimizer.param_groups[0]['lr']
        assert wrapper.get_lr()['lr'][0] == pytest.approx(expected, rel=1e-3, abs=1e-6)
        for scheduler in schedulers:
            scheduler.step()
        peer.step(epoch + 1)
