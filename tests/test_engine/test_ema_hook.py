"""The average of the weights: both validated, the average alone tested."""

import pytest
import torch
from torch import nn

pytest.importorskip('mmpretrain', reason='the hook is an extension of its own')
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner

import mmghostnetv2  # noqa: F401  registers the hook


class Model(BaseModel):
    """One weight, to which gradient descent at rate 1 adds one in each step."""

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


def build_runner(tmp_path, load_from=None):
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
        custom_hooks=[dict(type='DualEMAHook', momentum=0.25)],
        load_from=load_from and str(tmp_path / load_from),
        experiment_name=f'{tmp_path.name} {load_from}',
    )


def test_both_are_validated_and_one_is_tested(tmp_path):
    """Weights 1, 2, 3, 4 have the averages 1, 1.25, 1.6875, 2.265625."""
    runner = build_runner(tmp_path)
    runner.train()
    logged = runner.message_hub.log_scalars
    assert logged['val/weight'].current() == 2.265625
    assert logged['val/weight_origin'].current() == 4
    runner = build_runner(tmp_path, 'epoch_2.pth')
    assert runner.test() == dict(weight=2.265625)
    assert 'test/weight_origin' not in runner.message_hub.log_scalars
    assert runner.model.weight.item() == 4


def test_file_that_is_a_state_dict_by_itself(tmp_path):
    torch.save(dict(weight=torch.full((1,), 7.0)), tmp_path / 'released.pth')
    assert build_runner(tmp_path, 'released.pth').test() == dict(weight=7)
