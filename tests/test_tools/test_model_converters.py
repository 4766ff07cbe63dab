"""Converting and publishing weights, against timm and a real training's checkpoint."""

import hashlib
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner

from mmghostnetv2 import config_path
from mmghostnetv2.models import GhostNet, GhostNetV2

from ..conftest import ROOT, with_counters
from ..test_models.conftest import randomise
from .conftest import load_tool

pytest.importorskip('mmpretrain', reason='needs mmpretrain')
pytest.importorskip('timm', reason='the peer of these tests')
import timm
from mmpretrain import get_model
from mmpretrain.structures import DataSample

TOOLS = ROOT / 'tools' / 'model_converters'
CONVERTER = 'ghostnetv2_to_mmpretrain.py'
CLASSES = 7


@pytest.fixture
def run(capsys):
    """Run a tool on a file, to write another one; return what it printed."""

    def main(name, src, out, *args):
        load_tool(TOOLS / name).main([str(src), '--out', str(out), *args])
        return capsys.readouterr().out

    return main


@pytest.fixture(params=['ghostnetv2_100'])
def peer(request):
    """timm's network, which knows the released layout only."""
    torch.manual_seed(0)
    return randomise(timm.create_model(request.param, num_classes=CLASSES)).eval()


@pytest.fixture
def src(peer, tmp_path):
    path = tmp_path / 'released.pth.tar'
    torch.save({'state_dict': with_counters(peer.state_dict())}, path)
    return path


@pytest.mark.parametrize(
    ('peer', 'backbone'),
    [
        ('ghostnet_100', dict(type='GhostNet', widen_factor=1.0)),
        ('ghostnetv2_130', dict(type='GhostNetV2', widen_factor=1.3)),
        ('ghostnetv3_050', dict(type='GhostNetV3', widen_factor=0.5)),
    ],
    indirect=['peer'],
)
def test_there_and_back(peer, backbone, src, run, tmp_path):
    own, back = tmp_path / 'new' / 'own.pth', tmp_path / 'back.pth'
    run(CONVERTER, src, own)
    weights = torch.load(own)['state_dict']
    config = Config.fromfile(config_path('ghostnetv2_100_in1k'))
    config.model.backbone = backbone
    config.model.head.num_classes = CLASSES
    config.model.head.in_channels = peer.conv_head.in_channels
    network = get_model(config)
    assert weights.keys() == network.state_dict().keys()
    network.load_state_dict(weights, strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(images), peer(images), rtol=0, atol=1e-5)

    run(CONVERTER, own, back, '--reverse')
    returned = torch.load(back)['state_dict']
    if 'V3' in backbone['type']:  # timm renames the authors' norms of branches
        returned = timm.models.ghostnet.checkpoint_filter_fn(returned, peer)
    assert returned.keys() == peer.state_dict().keys()
    assert all(torch.equal(v, returned[k]) for k, v in peer.state_dict().items())


@pytest.mark.parametrize(
    ('cls', 'width'), [(GhostNet, 1.1), (GhostNetV2, 0.35), (GhostNetV2, 1.0)]
)
def test_any_network(cls, width, run, tmp_path):
    """The width is found; 1.0x and 1.1x, for example, have stems of the same size."""
    backbone = cls(width)
    (channels,) = backbone.out_channels
    head = {
        'conv_head.weight': torch.rand(12, channels, 1, 1),
        'conv_head.bias': torch.rand(12),
        'classifier.weight': torch.rand(3, 12),
        'classifier.bias': torch.rand(3),
    }
    torch.save(backbone.state_dict() | head, tmp_path / 'plain.pth')
    run(CONVERTER, tmp_path / 'plain.pth', tmp_path / 'own.pth')
    assert len(torch.load(tmp_path / 'own.pth')['state_dict']) == 4 + len(
        backbone.state_dict()
    )


def test_it_overwrites_by_force_alone(src, run):
    before = src.read_bytes()
    with pytest.raises(FileExistsError, match='released.pth.tar exists; --force'):
        run(CONVERTER, src, src)
    assert src.read_bytes() == before
    run(CONVERTER, src, src, '--force')
    assert 'backbone.conv_stem.weight' in torch.load(src)['state_dict']


