r"""Draw a detector's predictions and the ground truth on a contact sheet.

Example:
    python tools/visualization/contact_sheet.py \
        data/digits/detection/annotations/instances_val.json \
        data/digits/detection/val work_dirs/digits/results.bbox.json \
        --out sheet.png

The tool takes COCO annotations and the file PREFIX.bbox.json that mmdet's CocoMetric
writes with test_evaluator.outfile_prefix=PREFIX: a list of {image_id, category_id, bbox
[x, y, width, height] in pixels, score}.

Ground truth has thick blue boxes with the class below. Predictions have thin orange
boxes with class and score above. If there is only one class, it is not named. A label
that would cover another object is moved to another side of its box. A prediction
matches if its IoU with a box of its class that is not matched yet is at least
--iou-thr; predictions with a high score are matched first. Crowds are left out.
"""

import json
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools.mask import iou

from mmghostnetv2.arguments import (
    add_integers,
    add_out,
    make_parser,
    run_tool,
    share,
)
from mmghostnetv2.output import require_free, written

TRUTH, PREDICTION = (30, 110, 255), (255, 150, 0)
PAPER, INK, FAINT = (255, 255, 255), (25, 25, 30), (110, 110, 120)
GAP, CAPTION, HEADER = 14, 56, 74  # space and heights in pixels
# Fields that the tool reads of each item, and the types that JSON may give them.
FIELDS = {
    'images': ('id', 'file_name'),
    'annotations': ('image_id', 'category_id', 'bbox'),
    'categories': ('id', 'name'),
    'results': ('image_id', 'category_id', 'bbox', 'score'),
}
NUMBER = int, float
TYPES = {'bbox': list, 'file_name': str, 'name': str, 'score': NUMBER}
SMALL, LARGE = ImageFont.load_default(14), ImageFont.load_default(22)


def read_json(path):
    """Read a JSON file; raise a ValueError that names it if it has other content."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f'{path} is not JSON: {error}') from error


def is_list(items, part):
    """Return whether JSON is a list of items that have the fields of a part."""

    def has(item, field):
        value = item.get(field)
        if field == 'bbox' and isinstance(value, list):
            return [isinstance(x, NUMBER) for x in value] == [True] * 4
        return isinstance(value, TYPES.get(field, (int, str)))

    return isinstance(items, list) and all(
        isinstance(item, dict) and all(has(item, field) for field in FIELDS[part])
        for item in items
    )


def check(truth, predictions, args):
    """Raise a ValueError unless the two files belong together."""
    parts = 'images', 'annotations', 'categories'
    if not (
        isinstance(truth, dict)
        and all(is_list(truth.get(part), part) for part in parts)
        and truth['images']
    ):
        wanted = '; '.join(f'{part}: {", ".join(FIELDS[part])}' for part in parts)
        raise ValueError(f'{args.annotations} holds no COCO annotations ({wanted})')
    if not is_list(predictions, 'results'):
        wanted = ', '.join(FIELDS['results'])
        raise ValueError(f'{args.predictions} is not a list of COCO results ({wanted})')
    for key, part in (('image_id', 'images'), ('category_id', 'categories')):
        known = {item['id'] for item in truth[part]}
        for path, items in (
            (args.annotations, truth['annotations']),
            (args.predictions, predictions),
        ):
            if foreign := sorted({item[key] for item in items} - known, key=str):
                raise ValueError(
                    f'{path} belongs to another set: its {key} {foreign[:5]} are not '
                    f'among the {part} of {args.annotations}'
                )


def count_matches(truth, predictions, iou_thr):
    """Count the predictions that match a box of the truth, see the module's text."""
    free = list(truth)
    for prediction in sorted(predictions, key=lambda item: -item['score']):
        same = [t for t in free if t['category_id'] == prediction['category_id']]
        boxes = [t['bbox'] for t in same]
        overlaps = iou([prediction['bbox']], boxes, [0] * len(boxes))
        if same and overlaps.max() >= iou_thr:
            free.remove(same[overlaps.argmax()])
    return len(truth) - len(free)


