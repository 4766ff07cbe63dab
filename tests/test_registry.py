"""Both names of every type build under the default scope of every library."""

import subprocess
import sys
from importlib import import_module
from importlib.machinery import PathFinder

import mmcv
import pytest
from mmengine import registry as roots
from mmengine.registry import DefaultScope, Registry

import mmghostnetv2
from mmghostnetv2 import registry as own

KINDS = {
    'MODELS': {
        'CBAM',
        'CoordinateAttention',
        'DFCAttention',
        'GhostNet',
        'GhostNetSelfAttention',
        'GhostNetV2',
        'GhostNetV3',
        'MobileNetV2Attention',
        'PredictingSSDHead',
        'SqueezeExcite',
    },
    'HOOKS': {'ChannelsLastHook', 'DualEMAHook'},
    'OPTIMIZERS': {'RMSpropTF'},
    'OPTIM_WRAPPERS': {'GPUAmpOptimWrapper'},
    'PARAM_SCHEDULERS': {'TimmStepLR'},
    'RUNNERS': {'GlooRunner'},
}
CHILDREN = {
    kind: Registry(kind, parent=getattr(roots, kind), scope='somechild')
    for kind in KINDS
}
LIBRARIES = ['mmpretrain', 'mmdet', 'mmseg']


def registry_of(scope, kind='MODELS'):
    if scope == 'somechild':
        return CHILDREN[kind]
    if scope == 'mmengine':
        return getattr(roots, kind)
    module = pytest.importorskip(f'{scope}.registry', reason=f'needs {scope}')
    return getattr(module, kind)


@pytest.mark.parametrize('scope', [*LIBRARIES, 'somechild', 'mmengine'])
@pytest.mark.parametrize('cls', ['GhostNet', 'GhostNetV2'])
@pytest.mark.parametrize('prefix', ['', 'mmghostnetv2.'])
def test_builds_under_every_scope(scope, cls, prefix):
    registry = registry_of(scope)
    with DefaultScope.overwrite_default_scope(scope):
        network = registry.build(dict(type=prefix + cls, out_indices=(8,)))
    assert type(network) is getattr(mmghostnetv2.models, cls)


@pytest.mark.parametrize('scope', [*LIBRARIES, 'somechild', 'mmengine'])
@pytest.mark.parametrize('kind', KINDS)
def test_both_names_are_the_same_type(scope, kind):
    registry = registry_of(scope, kind)
    types = getattr(own, kind).module_dict
    assert KINDS[kind] <= types.keys()
    with DefaultScope.overwrite_default_scope(scope):
        for name, cls in types.items():
            assert registry.get(name) is registry.get(f'mmghostnetv2.{name}') is cls


@pytest.mark.parametrize('library', LIBRARIES)
@pytest.mark.parametrize('kind', KINDS)
def test_no_library_has_a_type_of_the_same_name(library, kind):
    """A bare name would build the library's own type."""
    registry = registry_of(library, kind)
    import_module(f'{library}.utils').register_all_modules(False)
    assert not registry.module_dict.keys() & getattr(own, kind).module_dict.keys()


def test_builds_by_own_registry():
    network = own.MODELS.build(dict(type='GhostNet'))
    assert type(network) is mmghostnetv2.models.GhostNet


def test_unknown_name_is_refused():
    with pytest.raises(KeyError, match='GhostNetV9'):
        roots.MODELS.build(dict(type='mmghostnetv2.GhostNetV9'))


@pytest.mark.parametrize(
    ('library', 'kind', 'cfg'),
    [
        ('mmpretrain', 'HOOKS', dict(type='DualEMAHook')),
        (
            'mmpretrain',
            'MODELS',
            dict(type='MobileNetV2Attention', attention=dict(type='DFCAttention')),
        ),
        ('mmdet', 'MODELS', dict(type='GhostNetV2')),
        ('mmseg', 'MODELS', dict(type='CBAM', in_channels=8, ratio=0.5)),
    ],
    ids=['lazy hook', 'lazy network', 'network', 'layer'],
)
def test_prefixed_name_needs_no_custom_imports(
    library, kind, cfg, run_script, tmp_path
):
    """In a process that never imported the package."""
    registry_of(library)
    if library != 'mmpretrain' and not PathFinder.find_spec('mmcv._ext', mmcv.__path__):
        pytest.skip(f'{library} cannot be imported first without operators')
    prefixed = dict(cfg, type=f'mmghostnetv2.{cfg["type"]}')
    script = tmp_path / 'build.py'
    script.write_text(
        'import sys\n'
        f'from {library}.registry import {kind}\n'
        'assert "mmghostnetv2" not in sys.modules\n'
        f'print(type({kind}.build({prefixed!r})).__name__)'
    )
    assert run_script(script).split()[-1] == cfg['type']


def test_backbone_needs_no_compiled_ops():
    """With mmcv-lite, which has no mmcv.ops and no mmcv._ext."""
    code = (
        'import sys\n'
        'for name in ("mmcv.ops", "mmcv._ext", "mmdet", "mmseg", "mmpretrain",'
        ' "torchvision"):\n'
        '    sys.modules[name] = None\n'
        'import torch, mmghostnetv2\n'
        'network = mmghostnetv2.models.GhostNetV2()\n'
        'print(network(torch.rand(2, 3, 32, 32))[0].shape)'
    )
    run = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=False
    )
    assert 'torch.Size([2, 960, 1, 1])' in run.stdout, run.stderr
