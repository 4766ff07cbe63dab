"""Draw small detection, segmentation and classification sets of real digits.

The ink is real: the 1797 handwritten digits (8x8 pixels) that come with
scikit-learn, so nothing is downloaded. They are the test part of the UCI set
"Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998,
CC BY 4.0). Size, slant, colours, paper and noise are drawn at random. Train and
val use different source digits (80 and 20 % of each class); the bundle does not
say who wrote what, so the two may share writers.

Example:
    python tools/datasets/make_digits.py --out data/digits --seed 0

Layout, each folder as its library's own dataset classes read it::

    data/digits/
    |-- digits.json                      manifest: seed, sizes, counts
    |-- detection/                       COCO: mmdet CocoDataset
    |   |-- annotations/instances_train.json, instances_val.json
    |   |-- train/000000000001.jpg ...   320x320, 4 to 12 digits a picture
    |   `-- val/...
    |-- segmentation/                    ADE20K: mmseg BaseSegDataset
    |   |-- images/training/000000000001.jpg ...   the pictures of detection
    |   |-- images/validation/...                  (hard links where possible)
    |   |-- annotations/training/000000000001.png ...  one byte a pixel
    |   `-- annotations/validation/...
    `-- classification/                  ImageNet: mmpretrain CustomDataset
        |-- train/0 ... train/9          96x96, every source digit eight times,
        `-- val/0 ... val/9              once in val: <index into load_digits>_0.png

Detection: ten categories named '0' to '9' with ids 1 to 10. ``bbox`` is the
tight box [x, y, width, height] of the mask in pixels, ``area`` the mask's pixel
count, ``segmentation`` its run-length code (uncompressed, column by column),
``source`` (ours) the digit's index into load_digits. Masks never overlap.

Segmentation, ADE20K's convention (``reduce_zero_label=True``): 1 background,
2 to 11 the digits 0 to 9, and 0 unlabelled: the thin soft rim of a stroke, where
ink and paper mix. The labels 2 to 11 are exactly the masks of detection.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

GENERATOR = 'mmghostnetv2 make_digits'
VERSION = 2  # raise it when the same seed draws other pictures
MANIFEST = 'digits.json'
PARTS = ('detection', 'segmentation', 'classification')
FOLDERS = {'train': 'training', 'val': 'validation'}  # COCO's and ADE20K's names
VAL_SHARE = 0.2  # of each class's source digits
NUM_DIGITS = (4, 12)  # in a picture, fewer where no room is left
DIGIT_SIZE = (36 / 320, 80 / 320)  # a digit's height as a share of the picture's
MAX_COVER = 0.15  # how much of a digit's box larger ones may cover
MIN_CONTRAST = 110  # luminance between ink and paper, of 255
LUMA = np.float32([0.299, 0.587, 0.114])
SMOOTH = Image.Resampling.LANCZOS
NUMBERS = {  # option: default, smallest, help
    'seed': (0, 0, 'another seed, other pictures'),
    'train': (480, 1, 'pictures to train on'),
    'val': (96, 1, 'pictures to validate on'),
    'size': (320, 96, 'their sides in pixels'),
    'cls-size': (96, 32, 'sides of the classification pictures'),
    'cls-copies': (8, 1, 'classification pictures of each digit to train on'),
    'workers': (os.cpu_count(), 1, 'processes'),
}


@cache
def load_sources():
    """Return all source digits (1797, 8, 8) as 0..1 and their labels (1797,)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        sys.exit('the digits come with scikit-learn: pip install scikit-learn')
    bundle = load_digits()
    return (bundle.images / 16).astype(np.float32), bundle.target


def split_sources(labels, seed):
    """Deal each class's digits out; returns lists of indices, 'train' and 'val'."""
    rng, train, val = np.random.default_rng([seed, 0]), [], []
    for digit in range(10):
        indices = rng.permutation(np.flatnonzero(labels == digit)).tolist()
        cut = round(len(indices) * VAL_SHARE)
        val += indices[:cut]
        train += indices[cut:]
    return {'train': train, 'val': val}


