"""Released and timm's files in mmpretrain, mmdet and mmseg: the same network as timm's.

The files hold timm's network with random weights, in every layout they come in.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import load_checkpoint
from PIL import Image

from mmghostnetv2 import config_path

from .conftest import with_counters
from .test_models.conftest import randomise

pytest.importorskip('timm', reason='the peer of these tests')
pytest.importorskip('mmpretrain', reason='needs mmpretrain')
import mmpretrain
import timm
from mmpretrain import ImageClassificationInferencer, get_model, list_models

CONFIG = config_path('ghostnetv2_100_in1k')
NAME = 'ghostnetv2-100_3rdparty_in1k'


def released_file(peer, path):
    torch.save({'state_dict': with_counters(peer.state_dict()), 'epoch': 450}, path)


def make_peer(name):
    """Build timm's network with random weights and the statistics of their features.

    With other running statistics the logits would hardly depend on the picture.
    """
    torch.manual_seed(0)
    peer = randomise(timm.create_model(name)).train()
    for module in peer.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain average
    with torch.no_grad():
        peer(torch.randn(8, 3, 64, 64))
    return peer.eval()


@pytest.fixture(scope='module')
def peer():
    return make_peer('ghostnetv2_100')


def assert_same_logits(model, peer, tolerance=1e-5):
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = peer(images)
        logits = model(images)
    assert (expected[0] - expected[1]).abs().max() > 0.1  # the images matter
    torch.testing.assert_close(logits, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize('name', [f'ghostnetv2_{width}' for width in (100, 130, 160)])
def test_hub(name, served, tmp_path):
    """By both names; the file in the link is the one of the same width."""
    peer = make_peer(name)
    released_file(peer, tmp_path / f'ck_ghostnetv2_{name[-3:-1]}.pth.tar')
    here = (r'https://.*/', served)
    names = list_models(name.replace('_', '[-_]'))
    assert names == [f'{name.replace("_", "-")}_3rdparty_in1k', f'{name}_in1k']
    for entry in names:
        model = get_model(entry, pretrained=True, url_mapping=here)
        assert_same_logits(model, peer)


@pytest.mark.parametrize('model', [CONFIG, NAME], ids=['path', 'name'])
def test_url(model, peer, served, tmp_path):
    released_file(peer, tmp_path / 'ck_ghostnetv2_10.pth.tar')
    url = served + 'ck_ghostnetv2_10.pth.tar'
    assert_same_logits(get_model(model, pretrained=url), peer)


def test_v1(served, tmp_path):
    peer = make_peer('ghostnet_100')
    torch.save(with_counters(peer.state_dict()), tmp_path / 'state_dict_73.98.pth')
    for entry in ('ghostnet-100_3rdparty_in1k', 'ghostnet_100_in1k'):
        mapping = (r'https://.*/', served)
        model = get_model(entry, pretrained=True, url_mapping=mapping)
        assert_same_logits(model, peer)


def test_v3(served, tmp_path):
    """The averaged weights, beside raw ones; and timm's file for the deployed form."""
    peer = make_peer('ghostnetv3_100')
    weights = {
        re.sub(r'(_rpr_.*)bn1', r'\1bn', key): value
        for key, value in with_counters(peer.state_dict()).items()
    }
    raw = {key: 2 * value for key, value in weights.items()}
    checkpoint = {'state_dict': raw, 'state_dict_ema': weights}
    torch.save(checkpoint, tmp_path / 'ghostnetv3-1.0.pth.tar')
    mapping = (r'https://.*/', served)
    for entry in ('ghostnetv3-100_3rdparty_in1k', 'ghostnetv3_100_in1k'):
        model = get_model(entry, pretrained=True, url_mapping=mapping)
        assert_same_logits(model, peer)
    torch.save(peer.state_dict(), tmp_path / 'timm.pth')
    deployed = get_model(
        'ghostnetv3_100_in1k',
        pretrained=str(tmp_path / 'timm.pth'),
        backbone=dict(deploy=True),
    )
    # The folded weights are rounded, not those that the peer has.
    assert_same_logits(deployed, peer, tolerance=1e-4)


LAYOUTS = {
    'plain': lambda w: w,
    'module': lambda w: {'state_dict': {f'module.{k}': v for k, v in w.items()}},
    'EMA': lambda w: {'state_dict_ema': w},
    'EMA beside raw weights': lambda w: {
        'state_dict': {k: 2 * v for k, v in w.items()},
        'state_dict_ema': w,
    },
}


@pytest.mark.parametrize('layout', list(LAYOUTS))
def test_layouts(layout, peer, tmp_path):
    path = tmp_path / 'checkpoint.pth.tar'
    torch.save(LAYOUTS[layout](with_counters(peer.state_dict())), path)
    model = get_model(CONFIG)
    load_checkpoint(model, str(path), strict=True)
    assert_same_logits(model, peer)


def test_safetensors(peer, tmp_path):
    safetensors = pytest.importorskip('safetensors.torch', reason="timm's format")
    path = tmp_path / 'model.safetensors'
    safetensors.save_file(peer.state_dict(), path)
    assert_same_logits(get_model(NAME, pretrained=str(path)), peer)


