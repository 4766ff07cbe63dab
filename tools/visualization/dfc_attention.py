r"""Draw attention maps of DFC attention, as in Figure 6 of the GhostNetV2 paper.

Example:
    python tools/visualization/dfc_attention.py \
        configs/digits/yolov3_ghostnetv2_320_digits.py \
        work_dirs/yolov3_ghostnetv2_320_digits/epoch_6.pth \
        data/digits/detection/val/000000000001.jpg \
        --blocks 2.0 6.3 8.3 --positions 0.5,0.5 --out attention.png

The config is one of mmpretrain, mmdet or mmseg whose network has DFC attention. The
config's test pipeline prepares the image. The figure has a row for each block and
position; docs/dfc_attention.md explains the panels. The tool also saves the maps as
arrays, in attention.npz beside the figure.
"""

import re
from pathlib import Path

import numpy as np
from mmcv.transforms import Compose
from mmengine.dataset import pseudo_collate
from PIL import Image

from mmghostnetv2.arguments import (
    add_config,
    add_out,
    at_least,
    load_model,
    make_parser,
    named_errors,
    run_tool,
)
from mmghostnetv2.output import require_free, written
from mmghostnetv2.visualization import (
    decoupled_attention,
    down_sampled_position,
    full_attention,
    image_sensitivity,
    record_inputs,
)

TITLES = {
    'gate': 'gate over the picture',
    'vertical': 'vertical  $|F^H|$',
    'horizontal': 'horizontal  $|F^W|$',
    'product': 'decoupled  $|F^H|\\,|F^W|$',
    'full': 'full  $\\Vert\\partial g\\,/\\,\\partial X\\Vert$',
    'image': 'network  $\\Vert\\partial g\\,/\\,\\partial I\\,\\Vert$',
}


def read_image(model, path):
    """Return the picture in RGB after the test pipeline, and the network's input."""
    with named_errors(path), Image.open(path) as image:  # mmcv does not name the file
        image.load()
    steps = [
        step
        for step in model.cfg.test_dataloader.dataset.pipeline
        if 'Annotations' not in str(step['type'])  # a single picture has none
    ]
    data = Compose(steps)(dict(img_path=str(path), img_id=0))
    picture = data['inputs'].numpy().transpose(1, 2, 0)[..., ::-1]
    return picture, model.data_preprocessor(pseudo_collate([data]), False)['inputs']


def short_name(path):
    """Shorten a module's path; in GhostNetV2 only stage and block remain."""
    path = path.removeprefix('backbone.').removeprefix('blocks.')
    return path.removesuffix('.short_conv').removesuffix('.ghost1')


