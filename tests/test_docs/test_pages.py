"""All pages: links lead somewhere, commands exist, and blocks say what runs them."""

import csv
import json
import re
import shlex
from functools import cache
from urllib.parse import unquote

import pytest
from mmengine.config import Config

from ..conftest import ROOT
from ..test_models.test_complexity import count_by_hooks
from .conftest import PAGES, fenced_blocks

# Networks in the benchmark's files
TIMM = 'timm:ghostnetv2_100+channels_last'
OURS = 'ghostnetv2_100_in1k'
DEPLOYED = f'{OURS}+deploy+channels_last'
NOTEBOOK = ROOT / 'docs/tutorial.ipynb'
IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]
COMMANDS = re.compile(
    r'(?m)^\s*(?:\w+=\S+ )*(?:make|mim|python|pip|git|sudo|cp|source)\b'
)


@cache
def read(page):
    """Return the Markdown of a page or of a notebook."""
    text = page.read_text(encoding='utf-8')
    if page.suffix == '.ipynb':
        cells = json.loads(text)['cells']
        return '\n\n'.join(
            ''.join(x['source']) for x in cells if x['cell_type'] == 'markdown'
        )
    return text


def prose(text):
    """Return a page without its fenced blocks."""
    return re.sub(r'(?ms)^( *)(`{3,}|:{3,}).*?^\1\2`*:*$', '', text)


def anchors(page):
    """Return the anchors of a page's headings as GitHub and the site make them."""
    titles = re.findall(r'(?m)^#+ (.+)$', prose(read(page)))
    plain = [re.sub(r'\[(.+?)\]\(.+?\)', r'\1', title).lower() for title in titles]
    return {re.sub(r'[^\w\- ]', '', title).replace(' ', '-') for title in plain}


@pytest.mark.parametrize('page', [*PAGES, NOTEBOOK], ids=[*IDS, 'tutorial'])
def test_internal_links(page):
    text = re.sub(r'`[^`\n]*`', '', prose(read(page)))
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        if re.match(r'\w+:', target):
            continue
        path, _, anchor = unquote(target).partition('#')
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f'{target} does not exist'
        assert found.is_relative_to(ROOT)
        if anchor and found.suffix == '.md':
            assert anchor in anchors(found), f'{target}: no such heading'


@pytest.mark.parametrize('page', PAGES, ids=IDS)
def test_blocks_are_run_or_say_why_not(page):
    for block in fenced_blocks(read(page)):
        runs = block.language == 'python' or COMMANDS.search(block.code)
        where = f'line {block.line}: {block.code[:60]!r}'
        if match := re.fullmatch(r'run by: (.+)', block.note):
            for test in match[1].split(', '):
                assert (ROOT / test).is_file(), f'{where}: no {test}'
        elif runs:
            assert re.fullmatch(r'not run: .{12,}', block.note), where


def command_lines(text):
    """Return the commands in a text: in blocks, and in the middle of a sentence."""
    for block in fenced_blocks(text):
        if block.language in ('', 'bash', 'sh'):
            yield from block.code.replace('\\\n', ' ').splitlines()
    yield from re.findall(r'`((?:mim|python|make) [^`]+)`', prose(text))


@cache
def options_of(tool):
    """Return the options that a tool knows, from its source and from what all share."""
    shared = (ROOT / 'mmghostnetv2/arguments.py').read_text()
    if 'make_set' in (source := (ROOT / tool).read_text()):
        shared += (ROOT / 'mmghostnetv2/digits.py').read_text()
    named = {*re.findall(r"'(--[a-z][\w-]*)'", source + shared)}
    integers = re.findall(r"(?m)^\s+'?([a-z_]+)'?(?:=|: )\(", source)  # add_integers
    return named | {f'--{name.replace("_", "-")}' for name in integers}


@pytest.mark.parametrize('page', PAGES, ids=IDS)
def test_commands_exist(page):
    """Tools, configs, options and targets of the Makefile that a page names exist."""
    targets = {*re.findall(r'(?m)^([a-z-]+):', (ROOT / 'Makefile').read_text())}
    for line in command_lines(read(page)):
        words = shlex.split(line, comments=True)
        words = [word for word in words if not re.match(r'[A-Z_]+=', word)] or ['']
        for word in words:
            is_own = word.startswith(('configs/', 'tools/', 'docs/make'))
            if is_own and not re.search(r'/(custom|my_)|[*<]', word):
                assert (ROOT / word).exists(), line
        if words[0] == 'make' and len(words) > 1:
            assert words[1] in targets, line
        if words[0] == 'python' and words[1].startswith('tools/'):
            named = {word for word in words if word.startswith('--')}
            assert named <= options_of(words[1]), line