@pytest.mark.parametrize('strangers', ['neck.weight', 'ema_conv_stem.weight'])
def test_other_files_are_left_alone(strangers, peer, tmp_path):
    """Own checkpoints, for example; what does not fit is an error where strict."""
    model = get_model(CONFIG)
    weights = model.state_dict() | {strangers: torch.ones(1)}
    torch.save(weights, tmp_path / 'other.pth')
    with pytest.raises(RuntimeError, match=f'unexpected key.*{strangers}'):
        load_checkpoint(model, str(tmp_path / 'other.pth'), strict=True)


def test_fine_tuning_with_other_classes(peer, tmp_path, capsys):
    """All but the last layer is loaded, and the log names that layer."""
    released_file(peer, tmp_path / 'ck_ghostnetv2_10.pth.tar')
    options = dict(head=dict(num_classes=10, topk=(1,)))
    torch.manual_seed(2)
    untouched = get_model(CONFIG, **options).head.fc.fc.weight
    torch.manual_seed(2)
    path = str(tmp_path / 'ck_ghostnetv2_10.pth.tar')
    model = get_model(CONFIG, pretrained=path, **options)
    assert torch.equal(model.head.fc.fc.weight, untouched)
    assert 'size mismatch for head.layers.1.fc.weight' in capsys.readouterr().out
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        hidden = model.head.pre_logits(model.extract_feat(images))
        expected = peer.forward_head(peer.forward_features(images), pre_logits=True)
    torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-5)


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    """Smooth random pictures in ImageNet's layout, and where they lie."""
    root = tmp_path_factory.mktemp('imagenet')
    (root / 'val').mkdir()
    rng = np.random.default_rng(0)
    paths = []
    for i, size in enumerate([(300, 400), (400, 300), (256, 256), (512, 341)]):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        paths.append(root / 'val' / f'{i}.png')
        coarse.resize(size, Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def timm_scores(peer, paths):
    """What timm's own evaluation gives, with its transform, shape (N, 1000)."""
    transform = timm.data.create_transform(
        **timm.data.resolve_data_config(model=peer, verbose=False)
    )
    images = torch.stack([transform(Image.open(path)) for path in paths])
    with torch.no_grad():
        return peer(images).softmax(1)


def test_inferencer(peer, pictures, served, tmp_path):
    released_file(peer, tmp_path / 'ck_ghostnetv2_10.pth.tar')
    inferencer = ImageClassificationInferencer(
        NAME, device='cpu', url_mapping=(r'https://.*/', served)
    )
    results = inferencer([str(path) for path in pictures], batch_size=2)
    expected = timm_scores(peer, pictures)
    for result, scores in zip(results, expected, strict=True):
        np.testing.assert_allclose(result['pred_scores'], scores, rtol=1e-3, atol=1e-6)
        assert result['pred_label'] == scores.argmax()
        assert isinstance(result['pred_class'], str)


def test_mmpretrain_tests_them(run_script, peer, pictures, served, tmp_path):
    """Two pictures labelled as timm sees them, one as its third guess, one wrongly."""
    released_file(peer, tmp_path / 'ck_ghostnetv2_10.pth.tar')
    ranking = timm_scores(peer, pictures).argsort(1, descending=True)
    labels = [ranking[i, rank].item() for i, rank in enumerate((0, 2, 0, 999))]
    root = pictures[0].parents[1]
    (root / 'meta').mkdir()
    (root / 'meta' / 'val.txt').write_text(
        ''.join(
            f'{path.name} {label}\n'
            for path, label in zip(pictures, labels, strict=True)
        )
    )
    output = run_script(
        Path(mmpretrain.__file__).with_name('.mim') / 'tools' / 'test.py', CONFIG,
        served + 'ck_ghostnetv2_10.pth.tar', '--work-dir', tmp_path,
        '--cfg-options', f'test_dataloader.dataset.data_root={root}',
        'test_dataloader.num_workers=0', 'test_dataloader.persistent_workers=False',
    )  # fmt: skip
    assert 'accuracy/top1: 50.0000  accuracy/top5: 75.0000' in output


@pytest.mark.parametrize(
    ('library', 'config'),
    [('mmdet', 'yolov3_ghostnetv2_320'), ('mmseg', 'fpn_ghostnetv2_ade20k')],
)
def test_backbone_of_other_libraries(library, config, peer, served, tmp_path):
    """Also with the prefix that files of one's own training need."""
    models = pytest.importorskip(
        f'{library}.registry', reason=f'needs {library}'
    ).MODELS
    released_file(peer, tmp_path / 'ck_ghostnetv2_10.pth.tar')
    model = Config.fromfile(config_path(config)).model
    model.backbone.init_cfg = dict(
        type='Pretrained',
        checkpoint=served + 'ck_ghostnetv2_10.pth.tar',
        prefix='backbone.',
    )
    network = models.build(model)
    network.init_weights()
    weights = network.backbone.state_dict()
    assert len(weights) > 500
    for key, value in weights.items():
        assert torch.equal(value, peer.state_dict()[key]), key
