"""A student learns from the teacher's probabilities, and keeps nothing else of it."""

import copy

import pytest
import torch
from mmengine.model import ExponentialMovingAverage, MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper

from mmghostnetv2 import init_model

from .test_models.conftest import randomise

pytest.importorskip('mmpretrain', reason='needs mmpretrain')
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

CLASSES = 5


def classifier(type_, width, **options):
    """Config of a small classifier."""
    return (
        dict(
            type=type_,
            backbone=dict(type='GhostNetV3', widen_factor=width, out_indices=(4,)),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(
                type='LinearClsHead', num_classes=CLASSES, in_channels=4, topk=(1,)
            ),
            data_preprocessor=dict(
                num_classes=CLASSES, mean=[10.0, 20.0, 30.0], std=[4.0, 5.0, 6.0]
            ),
        )
        | options
    )


TEACHER = classifier('ImageClassifier', 0.1)


def build(teacher=TEACHER, **options):
    torch.manual_seed(0)
    cfg = classifier('DistilledClassifier', 0.1, teacher=teacher, **options)
    return randomise(MODELS.build(copy.deepcopy(cfg)))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, 32, 40, generator=generator)
    samples = [DataSample().set_gt_label(label) for label in (0, 3, 1, 4)]
    return images, samples


@pytest.mark.parametrize(('temperature', 'weight'), [(1.0, 1.0), (3.0, 0.5)])
def test_loss(batch, temperature, weight):
    """The student's cross entropy, and the teacher's by its definition."""
    images, samples = batch
    model = build(temperature=temperature, teacher_weight=weight).eval()
    losses = model.loss(images, samples)
    with torch.no_grad():
        student, teacher = model(images), model.teacher_logits(images)
    expected = model.head.loss(model.extract_feat(images), samples)['loss']
    torch.testing.assert_close(losses['loss'], expected)
    p, q = ((logits / temperature).softmax(1) for logits in (teacher, student))
    cross_entropy = -(p * q.log()).sum(1).mean()
    torch.testing.assert_close(
        losses['teacher_loss'], weight * temperature**2 * cross_entropy
    )
    assert (p - q).abs().max() > 1e-3


def test_a_teacher_of_timm_with_images_of_its_own(batch):
    """It gets the picture in the scale and the size of its own training."""
    timm = pytest.importorskip('timm', reason='the teacher')
    images, _ = batch
    mean, std = [0.5, 1.0, 2.0], [2.0, 3.0, 4.0]
    teacher = dict(
        type='TimmClassifier',
        model_name='ghostnet_050',
        num_classes=CLASSES,
        data_preprocessor=dict(mean=mean, std=std),
    )
    model = build(teacher, teacher_size=64)
    pictures = images * model.data_preprocessor.std + model.data_preprocessor.mean
    scaled = (pictures - torch.tensor(mean).view(3, 1, 1)) / (
        torch.tensor(std).view(3, 1, 1)
    )
    resized = torch.nn.functional.interpolate(
        scaled, (64, 64), mode='bicubic', antialias=True
    )
    logits = model.teacher_logits(images)
    network = model.teacher.build().model
    assert isinstance(network, type(timm.create_model('ghostnet_050')))
    with torch.no_grad():
        torch.testing.assert_close(logits, network(resized))


def test_a_teacher_of_other_channels_and_a_student_of_pixels(batch):
    """The student takes pixels in the order of the file, the teacher scaled RGB."""
    images, _ = batch
    scale = dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], to_rgb=True)
    teacher = dict(TEACHER, data_preprocessor=dict(num_classes=CLASSES, **scale))
    model = build(teacher, data_preprocessor=dict(num_classes=CLASSES))
    network = model.teacher.build()
    mean, std = (torch.tensor(scale[x]).view(3, 1, 1) for x in ('mean', 'std'))
    with torch.no_grad():
        expected = network((images[:, [2, 1, 0]] - mean) / std, mode='tensor')
    torch.testing.assert_close(model.teacher_logits(images), expected)


def test_the_teacher_is_no_part_of_the_model(batch):
    """Of its state dict, optimizer, average or mode; and it does not learn."""
    images, samples = batch
    model = build().train()
    keys = list(model.state_dict())
    cfg = dict(optimizer=dict(type='SGD', lr=0.1))
    optimizer = build_optim_wrapper(model, cfg)
    average = ExponentialMovingAverage(model)
    before = torch.get_rng_state()
    teacher = model.teacher.build()
    assert torch.equal(torch.get_rng_state(), before)
    weights = copy.deepcopy(teacher.state_dict())
    start = copy.deepcopy(model.state_dict())
    parsed, _ = model.parse_losses(model.loss(images, samples))
    optimizer.update_params(parsed)
    average.update_parameters(model.train())
    assert any(not torch.equal(v, start[k]) for k, v in model.state_dict().items())
    for key, value in teacher.state_dict().items():
        assert torch.equal(value, weights[key]), key
    assert not teacher.training
    assert list(model.state_dict()) == keys
    assert not any('teacher' in key for key in [*keys, *average.state_dict()])
    assert average.module.teacher is model.teacher  # not a second one in memory


def test_mixed_precision(batch):
    """The loss is close to that in float32, and all gradients are finite."""
    model = build().eval()
    expected = model.loss(*batch)['teacher_loss']
    with torch.autocast('cpu', torch.bfloat16):
        losses = model.train().loss(*batch)
        rounded = model.eval().loss(*batch)['teacher_loss']
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, expected, rtol=0.02, atol=0.02)
    sum(losses.values()).backward()
    assert all(x.grad.isfinite().all() for x in model.parameters())


def test_distributed_data_parallel(batch, tmp_path):
    """DDP takes the model, and its gradients are those without DDP."""
    images, samples = batch
    data = dict(inputs=images, data_samples=samples)
    model, other = build().train(), build().train()
    sum(other.loss(images, samples).values()).backward()
    store = f'file://{tmp_path}/store'
    torch.distributed.init_process_group('gloo', store, rank=0, world_size=1)
    try:
        wrapped = MMDistributedDataParallel(model)
        sum(wrapped(**data, mode='loss').values()).backward()
    finally:
        torch.distributed.destroy_process_group()
    for (name, ours), theirs in zip(
        model.named_parameters(), other.parameters(), strict=True
    ):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


@pytest.mark.parametrize(
    ('options', 'said'),
    [(dict(temperature=0), 'got 0'), (dict(teacher_weight=-1.0), 'and -1.0')],
)
def test_bad_arguments(options, said):
    with pytest.raises(ValueError, match=said):
        build(**options)


def test_other_classes_are_refused(batch):
    teacher = copy.deepcopy(TEACHER)
    teacher['head']['num_classes'] = 7
    with pytest.raises(ValueError, match='has 7 classes and the student 5'):
        build(teacher).loss(*batch)


def test_the_config_needs_no_teacher_to_test():
    """It is that of the plain training with the teacher of the authors' script."""
    model = init_model('ghostnetv3_100_distill_in1k')
    plain = init_model('ghostnetv3_100_in1k')
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert model.cfg.model.teacher.model_name == 'beitv2_large_patch16_224'
    for key in 'optim_wrapper', 'param_scheduler', 'train_dataloader':
        assert model.cfg[key] == plain.cfg[key]
