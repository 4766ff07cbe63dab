"""tools/visualization/dfc_attention.py: what it computes, draws, saves and refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from mmghostnetv2.models import DFCAttention, GhostNetV2
from mmghostnetv2.visualization import decoupled_attention, full_attention

from ..test_models.conftest import randomise
from .conftest import load_tool

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools' / 'visualization' / 'dfc_attention.py'
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
CLASSIFIER = f"""
custom_imports = dict(imports=['mmghostnetv2'], allow_failed_imports=False)
default_scope = 'mmpretrain'
data_preprocessor = dict(mean={MEAN}, std={STD}, to_rgb=True)
model = dict(
    type='ImageClassifier', backbone=dict(type='GhostNetV2', widen_factor=0.3)
)
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='CenterCrop', crop_size=(96, 64)),
    dict(type='LoadAnnotations'),  # of which a single picture has none
    dict(type='PackInputs'),
]
test_dataloader = dict(dataset=dict(pipeline=pipeline))
"""
DETECTOR = f"""
_base_ = '{ROOT}/configs/digits/yolov3_ghostnetv2_320_digits.py'
model = dict(backbone=dict(widen_factor=0.3), neck=dict(in_channels=[48, 32, 12]))
"""


@pytest.fixture(scope='module')
def tool():
    return load_tool(TOOL)


@pytest.fixture(scope='module')
def picture(tmp_path_factory):
    """A picture of 120 x 64 pixels without two alike."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 120, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp('picture') / 'noise.png'
    Image.fromarray(pixels).save(path)
    return path, pixels


def save(weights, path):
    torch.save(dict(state_dict=weights, meta={}), path)
    return str(path)


class Classifier:
    """Config and checkpoint of a classifier with random weights."""

    def __init__(self, folder):
        pytest.importorskip('mmpretrain')
        self.folder = folder
        self.network = randomise(GhostNetV2(0.3)).eval()
        self.weights = {
            f'backbone.{key}': value for key, value in self.network.state_dict().items()
        }
        self.config = folder / 'classifier.py'
        self.config.write_text(CLASSIFIER)
        self.checkpoint = save(self.weights, folder / 'classifier.pth')


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    return Classifier(tmp_path_factory.mktemp('classifier'))


def test_a_classifiers_maps(tool, classifier, picture, tmp_path, capsys):
    path, pixels = picture
    out = tmp_path / 'new' / 'maps.png'
    arguments = [classifier.config, classifier.checkpoint, path, '--out', out]
    arguments += ['--blocks', '8.3', '3.0', '--positions', '0.25,0.5', '95,0']
    tool.main(list(map(str, arguments)))

    arrays = np.load(out.with_suffix('.npz'))
    names = 'gate', 'vertical', 'horizontal', 'product', 'full', 'image'
    assert set(arrays) == {'picture'} | {
        f'{block}/{position}/{name}'
        for block in ('3.0', '8.3')
        for position in ('24,32', '95,0')
        for name in names
    }
    seen = pixels[:, 12:108]
    np.testing.assert_array_equal(arrays['picture'], seen)

    # the block's input by hand: the network up to the stage before
    x = torch.tensor((seen - np.array(MEAN)) / STD, dtype=torch.float32)
    x = x.permute(2, 0, 1)[None].requires_grad_()
    features = classifier.network.act1(
        classifier.network.bn1(classifier.network.conv_stem(x))
    )
    features = classifier.network.blocks[:3](features)
    assert features.shape[-2:] == (16, 24)
    attention = classifier.network.blocks[3][0].ghost1.short_conv
    gate = attention.gate(features)
    for pixel, position, place in (
        ('24,32', (8, 6), (4, 3)),
        ('95,0', (0, 23), (0, 11)),
    ):
        got = {name: torch.tensor(arrays[f'3.0/{pixel}/{name}']) for name in names}
        vertical, horizontal, product = decoupled_attention(
            attention, (16, 24), position
        )
        torch.testing.assert_close(got['product'], product)
        torch.testing.assert_close(got['vertical'][:, place[1]], vertical)
        torch.testing.assert_close(got['vertical'].sum(), vertical.sum())
        torch.testing.assert_close(got['horizontal'][place[0]], horizontal)
        torch.testing.assert_close(got['horizontal'].sum(), horizontal.sum())
        torch.testing.assert_close(
            got['full'], full_attention(attention, features, position)
        )
        torch.testing.assert_close(got['gate'], gate[0].mean(0).detach())
        value = gate[0, :, position[0], position[1]].mean()
        gradient = torch.autograd.grad(value, x, retain_graph=True)[0]
        torch.testing.assert_close(got['image'], gradient[0].norm(dim=0))

    printed = capsys.readouterr().out
    assert f'wrote {out} and {out.with_suffix(".npz")}' in printed
    product = arrays['3.0/24,32/product']
    share = (product[4].sum() + product[:, 3].sum() - product[4, 3]) / product.sum()
    assert f'3.0 at 24,32: {share:.1%} on the cross, flat: 36.0%' in printed
    # in the corner 3 x 3 of the 5 x 5 are left
    assert printed.count(f'flat: {5 / 9:.1%}') == 1
    with Image.open(out) as image:
        assert image.width == 1170 and len(image.convert('RGB').getcolors(2**20)) > 99