def deal(indices, count, rng):
    """Make ``count`` hands of NUM_DIGITS, all in turn before any comes twice."""
    ends = np.cumsum(rng.integers(*NUM_DIGITS, count, endpoint=True))
    rounds = -(-ends[-1] // len(indices))
    deck = np.concatenate([rng.permutation(indices) for _ in range(rounds)])
    return np.split(deck, ends)[:-1]


def render_digit(source, height, rng):
    """Enlarge one source digit to ``height`` pixels, slightly turned and stretched.

    Returns (h, w) arrays: ``edge``, 0..1, how much of a pixel the stroke covers, and
    ``ink``, how opaque it is there, less where the source is paler.
    """
    cell = height / 8  # pixels a source pixel
    aspect, angle = rng.uniform(0.8, 1.2), rng.uniform(-15, 15)
    size = round(12 * cell * aspect), round(12 * cell)
    image = Image.fromarray(np.pad(source / source.max(), 2)).resize(size, SMOOTH)
    value = np.asarray(image.rotate(angle, Image.Resampling.BICUBIC, expand=True))
    # A ramp about 1.5 pixels wide around the level makes a pen's smooth outline.
    edge = np.clip((value - 0.46) / max(0.8 / cell, 0.08) + 0.5, 0, 1)
    rows, cols = np.flatnonzero(edge.any(1)), np.flatnonzero(edge.any(0))
    crop = slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)
    return edge[crop], (edge * np.clip(0.25 + 0.8 * value, 0, 1))[crop]


def draw_paper(size, rng):
    """Return (size, size, 3) light paper: a gradient, clouds, often a faint pattern."""
    tone = rng.uniform(185, 235)
    x = np.arange(size, dtype=np.float32) / size
    y = x[:, None]
    angle = rng.uniform(0, 2 * np.pi)
    along = (np.cos(angle) * x + np.sin(angle) * y).astype(np.float32)
    grid = rng.normal(size=[int(rng.integers(3, 14))] * 2).astype(np.float32)
    clouds = np.asarray(Image.fromarray(grid).resize((size, size), SMOOTH))
    period, strength = rng.uniform(0.06, 0.16), rng.uniform(-12, 12)
    u, v = x / period % 1, y / period % 1
    patterns = [
        np.zeros(size),
        (u < 0.07) | (v < 0.07),  # squared
        (u < 0.5) ^ (v < 0.5),  # chequered
        along / period % 1 < 0.5,  # striped
        (u - 0.5) ** 2 + (v - 0.5) ** 2 < 0.04,  # dotted
    ]
    grey = tone + clouds * rng.uniform(3, 11) + patterns[rng.integers(5)] * strength
    tint, drift = rng.uniform(-30, 30, (2, 3)).astype(np.float32)
    return grey.astype(np.float32)[..., None] + tint + along[..., None] * drift


def lay_ink(canvas, ink, rng):
    """Write ``ink`` (h, w) in a well-visible colour onto the canvas (h, w, 3)."""
    colours = rng.uniform(0, 255, (64, 3)).astype(np.float32)
    contrast = np.abs((colours - canvas.mean((0, 1))) @ LUMA)
    enough = np.flatnonzero(contrast >= MIN_CONTRAST)
    colour = colours[enough[0] if len(enough) else contrast.argmax()]
    canvas += ink[..., None] * (colour - canvas)


def finish(canvas, rng):
    """Add fine noise and turn (h, w, 3) floats into a Pillow image."""
    noise = rng.standard_normal(canvas.shape[:2], np.float32) * rng.uniform(1.5, 7)
    return Image.fromarray(np.clip(canvas + noise[..., None], 0, 255).astype(np.uint8))


def find_place(edge, seg, boxed, rng):
    """Try random corners for a stroke (h, w); returns its two slices or None."""
    for _ in range(30):
        y, x = (int(rng.integers(len(seg) - side + 1)) for side in edge.shape)
        patch = slice(y, y + edge.shape[0]), slice(x, x + edge.shape[1])
        untouched = (seg[patch][edge > 0.1] == 1).all()
        if untouched and boxed[patch].mean() <= MAX_COVER:
            return patch
    return None