def test_python_snippets_of_the_backbone_page():
    config, code = (x.code for x in fenced_blocks(read(ROOT / 'docs/backbone.md')))
    read_config = Config.fromstring(config, '.py')
    assert read_config.model.backbone.type == 'GhostNetV2'
    exec(code, {})  # it asserts


def test_python_snippets_of_ghostnetv3():
    found = fenced_blocks(read(ROOT / 'docs/ghostnetv3.md'))
    code, config = (x.code for x in found if x.language == 'python')
    exec(code, {})  # it loads the merged weights
    own = Config.fromfile(ROOT / 'configs/ghostnetv3_100_distill_in1k.py').model
    shown = Config.fromstring(config, '.py').model
    assert {key: own[key] for key in shown} == shown


def test_channels_of_the_backbone_page():
    from mmghostnetv2.models import GhostNetV2

    text = read(ROOT / 'docs/backbone.md')
    stages = tuple(range(10))
    for width in 1.0, 1.3, 1.6:
        row = re.search(rf'channels at {width}x \|(.+)\|', text)[1]
        network = GhostNetV2(widen_factor=width, out_indices=stages)
        assert list(map(int, row.split('|'))) == list(network.out_channels)
    row = re.search(r'(?m)^\| stride \|(.+)\|', text)[1]
    assert list(map(int, row.split('|'))) == list(network.out_strides)


def test_quickstart_is_quoted_alike():
    """The quickstart's accuracy stands in one table; others name the run they quote."""
    accuracy = re.search(r'top-1 (\d+\.\d) %', read(ROOT / 'docs/get_started.md'))[1]
    for page in PAGES:
        text = ' '.join(read(page).split())
        for number in re.findall(r'(?<=top-1 )\d+\.\d(?= %)', text):
            assert number == accuracy, page
        for number, after in re.findall(r'(\d+\.\d) % top-1(.{11})', text):
            assert number == accuracy or after == ' in the run', page


def rows_of(name, **wanted):
    """Return the rows of a CSV file of docs that have the wanted values."""
    with open(ROOT / 'docs' / name, newline='') as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if wanted.items() <= row.items()]


@pytest.mark.parametrize(
    ('title', 'table', 'network'),
    [
        ('torch, timm in channels_last', 'eager', TIMM),
        ('torch, `switch_to_deploy()` and channels_last', 'eager', DEPLOYED),
        ('ONNX Runtime', 'onnxruntime', OURS),
        ('OpenVINO', 'openvino', OURS),
    ],
)
def test_ratios_of_the_speed_page(title, table, network):
    """They are those of the benchmark's files."""
    cells = []
    for images in '1x224x224', '8x224x224', '1x512x512':
        found = rows_of(
            f'benchmarks/{table}/benchmark.csv', images=images, network=network
        )
        assert [row['threads'] for row in found] == ['1', '2']
        cells.append(' / '.join(f'{float(x["ratio_median"]):.2f}' for x in found))
    row = f'| {title}, one thread / two threads | {" | ".join(cells)} |'
    assert row in read(ROOT / 'docs/speed.md')


def test_training_on_the_speed_page():
    text = ' '.join(read(ROOT / 'docs/speed.md').split())
    for network, said in (
        (f'{OURS}+channels_last', "{} of timm's time on one thread and {} on two"),
        (TIMM, '(timm in channels_last: {} and {})'),
    ):
        rows = rows_of('benchmarks/training/benchmark.csv', network=network)
        assert [row['threads'] for row in rows] == ['1', '2']
        assert said.format(*(f'{float(x["ratio_median"]):.2f}' for x in rows)) in text


def test_speed_against_timm_is_quoted_alike():
    ratios = []
    for network in TIMM, DEPLOYED:
        rows = rows_of('benchmarks/eager/benchmark.csv', threads='1', network=network)
        ratios.append(f'{float(rows[0]["ratio_median"]):.2f}')
    for page in 'README.md', 'README_zh-CN.md', 'docs/choosing.md':
        pattern = r'channels_last\D+(0\.\d+) \| (0\.\d+)\D+switch_to_deploy'
        assert list(re.search(pattern, read(ROOT / page)).groups()) == ratios, page


