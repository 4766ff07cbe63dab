"""README.md: its length, its snippets, its numbers, and the same in Chinese."""

import csv
import re

import pytest
import yaml
from mmengine.config import Config

from ..conftest import ROOT
from .conftest import fenced_blocks

README, CHINESE = (
    (ROOT / name).read_text(encoding='utf-8')
    for name in ('README.md', 'README_zh-CN.md')
)
ROWS = re.compile(r'(?m)^\| \[(\w+)\]\((\S+)\).*? \|(.*)\|$')


def snippets(language):
    """Return the code of README's blocks that this file runs."""
    note = 'run by: tests/test_docs/test_readme.py'
    found = fenced_blocks(README)
    return [x.code for x in found if (x.language, x.note) == (language, note)]


def test_one_screen_and_a_half():
    assert len(README.splitlines()) <= 150


def test_chinese_readme_says_the_same():
    """Sections, tables, code and links agree; words are compared by people."""
    for pattern in (
        r'(?m)^#+ ',  # sections, by their levels
        r'(?s)<!-- .*? -->\n```.*?```',
        r'`[^`\n]+`',
        r'\d+(?:\.\d+)?',
    ):
        ours, theirs = (sorted(re.findall(pattern, x)) for x in (README, CHINESE))
        assert ours == theirs, pattern
    shapes = []
    for text in README, CHINESE:
        tables = re.findall(r'(?:^\|.*\n)+', text, re.M)
        shapes.append([[line.count('|') for line in x.splitlines()] for x in tables])
    assert shapes[0] == shapes[1]
    links = [sorted(re.findall(r'\]\((\S+?)\)', text)) for text in (README, CHINESE)]
    links[0].remove('README_zh-CN.md')
    links[1].remove('README.md')
    assert links[0] == links[1]


def test_numbers_of_the_models():
    models = yaml.safe_load((ROOT / 'configs/metafile.yml').read_text())['Models']
    path = ROOT / 'docs/benchmarks/accuracy/benchmark.csv'
    with open(path, newline='') as file:
        measured = {
            x['network']: x['milliseconds_median']
            for x in csv.DictReader(file)
            if x['runtime'] == 'onnxruntime'
        }
    rows = {name: (config, cells) for name, config, cells in ROWS.findall(README)}
    assert len(rows) >= 4
    for name, (config, cells) in rows.items():
        (model,) = (x for x in models if x['Name'] == name)
        assert model['Config'] == config
        metrics = model['Results'][0]['Metrics']
        params, flops, paper, timm, ms, weights = (x.strip() for x in cells.split('|'))
        assert params == f'{model["Metadata"]["Parameters"] / 1e6:.2f} M'
        assert flops == f'{model["Metadata"]["FLOPs"] / 1e6:.0f} M'
        assert paper == str(metrics.get('Top 1 Accuracy (paper)', ''))
        assert timm == str(metrics.get('Top 1 Accuracy (timm)', ''))
        is_v3 = name == 'ghostnetv3_100_in1k'  # merged, it is the network of V2
        assert ms == ('as V2' if is_v3 else f'{float(measured[name]):.2f}')
        assert model['Weights'] in weights
    said = re.search(r'MobileNetV3-L has (\S+) % in (\S+) ms', ' '.join(README.split()))
    assert said[2] == f'{float(measured["timm:mobilenetv3_large_100"]):.2f}'


def test_differences_from_timm():
    timm = pytest.importorskip('timm', reason='compares with it')
    from mmghostnetv2.models import GhostNetV2

    theirs = timm.create_model('ghostnetv2_100', features_only=True).feature_info
    assert theirs.channels()[3] == 80 and theirs.reduction()[3] == 16
    assert theirs.module_name()[0] == 'conv_stem'
    with pytest.raises(AssertionError, match='output_stride'):
        timm.create_model('ghostnetv2_100', features_only=True, output_stride=16)
    ours = GhostNetV2(out_indices=(0, 6), output_stride=16)
    assert (list(ours.out_channels), list(ours.out_strides)) == ([16, 112], [2, 16])


def test_config_fits_an_fpn(tmp_path):
    """The lines of a config build mmdet's RetinaNet; no weights are downloaded."""
    torch = pytest.importorskip('torch', reason='runs the network')
    pytest.importorskip('mmdet', reason='the base config is its')
    from mmghostnetv2 import init_model

    _, text = snippets('python')
    own = tmp_path / 'own.py'
    own.write_text(f"_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\n{text}")
    model = init_model(own, cfg_options={'model.backbone.init_cfg': None})
    assert list(model.backbone.out_channels) == [24, 40, 112, 160]
    assert list(model.backbone.out_strides) == [4, 8, 16, 32]
    levels = model.neck(model.backbone(torch.rand(1, 3, 64, 64)))
    assert [level.shape[1] for level in levels] == [256] * 5


def test_prediction(tmp_path, monkeypatch, capsys):
    """The snippet prints labels of the bundled picture, with a detector of its kind."""
    pytest.importorskip('mmdet', reason='runs the detector')
    torch = pytest.importorskip('torch', reason='runs the detector')
    from mmghostnetv2 import config_path, init_model

    code, _ = snippets('python')
    path = re.search(r"weights='(.+?)'", code)[1]
    config = Config.fromfile(config_path('yolov3_ghostnetv2_320_digits'))
    assert path == f'work_dirs/{config_stem(config)}/epoch_{config.max_epochs}.pth'
    model = init_model(config, cfg_options={'model.backbone.init_cfg': None})
    with torch.no_grad():  # random weights find nothing above the thresholds
        for convolution in model.bbox_head.convs_pred:
            convolution.bias.fill_(2)
    saved = tmp_path / path
    saved.parent.mkdir(parents=True)
    meta = dict(cfg=model.cfg.pretty_text, dataset_meta=dict(classes=config.classes))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), saved)
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'docs').symlink_to(ROOT / 'docs')
    exec(code, {})
    printed = capsys.readouterr().out
    labels = re.search(r'\[(\d(?:, \d){4})\]', printed)
    assert labels, printed


def config_stem(config):
    """Return the name of a config, which is that of its work directory."""
    return re.search(r'(\w+)\.py$', config.filename)[1]
