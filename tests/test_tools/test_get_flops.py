"""tools/analysis_tools/get_flops.py: each block's cost, against hooks."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmghostnetv2.analysis.complexity import count_blocks
from mmghostnetv2.analysis.networks import build_network

from ..conftest import ROOT
from ..test_models.test_complexity import count_by_hooks
from .conftest import load_tool

TOOL = ROOT / 'tools' / 'analysis_tools' / 'get_flops.py'


@pytest.fixture
def run(capsys):
    """Run the tool; return the table's rows by the name of the block."""
    tool = load_tool(TOOL)

    def main(*argv):
        tool.main([*argv])
        text = capsys.readouterr().out.replace(',', '')
        row = r'^\| (\S+) \| (\w*) \| (\d+) \| (\d+) \| ([\d.]+)% \|$'
        return {name: rest for name, *rest in re.findall(row, text, re.M)}

    return main


def hooked(network, blocks, height, width):
    """Count by hooks what each block has, for names as the tool writes them."""
    macs = dict.fromkeys(blocks, 0)

    def counter(name):
        def add(layer, inputs, output):
            macs[name] += output.numel() * layer.weight[0].numel()

        return add

    for name in blocks:
        for module in network.get_submodule(name).modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.register_forward_hook(counter(name))
    with torch.no_grad():
        network(torch.zeros(1, 3, height, width))
    return macs


@pytest.mark.parametrize(
    ('library', 'name', 'size', 'expected'),
    [
        (
            'mmpretrain',
            'ghostnetv2_100_in1k',
            (96, 64),
            {
                'backbone.conv_stem': 'Conv2d',
                'backbone.blocks.6.4': 'GhostBottleneck',
                'head': 'StackedLinearClsHead',
            },
        ),
        (
            'mmdet',
            'yolov3_ghostnetv2_320',
            (64, 64),
            {
                'backbone.blocks.8.3': 'GhostBottleneck',
                'neck': 'YOLOV3Neck',
                'bbox_head': 'YOLOV3Head',
            },
        ),
        (
            'mmseg',
            'deeplabv3_mobilenetv2_ade20k',
            (64, 64),
            {'backbone.layer7.0': 'InvertedResidual', 'decode_head': 'ASPPHead'},
        ),
    ],
)
def test_blocks(run, library, name, size, expected):
    """The blocks of a model of each library, and all of them together."""
    pytest.importorskip(library)
    rows = run(name, '--shape', *map(str, size))
    total = rows.pop('**all**')
    rows.pop('rest', None)  # of segmentors the auxiliary head, which does not run
    assert {key: rows[key][0] for key in expected} == expected
    network = build_network(name)
    macs = hooked(network, rows, *size)
    for block, (_, parameters, flops, share) in rows.items():
        own = sum(p.numel() for p in network.get_submodule(block).parameters())
        assert (int(parameters), int(flops)) == (own, macs[block]), block
        assert float(share) == pytest.approx(
            100 * macs[block] / sum(macs.values()), abs=0.06
        )
    assert int(total[1]) == sum(p.numel() for p in network.parameters())
    assert int(total[2]) == sum(macs.values())


def test_classifier_has_the_papers_costs(run):
    """And timm's code of it the same ones."""
    pytest.importorskip('mmpretrain')
    pytest.importorskip('timm')
    ours, theirs = (run(n) for n in ('ghostnetv2_100_in1k', 'timm:ghostnetv2_100'))
    for rows in (ours, theirs):
        assert rows['**all**'][1:] == ['6156908', '167048288', '100.0']


def test_changed_config_and_backbone(run):
    pytest.importorskip('mmpretrain')
    rows = run(
        *('ghostnetv2_100_in1k+backbone', '--shape', '64'),
        *('--cfg-options', 'model.backbone.out_indices=(4,)'),
    )
    assert 'blocks.4.0' in rows and 'blocks.5.0' not in rows
    network = build_network('ghostnet_100_in1k+backbone')
    rows = run('ghostnet_100_in1k+backbone', '--shape', '64')
    parameters, macs = count_by_hooks(network, 64)
    assert rows['**all**'][1:3] == [str(parameters), str(macs)]


