"""The average of the weights: both validated, the average alone tested."""

import pytest
import torch
from torch import nn

pytest.importorskip('mmpretrain', reason='the hook is an extension of its own')
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner

from mmghostnetv2.engine.ema_hook import DualEMAHook


class Model(BaseModel):
    """One weight, which gradient descent at rate 1 raises by one a step."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, inputs, mode):
        return dict(loss=-self.weight.sum()) if mode == 'loss' else [self.weight.item()]


class Weight(BaseMetric):
    """The weight that predicted last."""

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return dict(weight=results[-1])


@pytest.fixture
def runner(tmp_path):
    data = dict(dataset=[dict(inputs=torch.zeros(1))] * 2, batch_size=1, num_workers=0)
    data['sampler'] = dict(type='DefaultSampler', shuffle=False)
    return Runner(
        Model(),
        str(tmp_path),
        train_dataloader=data,
        val_dataloader=data,
        test_dataloader=data,
        train_cfg=dict(by_epoch=True, max_epochs=2),
        val_cfg=dict(),
        test_cfg=dict(),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.0)),
        val_evaluator=[Weight()],
        test_evaluator=[Weight()],
        custom_hooks=[DualEMAHook(momentum=0.25)],
        experiment_name=tmp_path.name,
    )


def test_both_are_validated_and_one_is_tested(runner, tmp_path):
    """Weights 1, 2, 3, 4 have the averages 1, 1.25, 1.6875, 2.265625."""
    runner.train()
    logged = runner.message_hub.log_scalars
    assert logged['val/weight'].current() == 2.265625
    assert logged['val/weight_origin'].current() == 4
    runner.load_checkpoint(str(tmp_path / 'epoch_2.pth'))
    assert runner.test() == dict(weight=2.265625)
    assert 'test/weight_origin' not in logged
    assert runner.model.weight.item() == 4


def test_file_that_is_a_state_dict_by_itself(runner, tmp_path):
    torch.save(dict(weight=torch.full((1,), 7.0)), tmp_path / 'released.pth')
    runner.load_checkpoint(str(tmp_path / 'released.pth'))
    assert runner.test() == dict(weight=7)
