"""tools/model_converters/reparameterize_model.py, by the libraries' own inference."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmghostnetv2 import config_path, init_model
from mmghostnetv2.analysis import randomize_norms
from mmghostnetv2.analysis.networks import fix_regions
from mmghostnetv2.deployment.runtimes import flatten

from ..conftest import ROOT
from .conftest import load_tool

TOOL = ROOT / 'tools' / 'model_converters' / 'reparameterize_model.py'
# an untrained network amplifies rounding on other images than its norms have seen,
# which are noise from 0 to 1
PREPROCESSOR = {'mean': [0.0, 0.0, 0.0], 'std': [255.0, 255.0, 255.0]}


@pytest.fixture(scope='module')
def tool():
    return load_tool(TOOL)


@pytest.fixture
def trained(tmp_path):
    """Return a config's path and a checkpoint as after a training of it."""

    def make(name: str, classes, **cfg_options):
        cfg = Config.fromfile(config_path(name))
        # mmdet's and mmseg's models have it, mmpretrain adds it to its own
        prefix = 'model.' if 'data_preprocessor' in cfg.model else ''
        options = {
            f'{prefix}data_preprocessor.{key}': value
            for key, value in PREPROCESSOR.items()
        }
        cfg.merge_from_dict({**options, **cfg_options})
        torch.manual_seed(0)
        model = randomize_norms(fix_regions(init_model(cfg)))
        path, weights = tmp_path / 'source.py', tmp_path / 'source.pth'
        cfg.dump(path)
        meta = {'epoch': 3, 'dataset_meta': {'classes': classes}, 'cfg': 'old = 1'}
        torch.save({'meta': meta, 'state_dict': model.state_dict()}, weights)
        return str(path), str(weights)

    return make


@pytest.fixture
def folded(tool, tmp_path):
    """Run the tool; return the paths of what it wrote."""

    def run(config, checkpoint):
        out = tmp_path / 'new' / 'folded.pth'
        tool.main([config, checkpoint, '--out', str(out)])
        return str(out.with_suffix('.py')), str(out)

    return run


def check_files(source, result, classes):
    """Weights fit and are read back; nothing is left to fold; the rest is kept."""
    cfg, checkpoint = Config.fromfile(result[0]), torch.load(result[1])
    assert checkpoint['meta'] == {
        'epoch': 3,
        'dataset_meta': {'classes': classes},
        'cfg': cfg.pretty_text,
    }
    old = Config.fromfile(source[0])
    assert (cfg.model.type, cfg.model.base) == ('mmghostnetv2.Folded', old.model.type)
    assert 'init_cfg' not in cfg.model.backbone
    assert cfg.test_pipeline == old.test_pipeline
    model = init_model(*result)
    state = model.state_dict()
    assert state.keys() == checkpoint['state_dict'].keys()
    for key, value in checkpoint['state_dict'].items():
        assert torch.equal(state[key], value) and value.dtype != torch.float64
    return model


def assert_close(actual, expected, tolerance=1e-4):
    """Compare within a share of the largest value."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


def has_norms(model):
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def test_classifier(trained, folded, coco_mini):
    apis = pytest.importorskip('mmpretrain.apis', reason='needs mmpretrain')
    classes = tuple(f'class {i}' for i in range(1000))
    source = trained('ghostnetv2_100_in1k', classes)
    result = folded(*source)
    assert not has_norms(check_files(source, result, classes))
    image = str(min((coco_mini / 'val2017').iterdir()))
    old, new = (
        apis.ImageClassificationInferencer(*files, device='cpu')(image)[0]
        for files in (source, result)
    )
    assert_close(new['pred_scores'], old['pred_scores'])
    assert np.ptp(old['pred_scores']) > 1e-5
    assert new['pred_class'] == old['pred_class']


def run_test(config, checkpoint, data, out):
    """Test as `mim test mmdet` does; return the predictions of three images."""
    cfg = Config.fromfile(config)
    cfg.work_dir, cfg.load_from = str(out.parent), checkpoint
    cfg.test_dataloader.dataset.update(
        data_root=f'{data}/',
        ann_file='annotations/instances_val2017.json',
        indices=3,
    )
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False, batch_size=2)
    cfg.test_evaluator = dict(type='DumpDetResults', out_file_path=str(out))
    Runner.from_cfg(cfg).test()
    return pickle.loads(out.read_bytes())


def assert_same_detections(actual, expected):
    """Each has its counterpart: label, score within 5e-4, box within 0.05 pixels.

    Among nearly equal scores rounding decides about the order, and which is the last.
    """
    new, old = (
        np.column_stack(
            [
                np.multiply(detections['labels'], 100),
                np.multiply(detections['scores'], 100),
                detections['bboxes'],
            ]
        )
        for detections in (actual, expected)
    )
    assert len(new) == len(old) > 10
    distances = np.abs(new[:, None] - old).max(-1).min(0)
    assert (distances < 0.05).mean() > 0.97


def test_detector(trained, folded, coco_mini, tmp_path):
    apis = pytest.importorskip('mmdet.apis', reason='needs mmdet')
    classes = tuple(f'class {i}' for i in range(80))
    source = trained('yolov3_ghostnetv2_320', classes)
    result = folded(*source)
    assert not has_norms(check_files(source, result, classes))
    image = str(min((coco_mini / 'val2017').iterdir()))
    new, old = (
        apis.DetInferencer(*files, device='cpu')(image)['predictions'][0]
        for files in (result, source)
    )
    assert_same_detections(new, old)

    new, old = (
        run_test(*files, coco_mini, tmp_path / f'{number}.pkl')
        for number, files in enumerate((result, source))
    )
    assert len(new) == len(old) == 3
    for ours, theirs in zip(new, old, strict=True):
        assert_same_detections(ours['pred_instances'], theirs['pred_instances'])


def test_segmentor(trained, folded, coco_mini):
    apis = pytest.importorskip('mmseg.apis', reason='needs mmseg')
    classes = tuple(f'class {i}' for i in range(150))
    size = {'model.data_preprocessor.size': (128, 128)}
    source = trained('deeplabv3_ghostnetv2_ade20k', classes, **size)
    result = folded(*source)
    model = check_files(source, result, classes)
    assert not has_norms(model) and not model.with_auxiliary_head
    image = str(min((coco_mini / 'val2017').iterdir()))
    new, old = (
        apis.MMSegInferencer(*files, device='cpu')(image)['predictions']
        for files in (result, source)
    )
    assert (new == old).mean() > 0.999
    assert len(np.unique(old)) > 3


def test_convolutions_with_a_norm_for_each_level(trained, folded):
    """RTMDet's head applies the same ones on all levels, each with other norms."""
    pytest.importorskip('mmdet', reason='needs mmdet')
    source = trained('rtmdet-tiny_ghostnetv3_coco', ('one',))
    model = check_files(source, folded(*source), ('one',))
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        new, old = model(image), init_model(*source)(image)
    for ours, theirs in zip(flatten(new), flatten(old), strict=True):
        assert_close(ours, theirs)
    first, second = (model.bbox_head.cls_convs[i][0].conv.weight for i in (0, 1))
    assert not torch.equal(first, second)