@pytest.mark.parametrize(
    ('name', 'block'),
    [
        ('mmpretrain:mobilenet-v2_8xb32_in1k', 'backbone.layer7.0'),
        ('mobilenetv2_100_in1k+backbone', 'backbone.layer7.0'),
        ('TIMMBackbone:mobilenetv2_100', 'backbone.timm_model.blocks.6.0'),
    ],
)
def test_networks_of_others(run, name, block):
    """Block by block, too; the three have the same last inverted residual."""
    pytest.importorskip('mmpretrain')
    pytest.importorskip('timm')
    rows = run(name, '--shape', '64')
    weights = 160 * 960 + 9 * 960 + 960 * 320
    norms = 2 * (960 + 960 + 320)
    costs = [str(weights + norms), str(4 * weights)]  # at 2 x 2 pixels
    assert rows[block][:3] == ['InvertedResidual', *costs]


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = nn.ReLU()
        inner = nn.ModuleList([nn.Conv2d(4, 2, 1, bias=False)])
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), inner)
        self.weight = nn.Parameter(torch.zeros(5, 2))

    def forward(self, x):
        x = self.layers[1][0](self.layers[0](self.act(x)))
        return F.linear(x.mean((2, 3)), self.weight)


def test_containers_are_taken_apart_and_nothing_is_lost():
    assert count_blocks(Odd(), (5, 6)) == [
        ('layers.0', 'Conv2d', 108, 12 * 108),
        ('layers.1.0', 'Conv2d', 8, 12 * 8),
        ('rest', '', 10, 10),
    ]


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        ('ghostnetv2_100_in1', 'no config is named .* ghostnetv2_100_in1k'),
        ('timm:ghostnet_7', "timm has no model 'ghostnet_7'"),
        ('timm:ghostnet_100 --cfg-options a.b=1', 'has no config to change by a.b='),
        ('timm:ghostnet_100+fast', "an option is one of backbone, .*, got 'fast'"),
        ('timm:ghostnet_100+backbone', 'has no part named backbone'),
        (
            'timm:ghostnet_100+deploy',
            r'timm:ghostnet_100\+deploy: .* leave out \+deploy',
        ),
        ('timm:ghostnet_100+deploy+channels_last', r'out \+deploy, \+channels_last'),
        (
            'yolov3_ghostnetv2_320 --shape 33',
            'yolov3_ghostnetv2_320 at 33x33 pixels: RuntimeError',
        ),
        ('torch:resnet', "a library must be timm, .*, got 'torch'"),
        ('mmpretrain:a', "mmpretrain has no model 'a'"),
        ('timm:ghostnet_100 --shape 0', 'argument --shape: must be .*, got 0'),
        ('timm:ghostnet_100 --shape 1 2 3', '--shape takes H and W, got 3 numbers'),
    ],
)
def test_bad_arguments_are_named(run, capsys, argv, message):
    for library in ('mmpretrain', 'mmdet', 'timm'):
        pytest.importorskip(library)
    with pytest.raises((RuntimeError, SystemExit)) as info:
        run(*argv.split())
    assert re.search(message, f'{info.value} {capsys.readouterr().err}')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('model = dict(', 'SyntaxError: '),
        ('a = 1', 'bad.py has no model: '),
        ("_base_ = 'none.py'", 'No such file or directory: .*none.py'),
        ("model = dict(type='Nope')", 'Nope is not in the .* registry'),
        ("model = dict(type='torch.nn.Linear')", 'TypeError: .*in_features'),
    ],
)
def test_bad_configs_are_named(run, tmp_path, text, message):
    path = tmp_path / 'bad.py'
    path.write_text(text)
    with pytest.raises(RuntimeError, match=f'^{path}: .*{message}'):
        run(str(path))
