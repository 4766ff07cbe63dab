"""Drawing of handwritten digits on paper, from which the tools make data sets.

The docstring of tools/datasets/make_digits.py says where the digits come from.
"""

import argparse
import json
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from .arguments import Integers, add_integers, add_out_dir, make_parser
from .output import written

MANIFEST = 'digits.json'
VAL_SHARE = 0.2  # share of each class's source digits in the validation set
MIN_CONTRAST = 110  # smallest difference in luminance of ink and paper, out of 255
# The weights of red, green and blue in luminance (ITU-R BT.601)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
SMOOTH = Image.Resampling.LANCZOS


@cache
def load_sources() -> tuple[np.ndarray, np.ndarray]:
    """Return all source digits (1797, 8, 8), from 0 to 1, and their labels (1797,).

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        message = 'the digits come with scikit-learn: pip install scikit-learn'
        raise ImportError(message) from error
    bundle = load_digits()
    return (bundle.images / 16).astype(np.float32), bundle.target


def split_sources(labels: np.ndarray, seed: int) -> dict[str, list[int]]:
    """Split the indices of each class's digits into 'train' and 'val'."""
    rng, train, val = np.random.default_rng([seed, 0]), [], []
    for digit in range(10):
        indices = rng.permutation(np.flatnonzero(labels == digit)).tolist()
        cut = round(len(indices) * VAL_SHARE)
        val += indices[:cut]
        train += indices[cut:]
    return {'train': train, 'val': val}


def render_digit(
    source: np.ndarray, height: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Enlarge one source digit to ``height`` pixels, slightly turned and stretched.

    Returns:
        tuple[np.ndarray, np.ndarray]: Arrays (h, w) from 0 to 1: the share of each
        pixel that the stroke covers, and the opacity of the ink, lower where the source
        is paler.
    """
    cell = height / 8  # pixels of the picture for one source pixel
    aspect, angle = rng.uniform(0.8, 1.2), rng.uniform(-15, 15)
    size = round(12 * cell * aspect), round(12 * cell)
    image = Image.fromarray(np.pad(source / source.max(), 2)).resize(size, SMOOTH)
    value = np.asarray(image.rotate(angle, Image.Resampling.BICUBIC, expand=True))
    # A ramp about 1.5 pixels wide around the level 0.46 smooths the stroke's outline.
    edge = np.clip((value - 0.46) / max(0.8 / cell, 0.08) + 0.5, 0, 1)
    rows, cols = np.flatnonzero(edge.any(1)), np.flatnonzero(edge.any(0))
    crop = slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)
    return edge[crop], (edge * np.clip(0.25 + 0.8 * value, 0, 1))[crop]


def draw_paper(size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw light paper (size, size, 3): a gradient, clouds, often a faint pattern."""
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


def lay_ink(canvas: np.ndarray, ink: np.ndarray, rng: np.random.Generator) -> None:
    """Draw ``ink`` (h, w) in a clearly visible colour onto the canvas (h, w, 3)."""
    colours = rng.uniform(0, 255, (64, 3)).astype(np.float32)
    contrast = np.abs((colours - canvas.mean((0, 1))) @ LUMA)
    enough = np.flatnonzero(contrast >= MIN_CONTRAST)
    colour = colours[enough[0] if len(enough) else contrast.argmax()]
    canvas += ink[..., None] * (colour - canvas)


def draw_digit(
    canvas: np.ndarray,
    source: np.ndarray,
    sizes: tuple[float, float],
    places: tuple[float, float],
    rng: np.random.Generator,
) -> None:
    """Draw one source digit at a random place of a square canvas (size, size, 3).

    Its height as a share of the canvas is random within ``sizes``. The shares of the
    free space that are above it and left of it are random within ``places``.
    """
    size = len(canvas)
    _, ink = render_digit(source, size * rng.uniform(*sizes), rng)
    y, x = (round((size - side) * rng.uniform(*places)) for side in ink.shape)
    lay_ink(canvas[y : y + ink.shape[0], x : x + ink.shape[1]], ink, rng)


def finish(canvas: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Add fine noise and turn (h, w, 3) floats into a Pillow image."""
    noise = rng.standard_normal(canvas.shape[:2], np.float32) * rng.uniform(1.5, 7)
    return Image.fromarray(np.clip(canvas + noise[..., None], 0, 255).astype(np.uint8))


def is_made(out: Path, manifest: Mapping, parts: Sequence[str], force: bool) -> bool:
    """Return whether a folder holds the set already.

    Raises:
        FileExistsError: The folder holds files that the tool did not make; or it holds
            another set, and ``force`` is false.
    """
    names = {path.name for path in out.iterdir()} if out.exists() else set()
    if not names:
        return False
    try:
        found = json.loads((out / MANIFEST).read_text())
        made_with = found['parameters']
        is_ours = found['generator'] == manifest['generator']
    except (OSError, ValueError, KeyError, TypeError):
        is_ours = False
    if not is_ours or names - {*parts, MANIFEST}:
        raise FileExistsError(
            f'{out} holds files that this tool did not make: {sorted(names)[:5]}'
        )
    if made_with != manifest['parameters'] and not force:
        raise FileExistsError(
            f'{out} exists and holds another set, made with {made_with}, not '
            f'{manifest["parameters"]}: --force replaces it'
        )
    return not force


def make_set(
    argv: Sequence[str] | None,
    doc: str,
    out_dir: str,
    options: Integers,
    generator: Mapping[str, object],
    parts: Sequence[str],
    draw_split: Callable,
) -> argparse.Namespace | None:
    """Read the arguments of a tool and draw its set, unless it is there already.

    Args:
        argv (Sequence[str], optional): Arguments; those of the process by default.
        doc (str): Docstring of the tool.
        out_dir (str): Folder of the set by default.
        options (Integers): As in :func:`add_integers`. All but ``workers`` determine
            the set.
        generator (Mapping[str, object]): 'name' and 'version' of the tool. The version
            must change when the same seed draws different pictures.
        parts (Sequence[str]): Names of the folders in the set.
        draw_split (Callable): Draws a split. It is called with the folder, the name of
            the split, the indices of its source digits, the arguments, and a pool of
            processes.

    Returns:
        argparse.Namespace | None: The arguments, or None if the set was there already.
    """
    parser = make_parser(doc)
    add_out_dir(parser, out_dir, 'folder of the set')
    add_integers(parser, options)
    args = parser.parse_args(argv)
    made_with = {key: getattr(args, key) for key in options if key != 'workers'}
    parameters = {'version': generator['version'], **made_with}
    manifest = {'generator': generator['name'], 'parameters': parameters}
    out = args.out_dir.resolve()
    if is_made(out, manifest, parts, args.force):
        print(f'{args.out_dir} is there already, made with the same parameters')
        return None
    splits = split_sources(load_sources()[1], args.seed)
    # Ctrl-C reaches all processes. The workers ignore it, so that it is reported once.
    ignore = signal.SIGINT, signal.SIG_IGN
    pool = ProcessPoolExecutor(args.workers, initializer=signal.signal, initargs=ignore)
    with written(out) as root:
        try:
            for split, indices in splits.items():
                draw_split(root, split, indices, args, pool)
        finally:
            # After an error, the end of a `with` would first draw all other pictures.
            pool.shutdown(cancel_futures=True)
        (root / MANIFEST).write_text(json.dumps(manifest, indent=2) + '\n')
    return args
