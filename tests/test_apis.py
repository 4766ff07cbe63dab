"""Configs by name, and the hub's models, also where something is missing."""

import subprocess
import sys
from pathlib import Path

import pytest

from mmghostnetv2 import apis, config_path, list_configs

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
    monkeypatch.setattr(apis, '__file__', str(tmp_path / 'mmghostnetv2' / 'apis.py'))
    configs = tmp_path / home / 'configs'
    (configs / '_base_').mkdir(parents=True)
    (configs / 'here.py').touch()
    (configs / '_base_' / 'not_this.py').touch()
    assert list_configs() == ['here']
    assert config_path('here') == str(configs / 'here.py')


@pytest.mark.parametrize(
    'first',
    ['import mmpretrain; mmpretrain.list_models()', 'import mmghostnetv2'],
    ids=['mmpretrain', 'mmghostnetv2'],
)
def test_hub_in_either_order_and_after_a_reload(first, tmp_path):
    pytest.importorskip('mmpretrain', reason='needs mmpretrain')
    code = (
        f'{first}\nimport importlib, mmghostnetv2, mmpretrain\n'
        'importlib.reload(mmghostnetv2)\n'
        'print(len(mmpretrain.list_models()), *mmpretrain.list_models("ghostnetv2-"))'
    )
    done = subprocess.run(
        [sys.executable, '-W', 'error:mmpretrain is', '-c', code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    count, *names = done.stdout.splitlines()[-1].split()
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