def annotate(mask, label, source):
    """Describe a boolean (h, w) mask as COCO does, without its two ids."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(cols[0]), int(rows[0])
    flat = mask.ravel(order='F')
    cuts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    # The code begins with a run of zeros, an empty one if the first pixel is set.
    counts = [0] * bool(flat[0]) + np.diff([0, *cuts, flat.size]).tolist()
    return {
        'category_id': 1 + int(label),
        'bbox': [x, y, int(cols[-1]) - x + 1, int(rows[-1]) - y + 1],
        'area': int(mask.sum()),
        'iscrowd': 0,
        'segmentation': {'size': list(mask.shape), 'counts': counts},
        'source': int(source),
    }


def draw_scene(size, hand, rng):
    """Draw the digits of ``hand``, indices into load_digits, in one picture.

    Returns the image, its label map (size, size) in ADE20K's values, and an
    annotation for each digit that found room.
    """
    sources, labels = load_sources()
    canvas, annotations = draw_paper(size, rng), []
    seg, boxed = np.ones((size, size), np.uint8), np.zeros((size, size), bool)
    heights = np.exp(rng.uniform(*np.log(DIGIT_SIZE), len(hand))) * size
    for index, height in zip(hand, np.sort(heights)[::-1], strict=True):
        edge, ink = render_digit(sources[index], height, rng)
        patch = find_place(edge, seg, boxed, rng)
        if patch is None:
            continue  # left out: better than unreadable
        lay_ink(canvas[patch], ink, rng)
        boxed[patch] = True
        mask = np.zeros_like(boxed)
        mask[patch] = edge >= 0.5
        seg[patch][edge > 0.1] = 0
        seg[mask] = 2 + labels[index]
        annotations.append(annotate(mask, labels[index], index))
    return finish(canvas, rng), seg, annotations


def write_scene(root, split, size, seed, number, hand):
    """Draw and save one picture for detection and segmentation."""
    rng = np.random.default_rng([seed, 2, len(split), number])
    image, seg, annotations = draw_scene(size, hand, rng)
    path = root / 'detection' / split / f'{number:012d}.jpg'
    image.save(path, quality=92)
    twin = root / 'segmentation/images' / FOLDERS[split] / path.name
    try:
        os.link(path, twin)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, twin)
    labels = root / 'segmentation/annotations' / FOLDERS[split] / f'{path.stem}.png'
    Image.fromarray(seg).save(labels)
    return annotations


def write_single(root, split, size, seed, index, copy):
    """Draw and save one digit, large and near the middle, for classification."""
    rng = np.random.default_rng([seed, 3, index, copy])
    sources, labels = load_sources()
    canvas = draw_paper(size, rng)
    edge, ink = render_digit(sources[index], size * rng.uniform(0.5, 0.75), rng)
    y, x = (round((size - side) * rng.uniform(0.3, 0.7)) for side in ink.shape)
    lay_ink(canvas[y : y + ink.shape[0], x : x + ink.shape[1]], ink, rng)
    folder = root / 'classification' / split / str(labels[index])
    finish(canvas, rng).save(folder / f'{index:04d}_{copy}.png')


def coco_json(split, size, found):
    """COCO's JSON text of one split from the list of annotations of each picture."""
    images, annotations = [], []
    for number, items in enumerate(found, 1):
        name = f'{number:012d}.jpg'
        images.append({'id': number, 'file_name': name, 'width': size, 'height': size})
        for item in items:
            annotations.append({'id': len(annotations) + 1, 'image_id': number, **item})
    coco = {'info': {'description': f'{GENERATOR}, {split}'}, 'licenses': []}
    coco |= {'images': images, 'annotations': annotations}
    coco['categories'] = [{'id': 1 + i, 'name': str(i)} for i in range(10)]
    return json.dumps(coco)