def test_latencies_of_the_paper_page():
    text = read(ROOT / 'docs/paper.md')
    for row in rows_of('paper_tables.csv', table='1'):
        ms, ratio = (float(row[f'onnxruntime_{x}']) for x in ('ms', 'ratio'))
        assert f'| {row["latency_paper"]} ms | ' in text
        assert re.search(rf'\| {ms:.2f} ms \| {ratio:.2f} \|', text), row


def test_growth_of_the_paper_page():
    table = read(ROOT / 'docs/benchmarks/resolution/benchmark.md')
    row = r'(?m)\| {} \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$'
    ms, added, memory = re.search(row.format(OURS), table).groups()
    text = ' '.join(read(ROOT / 'docs/paper.md').split())
    assert f'grows by the power {ms} of the number of pixels' in text
    assert f'its memory by the power {memory} ' in text
    others = re.search(row.format('table1_self_attention_in1k'), table)[2]
    assert f'grows by the power {others}, what DFC attention adds by {added}' in text


def test_numbers_of_the_choosing_page():
    text = ' '.join(read(ROOT / 'docs/choosing.md').split())
    ms = {
        x['network']: float(x['onnxruntime_ms'])
        for x in rows_of('paper_tables.csv', table='2')
        if x['onnxruntime_ms']
    }
    share = ms['timm:mobilenetv3_large_100'] / ms['ghostnetv2_100_in1k']
    assert f'accuracy in {share:.0%} of'.replace('%', ' %') in text
    gpu = {}
    for row in rows_of('benchmarks/gpu_networks/benchmark.csv'):
        name = row['network'].split('+')[0]
        gpu.setdefault(name, []).append(float(row['milliseconds_median']))
    pairs = zip(
        gpu['ghostnetv2_100_in1k'], gpu['timm:mobilenetv3_large_100'], strict=True
    )
    ratios = [ours / theirs for ours, theirs in pairs]
    assert f'takes {min(ratios):.1f} to {max(ratios):.1f} times as long' in text
    smaller = [
        x
        for x in rows_of('paper_tables.csv', table='2')
        if float(x['flops_paper']) < 400
    ]
    assert (
        max(smaller, key=lambda x: float(x['top1_paper']))['network']
        == 'ghostnetv2_160_in1k'
    )


def test_telephones_on_the_choosing_page():
    text = ' '.join(read(ROOT / 'docs/choosing.md').split())
    for table, suffix, said in (
        ('phones', '', 'GhostNetV2 takes {:.1f} to {:.1f} times as long as V1, in the'),
        ('phones_int8', '+int8', 'takes {:.1f} to {:.1f} times as long as V1. Choose'),
    ):
        file = f'benchmarks/{table}/benchmark.csv'
        both = (
            rows_of(file, network=f'{name}{suffix}')
            for name in (OURS, 'ghostnet_100_in1k')
        )
        ratios = [
            float(a['milliseconds_median']) / float(b['milliseconds_median'])
            for a, b in zip(*both, strict=True)
        ]
        assert said.format(min(ratios), max(ratios)) in text
    (row,) = rows_of(
        'benchmarks/phones/benchmark.csv', network=OURS, runtime='executorch'
    )
    assert f"file takes {float(row['ratio_median']):.2f} of the time of timm's" in text


def test_costs_of_whole_models():
    """The table of the page of detectors, counted another way, without data."""
    pytest.importorskip('mmdet', reason='builds the detectors')
    pytest.importorskip('mmseg', reason='builds the segmentors')
    import torch

    from mmghostnetv2.analysis import build_network

    # mmdet's MobileNetV2 also runs a convolution that no output needs, so the hooks
    # would count it. The rows of such baselines have more than the name.
    row = r'(?m)^\| ([\w-]+) \| (\d+)( x \d+)? \| ([\d.]+) \| ([\d.]+) \|$'
    rows = re.findall(row, read(ROOT / 'docs/detectors.md'))
    assert len(rows) == 9
    for name, height, width, *quoted in rows:
        with torch.device('meta'):
            network = build_network(name)
        shape = int(height), int(width[3:] or height)
        parameters, flops = count_by_hooks(network, *shape)
        assert [f'{parameters / 1e6:.2f}', f'{flops / 1e9:.2f}'] == quoted, name
