"""Directives that show measured numbers: the models, the choice, and benchmarks.

``zoo`` shows the released models and those of the paper's Table 2, ``choosing-table`` a
part of them, and ``benchmark-table NAME`` a table of docs/benchmarks.

The rows come from ``configs/metafile.yml`` and ``docs/paper_tables.csv`` whenever the
site is built, so the page cannot disagree with them. Without JavaScript the table can
still be read; ``_static/zoo.js`` sorts and filters it and draws the chart from it.
"""

import csv
import html
import re
from pathlib import Path

import yaml
from docutils import nodes
from mmengine.config import Config
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = [  # key, heading, number of decimals
    ('params', 'Parameters, M', 2),
    ('flops', 'FLOPs, M', 0),
    ('paper', 'Top-1, paper', 1),
    ('timm', 'Top-1, timm', 3),
    ('ms', 'ms, ONNX Runtime', 2),
]
FAMILIES = {'GhostNetV2': 'v2', 'GhostNetV3': 'v3', 'GhostNet': 'v1'}


def backbone_line(model):
    """Return the config line that builds the backbone of a model of the metafile."""
    backbone = Config.fromfile(ROOT / model['Config']).model.backbone
    checkpoint = f'ghostnet://{model["Name"].split("_")[0]}'
    return (
        f"backbone=dict(type='{backbone.type}', widen_factor={backbone.widen_factor}, "
        f"init_cfg=dict(type='Pretrained', checkpoint='{checkpoint}'))"
    )


def released_models():
    """Return the rows of the metafile's models, by the names of their configs."""
    rows = {}
    text = (ROOT / 'configs/metafile.yml').read_text(encoding='utf-8')
    for model in yaml.safe_load(text)['Models']:
        if '_3rdparty_' not in model['Name']:
            continue  # the second name of the same model
        metrics = model['Results'][0]['Metrics']
        rows[Path(model['Config']).stem] = dict(
            name=Path(model['Config']).stem,
            family=FAMILIES[model['In Collection']],
            params=model['Metadata']['Parameters'] / 1e6,
            flops=model['Metadata']['FLOPs'] / 1e6,
            paper=metrics.get('Top 1 Accuracy (paper)'),
            timm=metrics.get('Top 1 Accuracy (timm)'),
            weights=model['Weights'],
            config=model['Config'],
            line=backbone_line(model),
        )
    return rows


def table_2():
    """Return the measured rows of the paper's Table 2."""
    with open(ROOT / 'docs/paper_tables.csv', newline='', encoding='utf-8') as file:
        found = [row for row in csv.DictReader(file) if row['table'] == '2']
    return [
        dict(
            network=row['network'],
            name=row['model'],
            family='v1' if 'GhostNetV1' in row['model'] else 'other',
            params=float(row['params_measured']),
            flops=float(row['flops_measured']),
            paper=float(row['top1_paper']),
            ms=float(row['onnxruntime_ms']),
        )
        for row in found
        if row['onnxruntime_ms']
    ]


def zoo_rows():
    """Return all rows, released models first, with the latencies of one run."""
    released, others = released_models(), []
    for row in table_2():
        if row['network'] in released:
            released[row['network']]['ms'] = row['ms']
        else:
            others.append(row)
    return [*released.values(), *others]


def cell(row, key, decimals):
    """Return a table cell; the number itself is an attribute, for sorting."""
    value = row.get(key)
    if value is None:
        return '<td data-value=""></td>'
    return f'<td data-value="{value}">{value:.{decimals}f}</td>'


def row_html(row, repository):
    """Return a row of the table."""
    name = html.escape(row['name'])
    links = ''
    if 'config' in row:
        name = f'<a href="{repository}/blob/main/{row["config"]}">{name}</a>'
        links = f'<a href="{row["weights"]}">download</a>'
    attributes = {'family': row['family'], 'name': row['name']}
    attributes['line'] = row.get('line', '')
    attributes['top1'] = str(row.get('paper') or row.get('timm') or '')
    data = ' '.join(f'data-{k}="{html.escape(v)}"' for k, v in attributes.items())
    cells = ''.join(cell(row, key, decimals) for key, _, decimals in COLUMNS)
    first = f'<td data-value="{row["name"]}">{name}</td>'
    return f'<tr {data}>{first}{cells}<td>{links}</td></tr>'


