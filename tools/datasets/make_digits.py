"""Draw small detection, segmentation and classification sets of real digits.

Example:
    python tools/datasets/make_digits.py --out-dir data/digits --seed 0

The ink is real: the 1797 handwritten digits (8x8 pixels) that come with scikit-learn,
so nothing is downloaded. They are the test part of the UCI set "Optical Recognition of
Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998, CC BY 4.0). Size, slant, colours,
paper and noise are random. Train and val use different source digits (80 and 20 % of
each class). scikit-learn does not say who wrote which digit, so both may have digits
of the same writers.

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

Detection has ten categories named '0' to '9' with ids 1 to 10. ``bbox`` is the tight
box [x, y, width, height] of the mask in pixels, ``area`` the mask's pixel
count, ``segmentation`` its run-length code (uncompressed, column by column),
``source`` (ours) the digit's index into load_digits. Masks never overlap.

Segmentation follows ADE20K (``reduce_zero_label=True``): 1 is the background, 2 to 11
are the digits 0 to 9, and 0 is unlabelled: the thin soft edge of a stroke, where ink
and paper mix. The labels 2 to 11 are exactly the masks of detection.
"""

import json
import os
import shutil
from functools import partial
from itertools import product

import numpy as np
from PIL import Image

from mmghostnetv2.arguments import run_tool
from mmghostnetv2.digits import (
    draw_digit,
    draw_paper,
    finish,
    lay_ink,
    load_sources,
    make_set,
    render_digit,
)
from mmghostnetv2.output import progress

GENERATOR = dict(name='mmghostnetv2 make_digits', version=2)
PARTS = ('detection', 'segmentation', 'classification')
FOLDERS = {'train': 'training', 'val': 'validation'}  # COCO's name: ADE20K's name
NUM_DIGITS = (4, 12)  # digits in a picture; there are fewer if they do not fit
DIGIT_SIZE = (36 / 320, 80 / 320)  # a digit's height as a share of the picture's
MAX_COVER = 0.15  # share of a digit's box that boxes of larger digits may cover
OPTIONS = {  # option: default, smallest, help
    'seed': (0, 0, 'seed of the random numbers'),
    'train': (432, 1, 'pictures to train on'),
    'val': (96, 1, 'pictures to validate on'),
    'size': (320, 96, 'their height and width in pixels'),
    'cls_size': (96, 32, 'height and width of the classification pictures'),
    'cls_copies': (8, 1, 'classification pictures of each digit to train on'),
    'workers': (os.cpu_count(), 1, 'processes'),
}


def deal(indices, count, rng):
    """Return ``count`` lists of indices; no index repeats before all were used."""
    ends = np.cumsum(rng.integers(*NUM_DIGITS, count, endpoint=True))
    rounds = -(-ends[-1] // len(indices))
    deck = np.concatenate([rng.permutation(indices) for _ in range(rounds)])
    return np.split(deck, ends)[:-1]


def find_place(edge, seg, boxed, rng):
    """Try random places for a digit (h, w); return its two slices or None."""
    for _ in range(30):
        y, x = (int(rng.integers(len(seg) - side + 1)) for side in edge.shape)
        patch = slice(y, y + edge.shape[0]), slice(x, x + edge.shape[1])
        untouched = (seg[patch][edge > 0.1] == 1).all()
        if untouched and boxed[patch].mean() <= MAX_COVER:
            return patch
    return None


def annotate(mask, label, source):
    """Return COCO's annotation of a boolean (h, w) mask, without its two ids."""
    left, top, right, bottom = Image.fromarray(mask).getbbox()
    # The first run counts zeros; its length is 0 if the first pixel is set.
    cuts = np.flatnonzero(np.diff(mask.ravel(order='F'), prepend=False))
    counts = np.diff([0, *cuts, mask.size]).tolist()
    return {
        'category_id': 1 + int(label),
        'bbox': [left, top, right - left, bottom - top],
        'area': int(mask.sum()),
        'iscrowd': 0,
        'segmentation': {'size': list(mask.shape), 'counts': counts},
        'source': int(source),
    }


def draw_scene(size, hand, rng):
    """Draw the digits of ``hand``, indices into load_digits, in one picture.

    Returns the image, its label map (size, size) with ADE20K's values, and an
    annotation for each digit that is in the picture.
    """
    sources, labels = load_sources()
    canvas, annotations = draw_paper(size, rng), []
    seg, boxed = np.ones((size, size), np.uint8), np.zeros((size, size), bool)
    heights = np.exp(rng.uniform(*np.log(DIGIT_SIZE), len(hand))) * size
    for index, height in zip(hand, np.sort(heights)[::-1], strict=True):
        edge, ink = render_digit(sources[index], height, rng)
        patch = find_place(edge, seg, boxed, rng)
        if patch is None:
            continue  # there is no free place for it
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
    draw_digit(canvas, sources[index], (0.5, 0.75), (0.3, 0.7), rng)
    folder = root / 'classification' / split / str(labels[index])
    # Noise compresses badly: more effort takes three times as long and saves nothing.
    finish(canvas, rng).save(folder / f'{index:04d}_{copy}.png', compress_level=1)


def coco_json(split, size, found):
    """Return COCO's JSON of one split; ``found`` is the annotations by picture."""
    images, annotations = [], []
    for number, items in enumerate(found, 1):
        name = f'{number:012d}.jpg'
        images.append({'id': number, 'file_name': name, 'width': size, 'height': size})
        for item in items:
            annotations.append({'id': len(annotations) + 1, 'image_id': number, **item})
    coco = {'info': {'description': f'{GENERATOR["name"]}, {split}'}, 'licenses': []}
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
    found = list(progress(found, f'{split}, pictures of digits', count))
    path = root / f'detection/annotations/instances_{split}.json'
    path.write_text(coco_json(split, args.size, found))
    single = partial(write_single, root, split, args.cls_size, args.seed)
    copies = range(args.cls_copies if split == 'train' else 1)
    jobs = list(product(indices, copies))
    singles = pool.map(single, *zip(*jobs, strict=True), chunksize=32)
    list(progress(singles, f'{split}, single digits', len(jobs)))


def main(argv=None):
    args = make_set(argv, __doc__, 'data/digits', OPTIONS, GENERATOR, PARTS, draw_split)
    if args:
        out = args.out_dir
        print(f'{out}/detection: {args.train} train + {args.val} val, COCO layout')
        print(f'{out}/segmentation: the same pictures, ADE20K layout')
        print(f'{out}/classification: {args.cls_copies} train pictures of each digit')


if __name__ == '__main__':
    run_tool(main)
