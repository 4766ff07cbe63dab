"""The learning rate schedule of the released weights."""

from math import inf

import torch
from mmengine.optim import _ParamScheduler  # mmengine has no public name

from ..registry import PARAM_SCHEDULERS, register


@register(PARAM_SCHEDULERS)
class TimmStepLR(_ParamScheduler):
    """The learning rate schedule of timm 0.3.2, which trained the released weights.

    It is stepped once an epoch. The learning rate of epoch ``e`` is ``warmup_lr + e *
    (lr - warmup_lr) / warmup_epochs`` while ``e < warmup_epochs``, and then ``lr *
    decay_rate ** floor(e / decay_epochs)``, so the decay also counts the epochs of the
    warm-up. Within ``noise_range`` the rate is multiplied by 1 plus a standard normal
    number, which is drawn again until its absolute value is below ``noise_limit``. The
    generator is seeded with ``noise_seed + e``, so a resumed training has the same
    rates as one without a break.

    Source: ``--sched step --decay-epochs 2.4 --decay-rate .973 --warmup-lr 1e-6
    --lr-noise 0.42 0.9`` of the authors' recipe, in timm's ``StepLRScheduler``.

    Args:
        optimizer (Optimizer or BaseOptimWrapper): Its learning rate is set.
        decay_epochs (float): Epochs from one decay to the next. Defaults to 2.4.
        decay_rate (float): Factor of each decay. Defaults to 0.973.
        warmup_epochs (int): Epochs of linear warm-up. Defaults to 3.
        warmup_lr (float): Learning rate of the first epoch. Defaults to 1e-6.
        noise_range (tuple[float, float], optional): The first epoch with noise, and the
            first one after it without noise. None means no noise. Defaults to None.
        noise_limit (float): Limit of the noise's absolute value. Defaults to 0.67.
        noise_seed (int): Seed of the noise of epoch 0. Defaults to 42.
        kwargs: ``begin``, ``end``, ``last_step``, ``by_epoch`` and ``verbose`` as in
            mmengine's own schedulers.

    Raises:
        ValueError: ``decay_epochs`` or ``noise_limit`` is not above 0.
    """

    def __init__(
        self,
        optimizer,
        decay_epochs: float = 2.4,
        decay_rate: float = 0.973,
        warmup_epochs: int = 3,
        warmup_lr: float = 1e-6,
        noise_range: tuple[float, float] | None = None,
        noise_limit: float = 0.67,
        noise_seed: int = 42,
        **kwargs,
    ) -> None:
        above_zero = dict(decay_epochs=decay_epochs, noise_limit=noise_limit)
        for name, value in above_zero.items():
            if value <= 0:
                raise ValueError(f'{name} must be above 0, got {value!r}')
        self.decay_epochs = decay_epochs
        self.decay_rate = decay_rate
        self.warmup_epochs = warmup_epochs
        self.warmup_lr = warmup_lr
        self.noise_range = noise_range or (inf, inf)
        self.noise_limit = noise_limit
        self.noise_seed = noise_seed
        super().__init__(optimizer, 'lr', **kwargs)

    def _get_value(self) -> list[float]:
        epoch = self.last_step
        noise = 1 + self._noise(epoch)
        if epoch < self.warmup_epochs:
            start, done = self.warmup_lr, epoch / self.warmup_epochs
            return [(start + done * (lr - start)) * noise for lr in self.base_values]
        decay = self.decay_rate ** (epoch // self.decay_epochs)
        return [lr * decay * noise for lr in self.base_values]

    def _noise(self, epoch: int) -> float:
        first, end = self.noise_range
        if not first <= epoch < end:
            return 0.0
        generator = torch.Generator().manual_seed(self.noise_seed + epoch)
        while True:
            noise = torch.randn(1, generator=generator).item()
            if abs(noise) < self.noise_limit:
                return noise