def plain_table(headings, rows):
    """Return a node of a table of texts."""
    head = ''.join(f'<th scope="col">{html.escape(text)}</th>' for text in headings)
    lines = (''.join(f'<td>{html.escape(x)}</td>' for x in row) for row in rows)
    body = '\n'.join(f'<tr>{line}</tr>' for line in lines)
    text = f"""<div class="table-wrapper docutils container"><table class="docutils">
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody></table></div>"""
    return [nodes.raw('', text, format='html')]


class ChoosingTable(SphinxDirective):
    """Show the Ghost networks beside those that are in question in place of them."""

    others = ('MobileNetV2 1.0x', 'MobileNetV3-L', 'MnasNet-A1', 'EfficientNet-B0')

    def run(self):
        self.env.note_dependency(str(ROOT / 'docs/paper_tables.csv'))
        rows = [x for x in table_2() if x['name'].startswith(('Ghost', *self.others))]
        return plain_table(
            ['Network', 'Top-1, paper', 'Parameters, M', 'FLOPs, M', 'ms'],
            [
                (
                    row['name'],
                    f'{row["paper"]:.1f}',
                    f'{row["params"]:.2f}',
                    f'{row["flops"]:.0f}',
                    f'{row["ms"]:.2f}',
                )
                for row in sorted(rows, key=lambda row: row['ms'])
            ],
        )


class BenchmarkTable(SphinxDirective):
    """Show the table that the benchmark tool wrote into a folder of docs/benchmarks.

    Settings that are the same in all rows are left out.
    """

    required_arguments = 1

    def run(self):
        path = ROOT / 'docs/benchmarks' / self.arguments[0] / 'benchmark.csv'
        self.env.note_dependency(str(path))
        with open(path, newline='', encoding='utf-8') as file:
            rows = list(csv.DictReader(file))
        columns = {
            name.capitalize(): [row[name] for row in rows]
            for name in ('runtime', 'threads', 'images')
            if len({row[name] for row in rows}) > 1
        }
        columns['Network'] = [
            re.sub(r'^.*[/:]|\.py(?=\+|$)|\+(deploy|channels_last)', '', row['network'])
            for row in rows
        ]
        if rows[0].get('flops'):
            counts = ('Parameters, M', 'parameters', 1), ('FLOPs, M', 'flops', 0)
            for title, name, digits in counts:
                millions = [float(row[name]) / 1e6 for row in rows]
                columns[title] = [f'{value:.{digits}f}' for value in millions]
        numbers = {'ms': 'milliseconds_median', 'Ratio': 'ratio_median'}
        if all(row['megabytes'] for row in rows):
            numbers['Memory, MB'] = 'megabytes'
        for title, name in numbers.items():
            digits = 0 if name == 'megabytes' else 2
            columns[title] = [f'{float(row[name]):.{digits}f}' for row in rows]
        return plain_table([*columns], list(zip(*columns.values(), strict=True)))


class Zoo(SphinxDirective):
    """Insert the table, the controls and the chart."""

    def run(self):
        for file in ('configs/metafile.yml', 'docs/paper_tables.csv'):
            self.env.note_dependency(str(ROOT / file))
        repository = self.config.html_theme_options['source_repository']
        headings = ['Model', *(text for _, text, _ in COLUMNS)]
        head = ''.join(
            f'<th scope="col"><button type="button">{text}</button></th>'
            for text in headings
        )
        body = '\n'.join(row_html(row, repository) for row in zoo_rows())
        text = f"""
<div class="zoo">
<p class="zoo-controls">
<label>Filter <input type="search" placeholder="for example ghostnetv2"></label>
<label>Chart: accuracy over <select>
<option value="flops">FLOPs</option>
<option value="params">parameters</option>
<option value="ms">latency</option>
</select></label>
<label><input type="checkbox"> only released weights</label>
</p>
<svg class="zoo-chart" role="group" aria-label="Accuracy of the models below"></svg>
<p class="zoo-chosen"><output aria-live="polite">Choose a point of a Ghost network to
copy its config line.</output></p>
<div class="table-wrapper docutils container">
<table class="docutils zoo-table">
<thead><tr>{head}<th scope="col">Weights</th></tr></thead>
<tbody>
{body}
</tbody></table></div></div>
"""
        return [nodes.raw('', text, format='html')]


def setup(app):
    """Register the directive and what its page loads."""
    app.add_directive('zoo', Zoo)
    app.add_directive('choosing-table', ChoosingTable)
    app.add_directive('benchmark-table', BenchmarkTable)
    app.add_css_file('zoo.css')
    app.add_js_file('zoo.js', loading_method='defer')
    return {'parallel_read_safe': True}
