"""A classifier that learns from a teacher, too. Importing this needs mmpretrain."""

from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS
from torch import Tensor


class _Teacher:
    """A network that its owner neither registers nor copies.

    So it is in no state dict, checkpoint or average of weights, and neither the
    optimizer nor distributed training sees it.
    """

    def __init__(self, cfg: dict) -> None:
        self.cfg = cfg
        self.network: Any = None

    def __deepcopy__(self, memo: dict) -> '_Teacher':
        return self

    def build(self) -> Any:
        """Return the network, built and initialised at the first call."""
        if self.network is None:
            # A resumed training builds it later than the one that was interrupted, and
            # must go on with the same random numbers.
            with torch.random.fork_rng(devices=[]):
                self.network = MODELS.build(deepcopy(self.cfg))
                self.network.init_weights()
            self.network.requires_grad_(False).eval()
        return self.network


class DistilledClassifier(ImageClassifier):
    """mmpretrain's ImageClassifier with a teacher's predictions as soft labels.

    The loss of the head is joined by the cross entropy between the teacher's
    probabilities and the student's. The teacher sees the same augmented images. It is
    built at the first training step, so that testing does not need it, and it is not
    part of the checkpoints.

    Args:
        args, kwargs: Arguments of ImageClassifier.
        teacher (dict): Config of any classifier of mmpretrain with the same classes,
            for example ``dict(type='TimmClassifier', model_name=..., pretrained=True)``
            for one of timm. ``mean``, ``std`` and ``to_rgb`` of its
            ``data_preprocessor`` are those with which it was trained; without a
            ``mean`` there, it gets the student's input.
        teacher_size (int, optional): Height and width, in pixels, to which images are
            resized for the teacher. None means as they are.
        teacher_weight (float): Weight of the second loss. Defaults to 1.0.
        temperature (float): Divides the logits of both before the second softmax; the
            loss is multiplied by its square. Defaults to 1.0.

    Raises:
        ValueError: ``temperature`` is not above 0, or ``teacher_weight`` is negative.
    """

    def __init__(
        self,
        *args,
        teacher: dict,
        teacher_size: int | None = None,
        teacher_weight: float = 1.0,
        temperature: float = 1.0,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        if temperature <= 0 or teacher_weight < 0:
            raise ValueError(
                'temperature must be above 0 and teacher_weight at least 0, got '
                f'{temperature!r} and {teacher_weight!r}'
            )
        self.teacher = _Teacher(teacher)
        self.teacher_size = teacher_size
        self.teacher_weight = teacher_weight
        self.temperature = temperature

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Compute both losses.

        Args:
            inputs (Tensor): Normalised images of shape (N, 3, H, W).
            data_samples (list[DataSample]): Their labels.

        Returns:
            dict[str, Tensor]: The losses of the head, and ``teacher_loss``.

        Raises:
            ValueError: The teacher has another number of classes.
        """
        logits: list[Tensor] = []
        hook = self.head.register_forward_hook(
            lambda head, features, output: logits.append(output)
        )
        try:
            losses = super().loss(inputs, data_samples)
        finally:
            hook.remove()
        expected = self.teacher_logits(inputs)
        if expected.shape != logits[0].shape:
            raise ValueError(
                f'the teacher has {expected.shape[1]} classes and the student '
                f'{logits[0].shape[1]}'
            )
        soft_labels = (expected.float() / self.temperature).softmax(1)
        loss = F.cross_entropy(logits[0].float() / self.temperature, soft_labels)
        losses['teacher_loss'] = self.teacher_weight * self.temperature**2 * loss
        return losses

    @torch.no_grad()
    def teacher_logits(self, images: Tensor) -> Tensor:
        """Compute the teacher's logits, (N, classes), of the student's input."""
        teacher = self.teacher.build().to(images.device)
        own, other = self.data_preprocessor, teacher.data_preprocessor
        if hasattr(other, 'mean'):
            images = images * getattr(own, 'std', 1) + getattr(own, 'mean', 0)
            if own.to_rgb != other.to_rgb:
                images = images.flip(1)
            images = (images - other.mean) / other.std
        if self.teacher_size is not None:
            size = [self.teacher_size] * 2
            images = F.interpolate(images, size, mode='bicubic', antialias=True)
        return teacher(images, mode='tensor')