def select(inputs, model, blocks):
    """Choose attentions by their names or the names of modules that contain them."""
    named = {short_name(path): value for path, value in inputs.items()}
    names = list(named)
    if not names:
        raise ValueError('no DFC attention in this network')
    if blocks == ['all']:
        return named
    chosen = set()
    for block in blocks or (names[0], names[len(names) // 2], names[-1]):
        found = {name for name in names if f'{name}.'.startswith(f'{block}.')}
        if not found:
            known = {short_name(path) for path, _ in model.named_modules()}
            wrong = 'no DFC attention in' if block in known else 'no such'
            raise ValueError(
                f'{wrong} block {block}; blocks with it: {", ".join(names)}'
            )
        chosen |= found
    return {name: named[name] for name in names if name in chosen}


def locate(text, width, height):
    """Turn 'X,Y' into a pixel; numbers with a decimal point are fractions of a side."""
    match = re.fullmatch(r'(\d+|\d*\.\d+),(\d+|\d*\.\d+)', text)
    if not match:
        raise ValueError(f'position {text} is not X,Y such as 0.5,0.5 or 160,160')
    pixel = []
    for number, side in zip(match.groups(), (width, height), strict=True):
        value = float(number)
        if '.' in number:  # the very end of a side is its last pixel
            value = side - 1 if value == 1 else value * side
        if value >= side:
            raise ValueError(
                f'position {text} is outside the picture, {width} x {height} pixels'
            )
        pixel.append(int(value))
    return tuple(pixel)


def compute(attention, features, images, pixel, channel=None):
    """Return the maps of one attention for a pixel, {name: array}.

    They belong to one channel of the gate or, by default, are means over all channels.
    """
    size = tuple(features.shape[-2:])
    position = tuple(
        p * side // full
        for p, side, full in zip(pixel[::-1], size, images.shape[-2:], strict=True)
    )
    row, column = down_sampled_position(size, position)
    channels = attention[4].out_channels
    if channel is not None and channel >= channels:
        raise ValueError(f'channel {channel} is not one of 0 to {channels - 1}')
    weights = decoupled_attention(attention, size, position, channel)
    vertical, horizontal, product = weights
    gate = attention.gate(features)[0]
    maps = dict(
        gate=gate.mean(0) if channel is None else gate[channel],
        vertical=product.new_zeros(product.shape),
        horizontal=product.new_zeros(product.shape),
        product=product,
        full=full_attention(attention, features, position, channel),
        image=image_sensitivity(attention, features, images, position, channel),
    )
    maps['vertical'][:, column] = vertical
    maps['horizontal'][row] = horizontal
    return {name: value.detach().numpy() for name, value in maps.items()}


def cross_share(maps):
    """Return which shares of the product's weight and positions are on the cross."""
    product = maps['product']
    cross = (maps['vertical'] > 0) | (maps['horizontal'] > 0)
    return product[cross].sum() / product.sum(), cross[product > 0].mean()


def relative(weights):
    """Return log2 of weights over their mean, masked where there is no weight."""
    weights = np.ma.masked_equal(weights, 0)
    return np.ma.log2(weights / weights.mean())


def draw_row(axes, maps, pixel, picture, size, norm):
    """Draw the panels of one block and position; ``size`` is that of the input."""
    from matplotlib.colors import PowerNorm
    from matplotlib.patches import Rectangle

    panels = dict(zip(TITLES, axes, strict=True))
    height, width = size
    whole = (0, width, height, 0)
    # One position of the half-sized maps covers two rows and columns of the features.
    rows, columns = maps['product'].shape
    down = min(2 * height / maps['full'].shape[0], height / rows)
    across = min(2 * width / maps['full'].shape[1], width / columns)
    half = (0, columns * across, rows * down, 0)
    # The window is that of all weights and a margin of one position.
    y, x = maps['product'].nonzero()
    left, right = (x.min() - 1) * across, (x.max() + 2) * across
    top, bottom = (y.min() - 1) * down, (y.max() + 2) * down
    for name in ('vertical', 'horizontal', 'product', 'full'):
        extent = whole if name == 'full' else half
        panels[name].imshow(relative(maps[name]), 'RdBu_r', norm, extent=extent)
        panels[name].set(xlim=(left, right), ylim=(bottom, top), facecolor='0.85')
    on_cross, flat = cross_share(maps)
    panels['product'].set_xlabel(f'{on_cross:.0%} on the cross, flat: {flat:.0%}')

    bottom_right = picture.shape[1::-1]
    gate, image = maps['gate'], maps['image']
    panels['gate'].imshow(picture.mean(-1), 'gray', extent=(0, *bottom_right, 0))
    panels['gate'].imshow(gate, 'viridis', extent=whole, alpha=0.6)
    digits = 2 if np.ptp(gate) > 0.05 else 4  # before a training it hardly varies
    low, high = (f'{value:.{digits}f}' for value in (gate.min(), gate.max()))
    panels['gate'].set_xlabel(f'{low} (blue) to {high} (yellow)')
    panels['image'].imshow(image, 'magma', norm=PowerNorm(0.5, 0), extent=whole)
    panels['image'].set_xlabel('square root scale from 0')
    for name, colour in (('gate', 'black'), ('image', 'white')):
        sides = right - left, bottom - top
        frame = Rectangle((left, top), *sides, fill=False, edgecolor=colour)
        panels[name].add_patch(frame)
        panels[name].set(xlim=(0, bottom_right[0]), ylim=(bottom_right[1], 0))
    for name, panel in panels.items():
        colour = 'white' if name == 'image' else 'black'
        panel.plot(pixel[0] + 0.5, pixel[1] + 0.5, '+', color=colour)
        panel.tick_params(labelsize=7)
        panel.locator_params(nbins=4)


def draw(results, picture, size, title):
    """Draw a row of panels for each (label, pixel, maps)."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    figure = Figure((13, 2.4 * len(results) + 1), layout='constrained')
    figure.suptitle(title)
    axes = figure.subplots(len(results), len(TITLES), squeeze=False)
    # All panels share a colour scale, which reaches at least a factor of two, so that
    # small differences look small.
    logs = [
        np.abs(relative(maps[name])).max()
        for *_, maps in results
        for name in ('vertical', 'horizontal', 'product')
    ]
    limit = np.clip(max(logs), 1, 3)
    norm = Normalize(-limit, limit)
    for row, (label, pixel, maps) in zip(axes, results, strict=True):
        draw_row(row, maps, pixel, picture, size, norm)
        row[0].set_ylabel(label)
    for panel, text in zip(axes[0], TITLES.values(), strict=True):
        panel.set_title(text)
    bar = figure.colorbar(
        ScalarMappable(norm, 'RdBu_r'), ax=axes[:, 1:5], location='bottom', aspect=60
    )
    ticks = np.linspace(-limit, limit, 5)
    bar.set_ticks(ticks, labels=[f'{2**tick:.2g}' for tick in ticks])
    bar.set_label('weight over the mean of all weights (log scale); grey: no weight')
    return figure


def main(argv=None):
    parser = make_parser(__doc__)
    add_config(parser, checkpoint='1')
    add = parser.add_argument
    add('image', metavar='IMAGE', type=Path, help='image file')
    text = 'STAGE.BLOCK, STAGE for all of a stage, the path of a module, or all '
    text += '(default: the first, the middle and the last attention)'
    add('--blocks', nargs='+', metavar='BLOCK', help=text)
    default, text = ['0.5,0.5'], 'positions in the picture after the test pipeline, in '
    text += 'pixels or, with a decimal point, in fractions of a side (default: 0.5,0.5)'
    add('--positions', nargs='+', default=default, metavar='X,Y', help=text)
    text = 'channel of the gate to draw (default: the mean over all)'
    add('--channel', type=at_least(0), metavar='N', help=text)
    suffixes = '.png', '.jpg', '.pdf', '.svg'
    default = Path('dfc_attention.png')
    text = f'picture to write, with NAME.npz beside it (default: {default})'
    add_out(parser, text, suffixes, default=default)
    args = parser.parse_args(argv)
    maps_file = args.out.with_suffix('.npz')
    require_free([args.out, maps_file], args.force)

    model = load_model(args)
    if not model.cfg.get('test_dataloader'):
        raise ValueError(
            f'{args.config} has no test_dataloader, whose pipeline prepares the image'
        )
    picture, images = read_image(model, args.image)
    height, width = picture.shape[:2]
    pixels = [locate(text, width, height) for text in args.positions]
    images.requires_grad_()
    inputs = record_inputs(model, lambda: model.extract_feat(images))

    results, arrays = [], {}
    for name, (attention, features) in select(inputs, model, args.blocks).items():
        shape = ' x '.join(map(str, features.shape[1:]))
        for x, y in pixels:
            with named_errors(f'block {name}'):
                maps = compute(attention, features, images, (x, y), args.channel)
            of = '' if args.channel is None else f', channel {args.channel}'
            results.append((f'{name} at {x},{y}{of}\nX: {shape}', (x, y), maps))
            arrays |= {f'{name}/{x},{y}/{key}': value for key, value in maps.items()}
            on_cross, flat = cross_share(maps)
            shares = f'{on_cross:.1%} on the cross, flat: {flat:.1%}'
            print(f'{name} at {x},{y}{of}: {shares}')
    title = f'{args.image.name}, {Path(args.config).stem}; axes in pixels'
    with written(args.out) as path:
        draw(results, picture, images.shape[-2:], title).savefig(path, dpi=90)
        np.savez_compressed(path.with_suffix('.npz'), picture=picture, **arrays)
    print(f'wrote {args.out} and {maps_file}')


if __name__ == '__main__':
    run_tool(main)
