"""What importing the package says when the environment does not suit it."""

import subprocess
import sys
import types

import pytest

import mmghostnetv2
from mmghostnetv2 import models


def test_public_names():
    """The networks and layers are names of the package, too."""
    assert mmghostnetv2.GhostNetV2 is models.ghostnetv2.GhostNetV2
    assert {*models.__all__, 'init_model', 'list_configs'} <= {*mmghostnetv2.__all__}
    for name in mmghostnetv2.__all__:
        getattr(mmghostnetv2, name)


@pytest.mark.parametrize('name', list(mmghostnetv2.MINIMUM_VERSIONS))
def test_missing_library(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=f'needs {name}.*pip install "{name}>='):
        mmghostnetv2._check_dependencies()


@pytest.mark.parametrize(
    ('name', 'version'),
    [('torch', '2.5.1+cpu'), ('mmengine', '0.9.1'), ('mmcv', '1.7')],
)
def test_old_library(name, version, monkeypatch):
    monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(__version__=version))
    with pytest.raises(ImportError, match=f'found {version.split("+")[0]}'):
        mmghostnetv2._check_dependencies()


@pytest.mark.parametrize(
    ('name', 'version'),
    [('torch', '2.10.0+cu130'), ('torch', '2.14.0a0'), ('mmcv', '2.3.6')],
)
def test_newer_library_or_fork(name, version, monkeypatch):
    monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(__version__=version))
    mmghostnetv2._check_dependencies()


@pytest.mark.parametrize(
    ('mmengine', 'has_pkg_resources', 'warns'),
    [('0.10.7', False, True), ('0.10.7', True, False), ('0.10.12', False, False)],
)
def test_pkg_resources(mmengine, has_pkg_resources, warns, monkeypatch, recwarn):
    monkeypatch.setitem(
        sys.modules, 'mmengine', types.SimpleNamespace(__version__=mmengine)
    )
    monkeypatch.setattr(
        mmghostnetv2, 'find_spec', lambda name: object() if has_pkg_resources else None
    )
    mmghostnetv2._check_dependencies()
    said = [str(w.message) for w in recwarn if 'setuptools<81' in str(w.message)]
    assert bool(said) == warns


def test_garbage_collection_stays_on_or_off():
    """Also if the import fails."""
    code = """if True:
        import gc, sys
        sys.modules['mmcv'] = None
        try:
            import mmghostnetv2
        except ImportError:
            assert gc.isenabled()
        gc.disable()
        del sys.modules['mmcv']
        import mmghostnetv2
        assert not gc.isenabled()
    """
    subprocess.run([sys.executable, '-c', code], check=True)