def overlap(one, other):
    """Return the area that two boxes (left, top, right, bottom) share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)


def draw_tag(draw, size, box, text, colour, below, taken):
    """Draw the label of a box above (or below) it, inside the picture.

    Where it would cover one of the boxes in ``taken``, it moves to the other sides, to
    the place that covers least. The label's own box is added to ``taken``.
    """
    x1, y1, x2, y2 = box
    left, top, right, bottom = draw.textbbox((0, 0), text, font=SMALL)
    width, height = right - left + 6, bottom - top + 6
    above = [(x1, y1 - height), (x2 - width, y1 - height)]
    under = [(x1, y2), (x2 - width, y2)]
    beside = [(x, y) for x in (x2, x1 - width) for y in (y1, y2 - height)]
    places = [*under, *beside, *above] if below else [*above, *beside, *under]
    tags = []
    for x, y in places:
        x = max(min(x, size[0] - 1 - width), 0)
        y = max(min(y, size[1] - 1 - height), 0)
        tags.append((x, y, x + width, y + height))
    tag = min(tags, key=lambda tag: sum(overlap(tag, other) for other in taken))
    taken.append(tag)
    draw.rectangle(tag, fill=colour)
    place = tag[0] + 3 - left, tag[1] + 3 - top
    draw.text(place, text, PAPER if below else INK, SMALL)


def draw_cell(image, truth, predictions, names, cell):
    """Resize one picture to ``cell`` pixels and draw its boxes and their labels."""
    scale = cell / max(image.size)
    size = [max(1, round(side * scale)) for side in image.size]
    image = image.convert('RGB').resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    tags, taken = [], []
    # Lines of the truth are wider, so that they show under those of predictions.
    for items, colour, grow in ((truth, TRUTH, 1), (predictions, PREDICTION, 0)):
        for item in sorted(items, key=lambda item: item.get('score', 1)):
            x, y, w, h = (value * scale for value in item['bbox'])
            box = (x - grow, y - grow, x + max(w, 1) + grow, y + max(h, 1) + grow)
            draw.rectangle(box, None, colour, 2 + 2 * grow)
            below, text = 'score' not in item, names[item['category_id']]
            text = text if below else f'{text}  {item["score"]:.2f}'.strip()
            box = (x, y, x + w, y + h)
            taken.append(box)
            if text:
                tags.append((box, text, colour, below))
    for tag in tags:
        draw_tag(draw, image.size, *tag, taken)
    return image


def draw_cells(truth, predictions, args):
    """Draw the chosen images; return [(cell, name, matched, objects, extra)]."""
    names = {item['id']: item['name'] for item in truth['categories']}
    if len(names) == 1:
        names = dict.fromkeys(names, '')
    images = sorted(truth['images'], key=lambda item: item['file_name'])
    num = min(args.num, len(images))
    picks = np.linspace(0, len(images) - 1, num).round().astype(int)
    if args.seed is not None:
        picks = np.random.default_rng(args.seed).choice(len(images), num, False)
    cells = []
    for item in (images[pick] for pick in sorted(picks)):
        path = args.images / item['file_name']
        boxes, found = (
            [x for x in items if x['image_id'] == item['id']]
            for items in (truth['annotations'], predictions)
        )
        boxes = [x for x in boxes if not x.get('iscrowd')]
        found = [x for x in found if x['score'] >= args.score_thr]
        with Image.open(path) as image:
            cell = draw_cell(image, boxes, found, names, args.cell)
        matched = count_matches(boxes, found, args.iou_thr)
        cells.append((cell, path.name, matched, len(boxes), len(found) - matched))
    return cells


def lay_out(cells, total, args):
    """Place the cells under a headline and a legend; return sheet and headline."""
    matched, objects, extra = np.sum([cell[2:] for cell in cells], axis=0)
    headline = (
        f'{len(cells)} of {total} images: {matched} of {objects} objects matched, '
        f'{extra} extra'
    )
    columns = min(args.columns, len(cells))
    captions = [
        (name, f'{matched} of {objects} matched, {extra} extra')
        for _, name, matched, objects, extra in cells
    ]
    # Captions may be wider than small cells.
    longest = max(SMALL.getlength(line) for lines in captions for line in lines)
    pitch = max(args.cell, math.ceil(longest)) + GAP
    cells = [
        (image, *lines) for (image, *_), lines in zip(cells, captions, strict=True)
    ]
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    heights = [max(cell.height for cell, *_ in row) + CAPTION for row in rows]
    width = max(columns * pitch + GAP, 640)  # the legend's width at least
    sheet = Image.new('RGB', (width, HEADER + sum(heights)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), headline, INK, LARGE)
    x, y = GAP, HEADER
    for colour, text in (
        (TRUTH, 'truth'),
        (PREDICTION, f'prediction, score at least {args.score_thr:g}'),
        (PAPER, f'matched: same class, IoU at least {args.iou_thr:g}'),
    ):
        draw.rectangle((x, 47, x + 22, 61), None, colour, 4)
        draw.text((x + 30, 46), text, FAINT, SMALL)
        x += round(draw.textlength(text, SMALL)) + 54
    for row, height in zip(rows, heights, strict=True):
        for column, (cell, name, caption) in enumerate(row):
            x = GAP + column * pitch
            sheet.paste(cell, (x, y))
            draw.text((x, y + cell.height + 4), name, INK, SMALL)
            draw.text((x, y + cell.height + 21), caption, FAINT, SMALL)
        y += height
    return sheet, headline


def main(argv=None):
    parser = make_parser(__doc__)
    add = parser.add_argument
    add('annotations', metavar='ANNOTATIONS', type=Path, help='COCO annotations, JSON')
    add('images', metavar='IMAGES', type=Path, help='folder of the images')
    add('predictions', metavar='PREDICTIONS', type=Path, help='COCO results, JSON')
    suffixes = ['.png', *(s for s in Image.registered_extensions() if s != '.png')]
    default = Path('contact_sheet.png')
    text = f'image to write (default: {default})'
    add_out(parser, text, suffixes, default=default)
    options = {
        'num': (12, 1, 'number of images'),
        'columns': (4, 1, 'images beside each other'),
        'cell': (320, 64, 'longer side of an image in pixels'),
        'seed': (None, 0, 'choose images at random (default: evenly spaced by name)'),
    }
    add_integers(parser, options)
    text = 'lowest score of a prediction (default: 0.3)'
    add('--score-thr', type=share, default=0.3, metavar='X', help=text)
    text = 'lowest IoU of a match (default: 0.5)'
    add('--iou-thr', type=share, default=0.5, metavar='X', help=text)
    args = parser.parse_args(argv)
    require_free([args.out], args.force)

    truth, predictions = read_json(args.annotations), read_json(args.predictions)
    check(truth, predictions, args)
    cells = draw_cells(truth, predictions, args)
    sheet, headline = lay_out(cells, len(truth['images']), args)
    with written(args.out) as path:
        sheet.save(path)
    print(f'{args.out}: {headline}')


if __name__ == '__main__':
    run_tool(main)
