"""Draw pictures whose class is the relation of two distant handwritten digits.

Example:
    python tools/datasets/make_digit_pairs.py --out-dir data/digit_pairs --seed 0

The digits 0 to 4 stand in a circle. A picture, three times as wide as high, holds one
of them in its left third, a different one in its right third and nothing between. The
class is the shorter way around the circle from the left digit to the right one:

- ``pair_after``: the right digit is 1 or 2 steps after the left one (0 follows 4);
- ``pair_before``: the right digit is 1 or 2 steps before the left one.

No part of a picture tells the class. Every digit is as often on either side in both
classes, and swapping the two digits changes the class. So a network has to know which
digit is where.

A network hardly learns such a relation from pairs alone. Therefore train also holds
pictures with a single digit, on either side, in classes of their own, ``single_0`` to
``single_4``. Val has pairs alone; the classes of pairs come first and so have the same
numbers in both.

Digits, paper, ink and noise are those of make_digits.py; train and val use different
source digits.

Layout, as mmpretrain's CustomDataset reads it::

    data/digit_pairs/
    |-- digits.json                  manifest: seed, sizes, counts
    |-- train/pair_after/00000_0123-0456.png ...   indices into load_digits,
    |-- train/single_0/04800_0123-none.png ...     left and right
    `-- val/pair_after/ ...
"""

from functools import partial
from itertools import permutations

import numpy as np

from mmghostnetv2.arguments import run_tool
from mmghostnetv2.digits import draw_digit, draw_paper, finish, load_sources, make_set
from mmghostnetv2.output import progress

GENERATOR = dict(name='mmghostnetv2 make_digit_pairs', version=1)
PARTS = ('train', 'val')
CIRCLE = 5  # number of digits; odd, so that one way around is always shorter
DIGIT_SIZE = (0.5, 0.65)  # a digit's height as a share of the picture's
OPTIONS = {  # option: default, smallest, help
    'seed': (0, 0, 'seed of the random numbers'),
    'train': (4800, 1, 'pictures of two digits to train on'),
    'singles': (4800, 1, 'pictures of one digit to train on'),
    'val': (1000, 1, 'pictures of two digits to validate on'),
    'height': (48, 32, 'height of the pictures in pixels; the width is three times it'),
    'workers': (2, 1, 'processes'),
}


def relation(left, right):
    """Name the class of two different digits."""
    steps = (right - left) % CIRCLE
    return 'pair_after' if steps <= CIRCLE // 2 else 'pair_before'


def plan_pairs(count, sources, rng):
    """Return [(class, left source, right source)] of ``count`` pictures.

    All pairs of digits are equally frequent. ``sources`` lists, for each digit, its
    indices into load_digits.
    """
    pairs = list(permutations(range(CIRCLE), 2))
    rounds = [rng.permutation(pairs) for _ in range(-(-count // len(pairs)))]
    return [
        (relation(left, right), rng.choice(sources[left]), rng.choice(sources[right]))
        for left, right in np.concatenate(rounds)[:count]
    ]


def plan_singles(count, sources, rng):
    """Return the same for pictures with one digit, where the other source is None."""
    jobs = []
    for number in range(count):
        digit = number % CIRCLE
        places = [rng.choice(sources[digit]), None]
        jobs.append((f'single_{digit}', *places[:: rng.choice([1, -1])]))
    return jobs


def draw_picture(height, places, rng):
    """Draw a source digit, or nothing for None, in the left and the right third."""
    canvas = draw_paper(3 * height, rng)[:height]
    thirds = canvas[:, :height], canvas[:, -height:]
    for index, part in zip(places, thirds, strict=True):
        if index is not None:
            draw_digit(part, load_sources()[0][index], DIGIT_SIZE, (0.1, 0.9), rng)
    return finish(canvas, rng)


def write_picture(root, height, seed, number, job):
    """Draw and save one picture of :func:`plan_pairs` or :func:`plan_singles`."""
    name, *places = job
    rng = np.random.default_rng([seed, 2, len(root.name), number])
    sides = ['none' if index is None else f'{index:04d}' for index in places]
    path = root / name / f'{number:05d}_{"-".join(sides)}.png'
    draw_picture(height, places, rng).save(path)


def draw_split(root, split, indices, args, pool):
    """Write one split from the source digits ``indices``."""
    root = root / split
    rng = np.random.default_rng([args.seed, 1, len(split)])
    labels = load_sources()[1]
    sources = [[i for i in indices if labels[i] == digit] for digit in range(CIRCLE)]
    jobs = plan_pairs(getattr(args, split), sources, rng)
    if split == 'train':
        jobs += plan_singles(args.singles, sources, rng)
    for name in {job[0] for job in jobs}:
        (root / name).mkdir(parents=True)
    write = partial(write_picture, root, args.height, args.seed)
    done = pool.map(write, range(len(jobs)), jobs, chunksize=32)
    list(progress(done, f'{split}, pictures', len(jobs)))


def main(argv=None):
    args = make_set(
        argv, __doc__, 'data/digit_pairs', OPTIONS, GENERATOR, PARTS, draw_split
    )
    if args:
        print(
            f'{args.out_dir}: {args.train} pairs and {args.singles} single digits to '
            f'train on, {args.val} pairs to validate on'
        )


if __name__ == '__main__':
    run_tool(main)
