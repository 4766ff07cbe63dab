"""Drawings of the network, made from its modules whenever the site is built.

``draw-block STAGE BLOCK`` draws the first Ghost module of a block with its attention,
``draw-network`` all blocks with sizes and channels.
"""

from html import escape

import torch
from docutils import nodes
from sphinx.util.docutils import SphinxDirective
from torch import nn

from mmghostnetv2.models import GhostNetV2

BOX, GAP, STEP = 230, 60, 62  # pixels: width of a box, between columns, from row to row
HEIGHT = 40  # pixels of a box


def describe(conv):
    """Return the kind and the size of a convolution, and its channels."""
    kernel = ' x '.join(map(str, conv.kernel_size))
    if conv.groups > 1:
        return f'depth-wise {kernel}, {conv.out_channels} channels'
    return f'convolution {kernel}, {conv.in_channels} to {conv.out_channels}'


def convolutions(module):
    """Return the descriptions of a module's convolutions, in order."""
    return [describe(x) for x in module.modules() if isinstance(x, nn.Conv2d)]


def box(x, y, lines, kind):
    """Draw a box with lines of text around a middle (x, y)."""
    drawn = f'<rect class="{kind}" x="{x - BOX / 2}" y="{y - HEIGHT / 2}" rx="5" '
    drawn += f'width="{BOX}" height="{HEIGHT}"/>'
    for number, line in enumerate(lines):
        down = y + 5 + 15 * (number - (len(lines) - 1) / 2)
        drawn += f'<text x="{x}" y="{down}" text-anchor="middle">{escape(line)}</text>'
    return drawn


def arrow(*points):
    """Draw an arrow along points."""
    path = ' '.join(f'{x},{y}' for x, y in points)
    return f'<polyline class="arrow" points="{path}" marker-end="url(#head)"/>'


def picture(width, height, parts, label):
    """Return a node of an SVG picture that fits the page."""
    head = (
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0 0 L8 4 L0 8 z"/></marker></defs>'
    )
    return [
        nodes.raw(
            '',
            f'<div class="drawing"><svg viewBox="0 0 {width} {height}" role="img" '
            f'aria-label="{escape(label)}" style="max-width:{width}px">'
            f'{head}{"".join(parts)}</svg></div>',
            format='html',
        )
    ]


class DrawBlock(SphinxDirective):
    """Draw a Ghost module with DFC attention."""

    required_arguments = 2

    def run(self):
        stage, block = map(int, self.arguments)
        ghost = GhostNetV2().blocks[stage][block].ghost1
        gate = ghost.short_conv
        (primary,), (cheap,) = map(
            convolutions, (ghost.primary_conv, ghost.cheap_operation)
        )
        size = '2 x 2'
        left, right = 20 + BOX / 2, 20 + BOX * 1.5 + GAP
        rows = [HEIGHT / 2 + 10 + STEP * number for number in range(8)]
        middle = (left + right) / 2
        attention = [
            [f'{gate.down_sampling} pooling {size}'],
            *([text, 'batch norm'] for text in convolutions(gate)),
            [gate.scale.__name__],
            [f'up-sampling, {gate.up_sampling}'],
        ]
        parts = [box(middle, rows[0], ['X: input of the Ghost module'], 'data')]
        parts.append(arrow((middle - 60, rows[0] + 20), (left, rows[1] - 20)))
        parts.append(arrow((middle + 60, rows[0] + 20), (right, rows[1] - 20)))
        for number, lines in enumerate(attention, 1):
            parts.append(box(right, rows[number], lines, 'attention'))
            if number > 1:
                above = rows[number - 1] + 20
                parts.append(arrow((right, above), (right, rows[number] - 20)))
        texts = [primary, 'batch norm, ReLU'], [cheap, 'batch norm, ReLU']
        for y, lines in zip((rows[1], rows[3]), texts, strict=True):
            parts.append(box(left, y, lines, 'ghost'))
        join = [f'concatenation, {ghost.out_channels} channels']
        parts.append(box(left, rows[5], join, 'ghost'))
        parts.append(arrow((left, rows[1] + 20), (left, rows[3] - 20)))
        parts.append(arrow((left, rows[3] + 20), (left, rows[5] - 20)))
        side = left - BOX / 2 - 12
        around = (left - BOX / 2, rows[1]), (side, rows[1]), (side, rows[5])
        parts.append(arrow(*around, (left - BOX / 2, rows[5])))
        end = [f'product, {ghost.out_channels} channels']
        parts.append(box(middle, rows[7], end, 'data'))
        parts.append(arrow((left, rows[5] + 20), (middle - 60, rows[7] - 20)))
        parts.append(arrow((right, rows[6] + 20), (middle + 60, rows[7] - 20)))
        label = f'First Ghost module of block {stage}.{block} with DFC attention'
        return picture(2 * BOX + GAP + 40, rows[7] + 30, parts, label)


class DrawNetwork(SphinxDirective):
    """Draw the stages: side and channels of the features, and where attention is."""

    def run(self):
        network = GhostNetV2(out_indices=tuple(range(10))).eval()
        with torch.no_grad():
            shapes = [x.shape for x in network(torch.zeros(1, 3, 224, 224))]
        parts, left = [], 150
        for stage, (_, channels, side, _) in enumerate(shapes):
            blocks = network.blocks[stage]
            y = 24 + 34 * stage
            parts.append(
                f'<text x="8" y="{y + 5}">stage {stage}: {side} x {side}</text>'
            )
            gated = [
                block
                for block in blocks
                if getattr(getattr(block, 'ghost1', None), 'short_conv', None)
            ]
            kind = 'attention' if gated else 'ghost'
            width = 14 + 420 * channels / 960
            parts.append(
                f'<rect class="{kind}" x="{left}" y="{y - 12}" rx="3" '
                f'width="{width:.0f}" height="24"/>'
            )
            count = f'{len(blocks)} block' + 's' * (len(blocks) > 1)
            if not hasattr(blocks[0], 'ghost1'):
                count = '1 x 1 convolution'
            text = f'{channels} channels, {count}'
            inside = width > 300
            x = left + width + (-8 if inside else 8)
            anchor = 'end' if inside else 'start'
            parts.append(
                f'<text x="{x:.0f}" y="{y + 5}" text-anchor="{anchor}">{text}</text>'
            )
        return picture(620, 24 + 34 * len(shapes), parts, 'Stages of GhostNetV2 1.0x')


def setup(app):
    """Register the directives."""
    app.add_directive('draw-block', DrawBlock)
    app.add_directive('draw-network', DrawNetwork)
    return {'parallel_read_safe': True}
