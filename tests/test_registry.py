"""Both names build under the default scope of every library."""

import subprocess
import sys

import pytest
from mmengine.registry import MODELS, DefaultScope, Registry

import mmghostnetv2
from mmghostnetv2.registry import MODELS as OWN_MODELS

CHILD = Registry('child model', parent=MODELS, scope='somechild')


def registry_of(scope):
    if scope == 'somechild':
        return CHILD
    if scope == 'mmengine':
        return MODELS
    return pytest.importorskip(f'{scope}.registry', reason=f'needs {scope}').MODELS


@pytest.mark.parametrize(
    'scope', ['mmpretrain', 'mmdet', 'mmseg', 'somechild', 'mmengine']
)
@pytest.mark.parametrize('cls', ['GhostNet', 'GhostNetV2'])
@pytest.mark.parametrize('prefix', ['', 'mmghostnetv2.'])
def test_builds_under_every_scope(scope, cls, prefix):
    registry = registry_of(scope)
    with DefaultScope.overwrite_default_scope(scope):
        network = registry.build(dict(type=prefix + cls, out_indices=(8,)))
    assert type(network) is getattr(mmghostnetv2.models, cls)


def test_builds_by_own_registry():
    assert type(OWN_MODELS.build(dict(type='GhostNet'))) is mmghostnetv2.models.GhostNet


def test_unknown_name_is_refused():
    with pytest.raises(KeyError, match='GhostNetV9'):
        MODELS.build(dict(type='mmghostnetv2.GhostNetV9'))


@pytest.mark.parametrize('scope', ['mmpretrain', 'mmdet', 'mmseg'])
def test_prefixed_name_needs_no_custom_imports(scope):
    """In a fresh process that never imported the package."""
    registry_of(scope)
    code = (
        f'from {scope}.registry import MODELS\n'
        'print(type(MODELS.build(dict(type="mmghostnetv2.GhostNetV2"))))'
    )
    run = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=False
    )
    assert "'mmghostnetv2.models.ghostnetv2.GhostNetV2'" in run.stdout, run.stderr


def test_backbone_needs_no_compiled_ops():
    """With mmcv-lite, which has no mmcv.ops and no mmcv._ext."""
    code = (
        'import sys\n'
        'for name in ("mmcv.ops", "mmcv._ext", "mmdet", "mmseg", "mmpretrain"):\n'
        '    sys.modules[name] = None\n'
        'import torch, mmghostnetv2\n'
        'network = mmghostnetv2.models.GhostNetV2()\n'
        'print(network(torch.rand(2, 3, 32, 32))[0].shape)'
    )
    run = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=False
    )
    assert 'torch.Size([2, 960, 1, 1])' in run.stdout, run.stderr
