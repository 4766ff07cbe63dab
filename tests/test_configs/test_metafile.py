"""What model-index.yml says of the models, and what mim needs of the configs."""

import functools
import re
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config

from mmghostnetv2 import config_path, list_configs
from mmghostnetv2.models import fold_norms

from ..conftest import ROOT
from ..test_models.test_complexity import count

CONFIGS = ROOT / 'configs'
METAFILES = sorted(CONFIGS.rglob('metafile.yml'))
INDEXES = {path: yaml.safe_load(path.read_text()) for path in METAFILES}
ENTRIES = {e['Name']: e for index in INDEXES.values() for e in index['Models']}
# paper, Table 2: millions of parameters and of FLOPs, top-1 accuracy; timm's top-1 of
# the same weights; the weights' address
RELEASES = 'https://github.com/huawei-noah/Efficient-AI-Backbones/'
V2 = f'{RELEASES}releases/download/GhostNetV2/ck_ghostnetv2_'
PAPER = {
    ('ghostnetv2', 100): (6.1, 167, 75.3, 75.186, f'{V2}10.pth.tar'),
    ('ghostnetv2', 130): (8.9, 269, 76.9, 76.746, f'{V2}13.pth.tar'),
    ('ghostnetv2', 160): (12.3, 399, 77.8, 77.836, f'{V2}16.pth.tar'),
    # Merged, as its authors count; the paper has no accuracy of this width.
    ('ghostnetv3', 100): (
        6.126,
        167,
        None,
        76.936,
        f'{RELEASES}releases/download/GhostNetV3/ghostnetv3-1.0.pth.tar',
    ),
    ('ghostnet', 100): (
        5.2,
        141,
        73.9,
        None,
        f'{RELEASES}raw/master/ghostnet_pytorch/models/state_dict_73.98.pth',
    ),
}

load_config = functools.cache(Config.fromfile)


def test_index_names_every_metafile():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert [ROOT / name for name in index['Import']] == METAFILES


def test_index_is_valid():
    load = pytest.importorskip(
        'modelindex.load_model_index', reason='comes with mmpretrain and openmim'
    ).load
    index = load(str(ROOT / 'model-index.yml'))
    assert index.check(silent=True) == []  # among others, that collections exist
    assert [model.name for model in index.models] == list(ENTRIES)


def test_collections_are_described_and_used():
    for index in INDEXES.values():
        used = {entry['In Collection'] for entry in index['Models']}
        assert {collection['Name'] for collection in index['Collections']} == used
        for collection in index['Collections']:
            assert {'Metadata', 'Paper', 'Code'} <= collection.keys()
            assert {'Training Data', 'Architecture'} <= collection['Metadata'].keys()


@pytest.mark.parametrize('entry', ENTRIES.values(), ids=list(ENTRIES))
def test_entry(entry):
    """Width and names, link and numbers agree; mim only finds lower-case names."""
    config = load_config(ROOT / entry['Config'])
    kind = config.model.backbone.type.lower()
    width = round(100 * config.model.backbone.widen_factor)
    assert entry['In Collection'] == config.model.backbone.type
    stem = Path(entry['Config']).stem
    assert entry['Name'] in (f'{kind}-{width}_3rdparty_in1k', stem)
    params, flops, top1, timm_top1, weights = PAPER[kind, width]
    assert entry['Weights'] == weights
    (result,) = entry['Results']
    assert result['Metrics'].get('Top 1 Accuracy (paper)') == top1
    assert result['Metrics'].get('Top 1 Accuracy (timm)') == timm_top1
    assert entry['Metadata']['Parameters'] == pytest.approx(1e6 * params, rel=0.015)
    assert entry['Metadata']['FLOPs'] == pytest.approx(1e6 * flops, rel=0.005)


def test_each_model_has_both_names():
    """A config's and mmpretrain's, for the same weights."""
    configs = {}
    for entry in ENTRIES.values():
        rest = {k: v for k, v in entry.items() if k != 'Name'}
        assert configs.setdefault(entry['Config'], rest) == rest
    assert len(ENTRIES) == 2 * len(configs) == 2 * len(PAPER)


@pytest.mark.parametrize('config', sorted({e['Config'] for e in ENTRIES.values()}))
def test_complexity(config):
    """Parameters and FLOPs are those of the classifier that the config builds."""
    models = pytest.importorskip('mmpretrain.registry', reason='builds it').MODELS
    network = models.build(load_config(ROOT / config).model)
    # All entries of a config are equal, see test_each_model_has_both_names.
    metadata = next(e['Metadata'] for e in ENTRIES.values() if e['Config'] == config)
    if 'Parameters (training)' in metadata:  # GhostNetV3 with its branches
        costs = metadata['Parameters (training)'], metadata['FLOPs (training)']
        assert costs == count(network, 224)
        assert costs[0] == 8_129_028  # timm's ghostnetv3_100 has as many
        network = fold_norms(network)
    assert (metadata['Parameters'], metadata['FLOPs']) == count(network, 224)


def test_all_configs_are_listed():
    files = {path for path in CONFIGS.rglob('*.py') if '/_base_/' not in str(path)}
    assert {config_path(name) for name in list_configs()} == set(map(str, files))
    assert len(list_configs()) == len(files)  # no two of one name


@pytest.mark.parametrize('name', list_configs())
def test_config(name):
    """It finds what it inherits from, and says what to import and how to run it."""
    path = Path(config_path(name))
    for library in re.findall(r"'(mm\w+)::", path.read_text()):
        pytest.importorskip(library, reason='the config inherits from it')
    config = load_config(path)
    assert 'mmghostnetv2' in config.custom_imports.imports
    assert not config.custom_imports.allow_failed_imports
    assert {'model', 'train_dataloader', 'test_dataloader', 'train_cfg'} <= {*config}
    assert re.fullmatch(r'[a-z0-9_-]+', name)