def without(part):
    return lambda w: {k: v for k, v in w.items() if part not in k}


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (without('classifier.weight'), 'classifier.weight'),
        (without('blocks.6.4.ghost2'), r'lacks 10 parameters, such as blocks\.6\.4\.'),
        (without('conv_stem'), 'has no conv_stem.weight: not a GhostNet'),
        (lambda w: w | {'neck.weight': torch.ones(1)}, 'no backbone.neck.weight'),
        (lambda w: w | {'bn1.bias': torch.ones(9)}, r'size mismatch for bn1\.bias'),
        (lambda w: w | {'bn1.bias': w['bn1.bias'] * torch.nan}, 'logits differ'),
        (lambda w: {f'backbone.{k}': v for k, v in w.items()}, 'wrong direction'),
    ],
)
def test_bad_source(damage, message, peer, run, tmp_path):
    torch.save(damage(peer.state_dict()), tmp_path / 'odd.pth')
    with pytest.raises(ValueError, match=rf'odd\.pth [^\0]*{message}'):
        run(CONVERTER, tmp_path / 'odd.pth', tmp_path / 'out.pth')
    assert not (tmp_path / 'out.pth').exists()


def test_missing_source(run, tmp_path):
    with pytest.raises(FileNotFoundError, match='none.pth'):
        run(CONVERTER, tmp_path / 'none.pth', tmp_path / 'out.pth')


# ---- publishing


class Digits(torch.utils.data.Dataset):
    METAINFO = dict(classes=('zero', 'one'))
    metainfo = METAINFO

    def __len__(self):
        return 2

    def __getitem__(self, index):
        image = torch.full((3, 32, 32), 100 * index, dtype=torch.uint8)
        return dict(inputs=image, data_samples=DataSample().set_gt_label(index))


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A checkpoint of two real epochs with a moving average; and its raw weights."""
    work_dir = tmp_path_factory.mktemp('training')
    cfg = Config.fromfile(config_path('ghostnetv2_100_in1k'))
    cfg.model.backbone.widen_factor = 0.1
    cfg.model.head.update(num_classes=2, in_channels=96, mid_channels=[8], topk=(1,))
    cfg.data_preprocessor = dict(type='ClsDataPreprocessor', num_classes=2)
    cfg.optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
    cfg.merge_from_dict(
        dict(
            work_dir=str(work_dir),
            train_cfg=dict(max_epochs=2, val_interval=9),
            train_dataloader=dict(
                batch_size=2, num_workers=0, persistent_workers=False
            ),
            default_hooks=dict(checkpoint=dict(save_best=None)),
            param_scheduler=None,
            experiment_name='test_publish',
        )
    )
    DATASETS.register_module('PublishDigits', force=True, module=Digits)
    cfg.train_dataloader.dataset = dict(type='PublishDigits')
    for part in ('val', 'test'):
        for key in ('dataloader', 'evaluator', 'cfg'):
            cfg[f'{part}_{key}'] = None
    runner = Runner.from_cfg(cfg)
    runner.train()
    return work_dir / 'epoch_2.pth', runner.model.state_dict()


def test_publish(trained, run, tmp_path):
    path, raw = trained
    before = torch.load(path)
    assert {'optimizer', 'message_hub', 'ema_state_dict'} <= before.keys()
    out = run('publish_model.py', path, tmp_path / 'zoo' / 'ghostnet.pth')
    (written,) = (tmp_path / 'zoo').iterdir()
    assert str(written) in out
    digits = hashlib.sha256(written.read_bytes()).hexdigest()[:8]
    assert written.name == f'ghostnet-{digits}.pth'
    assert written.stat().st_size < 0.6 * path.stat().st_size

    # another process, with nothing allowed beyond torch's own list
    code = f'import torch; print(*torch.load({str(written)!r}, weights_only=True))'
    read = subprocess.run(
        [sys.executable, '-c', code], check=True, capture_output=True, text=True
    )
    assert read.stdout.split() == ['meta', 'state_dict']
    after = torch.load(written)
    assert after['meta'] == before['meta']
    assert after['meta']['dataset_meta'] == Digits.METAINFO
    assert "type='GhostNetV2'" in after['meta']['cfg']
    weights = after['state_dict']
    average = before['ema_state_dict']  # where mmengine puts the raw weights
    assert weights.keys() == raw.keys()
    assert all(torch.equal(v, average[f'module.{k}']) for k, v in raw.items())
    assert not all(torch.equal(v, raw[k]) for k, v in weights.items())

    out_file = tmp_path / 'zoo' / 'ghostnet.pth'
    with pytest.raises(FileExistsError, match=f'{written} exists; --force'):
        run('publish_model.py', path, out_file)
    # the same content has the same name
    assert run('publish_model.py', path, out_file, '--force') == out


def test_publish_needs_a_training(run, tmp_path):
    torch.save({'conv_stem.weight': torch.ones(1)}, tmp_path / 'plain.pth')
    for name, message in [
        ('plain.pth', "plain.pth is not a checkpoint of .*: it has no 'meta'"),
        ('none.pth', 'none.pth'),
    ]:
        with pytest.raises((OSError, ValueError), match=message):
            run('publish_model.py', tmp_path / name, tmp_path / 'out.pth')
    assert not list(tmp_path.glob('out*'))