def test_one_channel(tool, classifier, picture, tmp_path, capsys):
    """Against weights and gradients by hand, for two of them."""
    attention = classifier.network.blocks[3][0].ghost1.short_conv
    _, _, row, row_norm, column, column_norm = attention
    taps = [
        (
            conv.weight.flatten(1)
            * (norm.weight / (norm.running_var + 1e-5).sqrt())[:, None]
        )
        .abs()
        .detach()
        for conv, norm in ((column, column_norm), (row, row_norm))
    ]
    products = torch.einsum('ch,cw->chw', *taps)  # all inside the 8 x 12 places
    shares = [(p[2].sum() + p[:, 2].sum() - p[2, 2]) / p.sum() for p in products]

    out = tmp_path / 'maps.png'
    arguments = [classifier.config, classifier.checkpoint, picture[0], '--out', out]
    arguments = [*map(str, arguments), '--blocks', '3.0', '--positions', '24,32']
    arguments.append('--force')
    seen = {}
    for channel in (0, 1):
        tool.main([*arguments, '--channel', str(channel)])
        printed = f'3.0 at 24,32, channel {channel}: {shares[channel]:.1%} on the cross'
        assert printed in capsys.readouterr().out
        arrays = np.load(out.with_suffix('.npz'))
        maps = {name.split('/')[-1]: arrays[name] for name in arrays}
        np.testing.assert_allclose(
            maps['product'][2:7, 1:6], products[channel], rtol=1e-4
        )
        total = products[channel].sum().item()
        assert maps['product'].sum() == pytest.approx(total, rel=1e-4)
        seen[channel] = maps
    # what else is drawn is of this channel, too: it leaves nothing of the others
    for name in ('gate', 'full', 'image'):
        assert not np.allclose(seen[1][name], seen[0][name])
    x = torch.tensor((seen[1]['picture'] - np.array(MEAN)) / STD, dtype=torch.float32)
    with torch.no_grad():
        network = classifier.network
        x = network.act1(network.bn1(network.conv_stem(x.permute(2, 0, 1)[None])))
        x = network.blocks[:3](x)
        gate = attention.gate(x)[0, 1]
    np.testing.assert_allclose(seen[1]['gate'], gate, rtol=1e-4)
    full = full_attention(attention, x, (8, 6), channel=1)
    x.requires_grad_()
    attention.gate(x)[0, 1, 8, 6].backward()
    torch.testing.assert_close(full, x.grad[0].norm(dim=0))
    np.testing.assert_allclose(seen[1]['full'], full, rtol=1e-4, atol=1e-8)


def test_a_detectors_maps(tool, picture, tmp_path):
    """A picture of 96 x 51 pixels is padded to 96 x 64."""
    pytest.importorskip('mmdet')
    from mmengine.config import Config
    from mmengine.registry import MODELS, DefaultScope

    config, out = tmp_path / 'detector.py', tmp_path / 'maps.png'
    config.write_text(DETECTOR)
    with DefaultScope.overwrite_default_scope('mmdet'):
        network = MODELS.build(Config.fromfile(config).model)
    checkpoint = save(randomise(network).state_dict(), tmp_path / 'detector.pth')
    argv = [config, checkpoint, picture[0], '--out', out]
    argv += ['--positions', '1.0,1.0', '--blocks', '2', '--cfg-options']
    argv += ['test_dataloader.dataset.pipeline.1.scale=(96,96)']
    tool.main(list(map(str, argv)))
    arrays = np.load(out.with_suffix('.npz'))
    assert arrays['picture'].shape == (51, 96, 3)
    maps = {key.rpartition('/')[2]: arrays[key] for key in arrays if '95,50' in key}
    assert len(maps) == 6 and maps['image'].shape == (64, 96)
    assert maps['full'].shape == (16, 24) and maps['product'].shape == (8, 12)
    # row 12 of the features, and so 6 of the half-sized ones, whose window is 4 to 8
    rows, columns = maps['product'].nonzero()
    assert (rows.min(), rows.max(), columns.min()) == (4, 7, 9)
    assert out.is_file()


