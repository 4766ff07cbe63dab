"""The comparison of GhostNetV2 with GhostNetV3, in short and on results made up."""

import json
import shutil

import numpy as np
import pytest
from scipy import stats

from ..conftest import ROOT
from .conftest import load_tool

pytest.importorskip('mmpretrain', reason='it trains')
pytest.importorskip('mmdet', reason='it trains')
TOOL = ROOT / 'tools' / 'analysis_tools' / 'compare_ghostnetv3.py'


@pytest.fixture
def pictures(digits, tmp_path):
    """Return a folder with two pictures of each digit for training and validation."""
    for part in 'train', 'val':
        for folder in (digits / 'classification' / part).iterdir():
            new = tmp_path / 'pictures' / part / folder.name
            new.mkdir(parents=True)
            for picture in sorted(folder.iterdir())[:2]:
                shutil.copy(picture, new)
    return tmp_path / 'pictures'


def test_short_run(pictures, run_script, tmp_path):
    """It trains all five networks for each seed, and a finished seed only once."""
    options = '--seeds', 0, 1, '--data', pictures, '--epochs'
    table = run_script(TOOL, *options, 1, cwd=tmp_path)
    out = tmp_path / 'work_dirs' / 'compare_ghostnetv3' / 'cls'
    saved = json.loads((out / 'results.json').read_text())
    assert list(saved['seeds']) == ['0', '1']
    for results in saved['seeds'].values():
        assert len(results) == 5
        assert all(0 <= value <= 100 for value, _, _ in results.values())
        v2, v3, longer = list(results.values())[:3]
        assert longer[2] == max(1, round(v3[1] / v2[1]))
    assert (out / 'table.md').read_text() in table
    before = (out / 'results.json').read_bytes()
    run_script(TOOL, *options, 1, cwd=tmp_path)
    assert (out / 'results.json').read_bytes() == before
    said = run_script(TOOL, *options, 2, cwd=tmp_path, expect=1)
    assert 'is of other options' in said


@pytest.mark.parametrize('task', ['cls', 'det', 'pairs'])
def test_recipe(task):
    """All parts of the data are in the given folder, and nothing is pre-trained."""
    tool = load_tool(TOOL)
    config = tool.make_config(tool.TASKS[task], 7, 5, 'here')
    assert config.randomness.seed == 7 and config.train_cfg.max_epochs == 5
    assert not config.model.backbone.get('init_cfg')
    assert config.model.backbone.frozen_stages == -1
    loaders = [config[f'{part}_dataloader'] for part in ('train', 'val', 'test')]
    text = str(loaders)
    assert 'data/digit' not in text and text.count("'here'") == 3
    if task == 'det':
        assert config.val_evaluator.ann_file == 'here/annotations/instances_val.json'
        assert '320,' not in text


def test_table():
    tool = load_tool(TOOL)
    names = tool.V2, tool.V3, tool.LONGER, tool.STUDENT, tool.TAUGHT
    values = np.random.default_rng(0).uniform(80, 90, (4, 5))
    results = {
        seed: {n: [v, 10.0, 3] for n, v in zip(names, row, strict=True)}
        for seed, row in enumerate(values)
    }
    text = '\n'.join(tool.tabulate(results, 'top-1, %'))
    for name, column in zip(names, values.T, strict=True):
        spread = f'{column.mean():.2f} | {column.std(ddof=1):.2f} |'
        assert f'| {name} | 3.0 | 10 | {spread}' in text
    low, high = stats.ttest_rel(values[:, 1], values[:, 0]).confidence_interval()
    mean = (values[:, 1] - values[:, 0]).mean()
    expected = f'| {mean:+.2f} | {low:+.2f} to {high:+.2f} |'
    assert f'| {tool.V3} - {tool.V2} {expected}' in text