def test_two_stages(tool, trained):
    """Also what both stages compute from given regions is compared."""
    pytest.importorskip('mmdet', reason='needs mmdet')
    config, _ = trained('mask-rcnn_ghostnetv2_fpn_coco', ('one',))
    first_stage, second_stage = tool.fix_regions(init_model(config), 7)(
        torch.rand(2, 3, 64, 64)
    )
    assert [len(part) for part in first_stage] == [5, 5]
    scores, boxes, masks = second_stage
    assert scores.shape == (14, 81) and boxes.shape == (14, 320)
    assert masks.shape == (14, 80, 28, 28)


@MODELS.register_module()
class NormBefore(nn.Module):
    """Its norm is registered behind the convolution that comes after it."""

    def __init__(self, backbone, **kwargs):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.conv(self.norm(x))


def test_what_does_not_fold_is_refused(tool, tmp_path):
    config, weights = tmp_path / 'a.py', tmp_path / 'a.pth'
    config.write_text("model = dict(type='NormBefore', backbone=dict())")
    torch.manual_seed(0)
    model = NormBefore({})
    torch.save(model.state_dict(), weights)
    out = tmp_path / 'new' / 'out.pth'
    # as it starts the norm scales by 1, and only where the image ends it matters
    model.norm.bias.data.fill_(1)
    torch.save(model.state_dict(), weights)
    with pytest.raises(RuntimeError, match='output 0 .* differs .* by'):
        tool.main([str(config), str(weights), '--out', str(out)])
    assert not out.parent.exists()


def test_bad_checkpoints_are_named(tool, trained, tmp_path):
    config, weights = trained('ghostnetv2_100_in1k', ())
    lacking = torch.load(weights)['state_dict']
    lacking.pop('backbone.bn1.weight')
    for name, content in (('a list', [1]), ('lacking', lacking)):
        torch.save(content, tmp_path / name)
    damaged = Path(weights).read_bytes()
    (tmp_path / 'damaged').write_bytes(damaged[: len(damaged) // 2])
    out = tmp_path / 'new' / 'out.pth'
    for name, message in {
        'a list': 'a list holds no state dict',
        'lacking': r'lacking belongs to a different .*\(backbone.bn1.weight\)',
        'damaged': 'cannot read weights from .*damaged',
        'none': r'none can not be found',
    }.items():
        with pytest.raises((RuntimeError, OSError, ValueError), match=message):
            tool.main([config, str(tmp_path / name), '--out', str(out)])
    assert not out.parent.exists()


def test_bad_arguments_are_named(tool, trained, folded, tmp_path):
    source = trained('ghostnetv2_100_in1k', ())
    config, weights = folded(*source)

    def fails(config, checkpoint, out, *options):
        argv = [config, checkpoint, '--out', str(out), *options]
        with pytest.raises((RuntimeError, OSError, ValueError)) as info:
            tool.main(argv)
        return str(info.value)

    again = tmp_path / 'again.pth'
    bad = tmp_path / 'bad.py'
    bad.write_text('model = dict(')
    assert f'{bad}: SyntaxError' in fails(str(bad), source[1], again)
    assert f'{bad} is not a folder' in fails(*source, bad / 'a.pth')
    Path(weights).unlink()
    assert f'{config} exists; --force' in fails(*source, weights)
    tool.main([*source, '--out', weights, '--force'])
    assert 'folded already' in fails(config, weights, again)