def peaked(end):
    """Maps of an attention whose taps fall from one in the middle to ``end``."""
    attention = DFCAttention(1).eval()
    for conv in (attention[2], attention[4]):
        conv.weight.data[:] = torch.tensor([end, 0.4, 1, 0.4, end]).view_as(conv.weight)
    features = torch.randn(1, 1, 16, 24)
    vertical, horizontal, product = decoupled_attention(attention, (16, 24), (8, 6))
    maps = dict(product=product, full=full_attention(attention, features, (8, 6)))
    maps['vertical'], maps['horizontal'] = product.clone(), product.clone()
    for column in range(12):
        maps['vertical'][:, column] = vertical * (column == 3)
    for row in range(8):
        maps['horizontal'][row] = horizontal * (row == 4)
    maps['gate'] = attention.gate(features)[0, 0]
    maps['image'] = torch.rand(64, 96)
    return {name: value.detach().numpy() for name, value in maps.items()}


def test_what_is_drawn_where(tool):
    """A picture of 90 x 60 pixels in an input of 96 x 64: four pixels a feature."""
    maps = peaked(0.2)
    picture = np.full((60, 90, 3), 200, np.uint8)
    figure = tool.draw([('2.0', (24, 32), maps)] * 2, picture, (64, 96), 'the title')
    figure.canvas.draw()
    assert figure.get_suptitle() == 'the title'
    panels = figure.axes[:12]
    assert [panel.get_title() for panel in panels[:6]] == list(tool.TITLES.values())
    assert panels[0].get_ylabel() == panels[6].get_ylabel() == '2.0'
    gate, vertical, horizontal, product, full, image = panels[6:]
    for panel in panels:
        (marker,) = panel.lines
        assert (marker.get_xdata()[0], marker.get_ydata()[0]) == (24.5, 32.5)
    for panel, name in ((gate, 'gate'), (image, 'image')):
        drawn = panel.images[-1]
        np.testing.assert_array_equal(drawn.get_array(), maps[name])
        assert drawn.get_extent() == [0, 96, 64, 0]
        assert panel.get_xlim() == (0, 90) and panel.get_ylim() == (60, 0)
    assert gate.images[0].get_extent() == [0, 90, 60, 0]
    weights = maps['product'][maps['product'] > 0]  # the widest range of all
    largest = np.abs(np.log2(weights / weights.mean())).max()
    for panel, name in (
        (vertical, 'vertical'),
        (horizontal, 'horizontal'),
        (product, 'product'),
        (full, 'full'),
    ):
        (drawn,) = panel.images
        weights = maps[name]
        shown = drawn.get_array()
        np.testing.assert_array_equal(np.ma.getmaskarray(shown), weights == 0)
        expected = np.log2(weights[weights > 0] / weights[weights > 0].mean())
        np.testing.assert_allclose(shown.compressed(), expected, rtol=1e-5)
        assert drawn.get_extent() == [0, 96, 64, 0]
        assert drawn.norm.vmax == -drawn.norm.vmin == pytest.approx(largest)
        # columns 1 to 5 and rows 2 to 6, of eight pixels each, and one around
        assert panel.get_xlim() == (0, 56) and panel.get_ylim() == (64, 8)
    (frame,) = gate.patches
    assert frame.get_bbox().extents.tolist() == [0, 8, 56, 64]


def test_half_sized_maps_end_where_the_features_they_read_do(tool):
    """Of seven rows of 8 pixels and five columns of 12 the last are not read."""
    attention, size, position = DFCAttention(1).eval(), (7, 5), (3, 2)
    attention[2].weight.data.fill_(0.5)
    attention[4].weight.data.fill_(0.5)
    features = torch.randn(1, 1, *size)
    names = 'vertical', 'horizontal', 'product'
    maps = dict.fromkeys(names, decoupled_attention(attention, size, position)[2])
    maps['full'] = full_attention(attention, features, position)
    maps |= dict(gate=attention.gate(features)[0, 0], image=torch.rand(56, 60))
    maps = {name: value.detach().numpy() for name, value in maps.items()}
    assert maps['product'].shape == (3, 2)
    assert [places.max() for places in maps['full'].nonzero()] == [5, 3]
    picture = np.zeros((56, 60, 3), np.uint8)
    figure = tool.draw([('8.3', (28, 28), maps)], picture, (56, 60), '')
    for panel in figure.axes[1:4]:
        assert panel.images[0].get_extent() == [0, 48, 48, 0]
        assert panel.get_xlim() == (-24, 72) and panel.get_ylim() == (64, -16)
        # weights that are all equal: the scale goes to a factor of two still
        assert (panel.images[0].norm.vmin, panel.images[0].norm.vmax) == (-1, 1)
    assert figure.axes[4].images[0].get_extent() == [0, 60, 56, 0]


