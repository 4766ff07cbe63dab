"""The documentation site: it builds without a warning and needs no network."""

import csv
import html
import re

import yaml

from ..conftest import ROOT


def test_every_page_is_in_the_navigation(site):
    index = (site / 'index.html').read_text(encoding='utf-8')
    pages = {path.stem for path in (ROOT / 'docs').glob('*.md')} - {'index'}
    pages |= {path.stem for path in (ROOT / 'docs').glob('*.ipynb')}
    linked = set(re.findall(r'href="(\w+)\.html"', index))
    assert pages <= linked


def test_no_page_loads_anything_from_the_network(site):
    loads = re.compile(
        r'<(?:script|img|iframe)[^>]*\ssrc="(?:https?:)?//[^"]*"'
        r'|<link[^>]*rel="(?:stylesheet|preload|icon)"[^>]*href="(?:https?:)?//[^"]*"'
    )
    pages = list(site.rglob('*.html'))
    assert len(pages) > 20
    for page in pages:
        assert not loads.findall(page.read_text(encoding='utf-8')), page
    for style in site.rglob('*.css'):
        assert not re.search(r'url\(["\']?(https?:)?//', style.read_text()), style


def test_drawings_are_of_the_released_network(site):
    """The sizes and channels of the paper at 1.0x, for pictures of 224 pixels."""
    page = (site / 'dfc_attention.html').read_text(encoding='utf-8')
    texts = re.findall(r'<text [^>]*>(.*?)</text>', page)
    block = {'average pooling 2 x 2', 'convolution 1 x 1, 24 to 72', 'sigmoid'}
    block |= {'depth-wise 1 x 5, 72 channels', 'depth-wise 5 x 1, 72 channels'}
    stages = {'stage 0: 112 x 112', 'stage 6: 14 x 14', '112 channels, 5 blocks'}
    assert block | stages <= {*texts}
    gated = re.findall(r'<rect class="attention" x="150"', page)
    assert len(gated) == 7  # stages 2 to 8


def cells(page):
    """Return the rows of the models page as {name: [numbers as text]}."""
    rows = re.findall(r'<tr data-family.*?</tr>', page)
    found = {}
    for row in rows:
        name = html.unescape(re.search(r'data-name="([^"]*)"', row)[1])
        found[name] = re.findall(r'<td data-value="([^"]*)"', row)[1:]
    return found


def test_models_are_those_of_the_metafile(site):
    rows = cells((site / 'models.html').read_text(encoding='utf-8'))
    models = yaml.safe_load((ROOT / 'configs/metafile.yml').read_text())['Models']
    with open(ROOT / 'docs/paper_tables.csv', newline='') as file:
        table = {x['network']: x for x in csv.DictReader(file) if x['table'] == '2'}
    for model in models:
        name = model['Config'].split('/')[-1].removesuffix('.py')
        params, flops, paper, timm, ms = rows[name]
        assert float(params) == model['Metadata']['Parameters'] / 1e6
        assert float(flops) == model['Metadata']['FLOPs'] / 1e6
        metrics = model['Results'][0]['Metrics']
        for shown, source in (paper, 'paper'), (timm, 'timm'):
            assert shown == str(metrics.get(f'Top 1 Accuracy ({source})', ''))
        if name in table:
            assert float(ms) == float(table[name]['onnxruntime_ms'])
    assert 'MobileNetV3-L 1.0x' in rows and 'EfficientNet-B0' in rows
