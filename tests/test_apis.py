"""Configs by name and their models, and mmpretrain's hub, also where it is missing."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmghostnetv2 import apis, config_path, init_model, list_configs, paths
from mmghostnetv2.apis import read_config

from .conftest import ROOT


def test_names():
    names = list_configs()
    assert names == sorted(names)
    assert {'ghostnetv2_100_in1k', 'yolov3_ghostnetv2_320_digits'} <= {*names}
    assert not {'ghostnetv2_100_cls', 'imagenet_bs128_randaug'} & {*names}


@pytest.mark.parametrize('suffix', ['', '.py'])
def test_config_path(suffix):
    path = Path(config_path('yolov3_ghostnetv2_320_digits' + suffix))
    assert path.is_absolute()
    assert path == ROOT / 'configs' / 'digits' / 'yolov3_ghostnetv2_320_digits.py'


@pytest.mark.parametrize('name', ['ghostnetv2_10_in1k', 'ghostnetv2_100_in1k.pyc'])
def test_unknown_config(name):
    with pytest.raises(ValueError, match=f"'{name}'; .*: .*ghostnetv2_100_in1k"):
        config_path(name)


def test_nothing_like_it():
    with pytest.raises(ValueError, match=', '.join(list_configs())):
        config_path('zzz')


@pytest.mark.parametrize('home', ['', 'mmghostnetv2/.mim'], ids=['checkout', 'wheel'])
def test_where_configs_are_looked_for(home, tmp_path, monkeypatch):
    """In a bare checkout that is on the path, and in an installed package."""
    (tmp_path / 'mmghostnetv2').mkdir()
    monkeypatch.setattr(paths, '__file__', str(tmp_path / 'mmghostnetv2' / 'paths.py'))
    configs = tmp_path / home / 'configs'
    (configs / '_base_').mkdir(parents=True)
    (configs / 'here.py').touch()
    (configs / '_base_' / 'not_this.py').touch()
    assert list_configs() == ['here']
    assert config_path('here') == str(configs / 'here.py')


@pytest.fixture(scope='module')
def files(released, tmp_path_factory):
    """Released files of V1 and of V2, which differ in DFC attention alone."""
    pytest.importorskip('mmpretrain', reason='builds the classifiers')
    folder = tmp_path_factory.mktemp('files')
    v1 = {key: v for key, v in released.items() if 'short_conv' not in key}
    for name, weights in (('ghostnet', v1), ('ghostnetv2', released)):
        torch.save({'state_dict': weights}, folder / f'{name}.pth')
    return folder


@pytest.mark.parametrize('name', ['ghostnet', 'ghostnetv2'])
def test_model_of_a_released_file(name, files, released):
    path = str(files / f'{name}.pth')
    model = init_model(f'{name}_100_in1k', path)
    assert not model.training and model.cfg.model.type == 'ImageClassifier'
    weights = torch.load(path)['state_dict']
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, weights[key]), key
    assert torch.equal(model.head.fc.fc.weight, released['classifier.weight'])


@pytest.mark.parametrize(
    ('config', 'file', 'problem'),
    [
        ('ghostnet', 'ghostnetv2', r'lacks 0 parameters and has \d+ others'),
        ('ghostnetv2', 'ghostnet', r'lacks \d+ parameters'),
    ],
)
def test_model_of_a_different_network(config, file, problem, files):
    first = r'\(backbone.blocks.2.0.ghost1.short_conv.0.weight, '
    message = f'{file}.pth belongs to a different network: it {problem} {first}'
    with pytest.raises(ValueError, match=message):
        init_model(f'{config}_100_in1k', str(files / f'{file}.pth'))


def test_model_of_a_different_width(files):
    with pytest.raises(
        ValueError, match='different network or width: size mismatch for backbone.conv'
    ):
        init_model('ghostnetv2_130_in1k', str(files / 'ghostnetv2.pth'))


def run_python(script):
    return subprocess.check_output([sys.executable, script], text=True)


@pytest.mark.parametrize('mmpretrain_first', [True, False])
def test_hub_in_either_order_and_after_a_reload(mmpretrain_first, run_script, tmp_path):
    pytest.importorskip('mmpretrain', reason='needs mmpretrain')
    script = tmp_path / 'models.py'
    script.write_text(
        'import importlib, sys, warnings\n'
        f'assert ("mmpretrain" in sys.modules) == {mmpretrain_first}\n'
        'warnings.filterwarnings("error", "mmpretrain is")\n'
        'import mmghostnetv2, mmpretrain\n'
        'importlib.reload(mmghostnetv2)\n'
        'print(len(mmpretrain.list_models()), *mmpretrain.list_models("ghostnetv2-"))'
    )
    # The processes of run_script have imported mmpretrain already.
    printed = (run_script if mmpretrain_first else run_python)(script)
    count, *names = printed.splitlines()[-1].split()
    assert names == [f'ghostnetv2-{w}_3rdparty_in1k' for w in (100, 130, 160)]
    assert int(count) > 500  # mmpretrain's own are there, too


@pytest.fixture
def unloaded(monkeypatch):
    """As if mmpretrain had not been imported yet."""
    for name in [name for name in sys.modules if name.startswith('mmpretrain')]:
        monkeypatch.delitem(sys.modules, name)


def test_without_mmpretrain(unloaded, monkeypatch, recwarn):
    monkeypatch.setitem(sys.modules, 'mmpretrain', None)
    apis.register_models()
    assert not [w for w in recwarn if 'mmpretrain' in str(w.message)]


def test_broken_mmpretrain(unloaded, tmp_path, monkeypatch):
    """The package can be imported all the same, and the cause is told."""
    (tmp_path / 'mmpretrain.py').write_text('import torchvision_is_missing')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(UserWarning, match='list_models .*torchvision_is_missing'):
        apis.register_models()


def test_configs_of_other_libraries():
    """A config of mmdet is found by mmdet::FILE; a wrong name is an error."""
    mmdet = pytest.importorskip('mmdet')
    name = 'rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
    expected = Config.fromfile(Path(mmdet.__path__[0], '.mim', 'configs', name))
    assert read_config(f'mmdet::{name}').model == expected.model
    for name in 'mmdet::rtmdet/nope.py', 'nope::a/b.py', 'mmdet3d::a/b.py':
        with pytest.raises(ValueError, match=f'no config is named {name!r}: '):
            read_config(name)