def test_a_cross_is_red_on_blue(tool):
    """Pixel by pixel of the decoupled panel."""
    figure = tool.draw(
        [('2.0', (24, 32), peaked(0.02))], np.zeros((64, 96, 3), np.uint8), (64, 96), ''
    )
    assert figure.axes[3].images[0].norm.vmax == 3  # an eighth and less are alike
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    panel = figure.axes[3]
    pixels = np.asarray(canvas.buffer_rgba()).astype(int)

    def colour(column, row):
        """In the middle of a half-sized place."""
        x, y = panel.transData.transform((8 * column + 2, 8 * row + 2))
        return pixels[len(pixels) - 1 - int(y), int(x), :3]

    for column, row in ((3, 4), (2, 4), (4, 4), (3, 3), (3, 5)):
        red, _, blue = colour(column, row)
        assert red > blue + 20, (column, row)
    for column, row in ((1, 2), (5, 2), (1, 6), (5, 6), (2, 2)):
        red, _, blue = colour(column, row)
        assert blue > red + 20, (column, row)
    assert len(set(colour(0, 1).tolist())) == 1  # grey: no weight


def test_which_blocks_are_chosen(tool):
    paths = ['backbone.blocks.2.0.ghost1', 'backbone.blocks.2.0.ghost2']
    paths += ['backbone.blocks.6.0.ghost1', 'backbone.blocks.6.1.ghost1']
    inputs = {f'{path}.short_conv': path for path in paths}
    inputs['neck.layers.0.dfc'] = 'neck'
    network = torch.nn.Identity()

    def chosen(*blocks):
        return list(tool.select(inputs, network, list(blocks)))

    assert chosen() == ['2.0', '2.0.ghost2', '6.0', 'neck.layers.0.dfc']
    assert chosen('all') == ['2.0', '2.0.ghost2', '6.0', '6.1', 'neck.layers.0.dfc']
    assert chosen('6', '2.0') == ['2.0', '2.0.ghost2', '6.0', '6.1']
    assert chosen('6.1', 'neck') == ['6.1', 'neck.layers.0.dfc']
    with pytest.raises(ValueError, match='no such block 2.;'):
        chosen('2.')
    with pytest.raises(ValueError, match='no DFC attention in this network'):
        tool.select({}, network, [])


@pytest.mark.parametrize(
    ('text', 'pixel'),
    [
        ('0,0', (0, 0)),
        ('95,63', (95, 63)),
        ('0.0,1.0', (0, 63)),
        ('.5,0.999', (48, 63)),
        ('1,0.5', (1, 32)),
    ],
)
def test_positions(tool, text, pixel):
    assert tool.locate(text, 96, 64) == pixel


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--positions', '96,0'], 'position 96,0 is outside the picture, 96 x 64 pix'),
        (['--positions', '0,64'], 'position 0,64 is outside the picture'),
        (['--positions', '0.5,1.01'], 'position 0.5,1.01 is outside the picture'),
        (['--positions', '0.5'], 'position 0.5 is not X,Y such as'),
        (['--channel', '999'], 'channel 999 is not one of 0 to '),
        (['--positions', 'a,b'], 'position a,b is not X,Y such as'),
        (['--blocks', '0.0'], 'no DFC attention in block 0.0; blocks with it: 2.0, 3.'),
        (['--blocks', '2.0', '9.7'], 'no such block 9.7; blocks with it: 2.0, 3.0'),
        (
            ['--cfg-options', 'model.backbone.widen_factor=0.4'],
            'classifier.pth belongs to a different network',
        ),
        (
            ['--cfg-options', 'test_dataloader=None'],
            'classifier.py has no test_dataloader',
        ),
    ],
    ids=lambda value: ' '.join(value) if isinstance(value, list) else '',
)
def test_what_does_not_fit_is_named(
    tool, classifier, picture, tmp_path, options, message
):
    out = tmp_path / 'maps.png'
    arguments = [classifier.config, classifier.checkpoint, picture[0], '--out', out]
    with pytest.raises((RuntimeError, ValueError), match=message):
        tool.main([*map(str, arguments), *options])
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('number', [0, 1, 2], ids=['config', 'checkpoint', 'image'])
def test_files_that_are_missing_or_damaged_are_named(
    tool, classifier, picture, tmp_path, number
):
    arguments = [str(classifier.config), classifier.checkpoint, str(picture[0])]
    arguments += ['--out', str(tmp_path / 'maps.png')]
    file = tmp_path / Path(arguments[number]).name
    arguments[number] = str(file)
    with pytest.raises((RuntimeError, OSError), match=file.name):
        tool.main(arguments)
    if number > 0:
        file.write_bytes(b'nothing of the kind')
        with pytest.raises((RuntimeError, OSError), match=file.name):
            tool.main(arguments)


def test_a_picture_of_no_format_is_refused(tool, capsys):
    with pytest.raises(SystemExit):
        tool.main(['config.py', 'checkpoint.pth', 'image.png', '--out', 'maps.npz'])
    assert 'argument --out: must end in .png or ' in capsys.readouterr().err