def draw_split(root, split, indices, args, pool):
    """Write one split of all three sets from the source digits ``indices``."""
    twin, count = FOLDERS[split], getattr(args, split)
    folders = [f'segmentation/images/{twin}', f'segmentation/annotations/{twin}']
    folders += [f'classification/{split}/{digit}' for digit in range(10)]
    for folder in [*folders, f'detection/{split}', 'detection/annotations']:
        (root / folder).mkdir(parents=True, exist_ok=True)
    hands = deal(indices, count, np.random.default_rng([args.seed, 1, len(split)]))
    scene = partial(write_scene, root, split, args.size, args.seed)
    found = pool.map(scene, range(1, count + 1), hands, chunksize=8)
    found = list(track(found, f'{split}, pictures of digits', total=count))
    path = root / f'detection/annotations/instances_{split}.json'
    path.write_text(coco_json(split, args.size, found))
    single = partial(write_single, root, split, args.cls_size, args.seed)
    copies = range(args.cls_copies if split == 'train' else 1)
    jobs = list(product(indices, copies))
    singles = pool.map(single, *zip(*jobs, strict=True), chunksize=32)
    list(track(singles, f'{split}, single digits', total=len(jobs)))


def parse_args(argv, doc, out, numbers):
    """Read the options ``numbers``, see NUMBERS, --out and --overwrite."""
    parser = argparse.ArgumentParser(
        description=doc.split('\n')[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add('--out', type=Path, default=Path(out), help='folder to make')
    for name, (default, low, text) in numbers.items():
        add(f'--{name}', type=int, default=default, help=f'{text}, at least {low}')
    add('--overwrite', action='store_true', help='replace a set this tool made')
    args = parser.parse_args(argv)
    for name, (_, low, _) in numbers.items():
        value = getattr(args, name.replace('-', '_'))
        if value < low:
            parser.error(f'argument --{name}: {value} is too small, at least {low}')
    return args


def check_target(out, manifest, parts, overwrite):
    """Return True if the set is there already; exit where ``out`` is not ours."""
    if not out.exists():
        return False
    names = {path.name for path in out.iterdir()} if out.is_dir() else {out.name}
    parameters = manifest['parameters']
    try:
        found = json.loads((out / MANIFEST).read_text())
        made_with = found['parameters']
        ours = found['generator'] == manifest['generator']
        ours = ours and names <= {*parts, MANIFEST}
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if names and not ours:
        sys.exit(f'{out} holds what this tool did not make: {sorted(names)[:5]}')
    if names and made_with != parameters and not overwrite:
        sys.exit(
            f'{out} holds another set, made with {made_with}, not {parameters}: '
            'give --overwrite to replace it, or another --out'
        )
    return bool(names) and not overwrite


@contextmanager
def new_set(out, manifest):
    """Give a folder to draw a set in, which becomes ``out`` when it is complete.

    It is hidden, beside the target, so an interrupted run leaves no half set; a set
    that ``out`` held before goes with it.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{out.name}.', dir=out.parent) as hidden:
        root = Path(hidden) / 'new'
        yield root
        (root / MANIFEST).write_text(json.dumps(manifest, indent=2) + '\n')
        if out.exists():
            out.rename(Path(hidden) / 'old')
        root.rename(out)


def tidy_when_stopped():
    """Let SIGINT and SIGTERM end the script as sys.exit does, without a traceback."""
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda number, _: sys.exit(128 + number))


def main(argv=None):
    args = parse_args(argv, __doc__, 'data/digits', NUMBERS)
    out = args.out.resolve()
    keys = ('seed', 'train', 'val', 'size', 'cls_size', 'cls_copies')
    parameters = {'version': VERSION} | {key: getattr(args, key) for key in keys}
    manifest = {'generator': GENERATOR, 'parameters': parameters}
    if check_target(out, manifest, PARTS, args.overwrite):
        print(f'{args.out} is there already, made with the same parameters')
        return
    splits = split_sources(load_sources()[1], args.seed)
    with new_set(out, manifest) as root, ProcessPoolExecutor(args.workers) as pool:
        for split, indices in splits.items():
            draw_split(root, split, indices, args, pool)
    singles = (
        f'{args.cls_copies * len(splits["train"])} train + {len(splits["val"])} val'
    )
    print(f'{args.out}/detection: {args.train} train + {args.val} val, COCO layout')
    print(f'{args.out}/segmentation: the same pictures, ADE20K layout')
    print(f'{args.out}/classification: {singles}, ImageNet layout')


if __name__ == '__main__':
    tidy_when_stopped()
    main()
