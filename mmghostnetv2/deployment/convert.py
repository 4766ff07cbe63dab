"""What the tools that export to OpenVINO, LiteRT and ncnn have in common."""

import argparse
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .check import PIXELS_EQUAL, check, network_input, sample_pixels
from .export import load_network, require_free, written
from .metadata import describe, save_metadata
from .networks import deployable, find_task
from .runtimes import (
    RUNTIMES,
    TOLERANCE,
    Session,
    check_runtime,
    flatten,
    largest_error,
    require_equal,
)

# of an output's largest value, where float32 rounds off less
EXACT = 1e-5


def require_same(
    network: nn.Module, session: Session, images: Tensor, runtime: str
) -> str:
    """Raise unless a runtime computes what torch does in double precision.

    Args:
        network (nn.Module): The network as it was trained. Its norms are not folded, so
            that a wrong fold is found, too.
        session (Session): What runs the file.
        images (Tensor): Batch of images, (N, 3, H, W).
        runtime (str): Name of the runtime, for messages.

    Returns:
        str: What was found to be equal.

    Raises:
        RuntimeError: An output differs by more than 1e-5 of its largest value, and by
            more than twice what torch differs in float32, or 1e-4; or, where it is of
            labels, in more than one of 10000.
    """
    outputs = session(images.numpy())
    with torch.no_grad():
        expected = flatten(deepcopy(network).double()(images.double()))
        rounded = flatten(network(images))
    if all(array.dtype.kind == 'f' for array in expected):
        rounding = max(map(largest_error, rounded, expected))
        tolerance = min(max(EXACT, 2 * rounding), TOLERANCE)
        require_equal(outputs, expected, tolerance, runtime)
        return f'outputs within {tolerance:.1e} of their largest value'
    if [a.shape for a in outputs] != [a.shape for a in expected]:
        raise RuntimeError(f'{runtime} returns labels of other shapes than torch')
    share = min(np.mean(a == b) for a, b in zip(outputs, expected, strict=True))
    if not share >= PIXELS_EQUAL:
        raise RuntimeError(f'{runtime} returns {1 - share:.2%} other labels than torch')
    return f'{share:.3%} of the labels'


def convert(
    args: argparse.Namespace,
    runtime: str,
    title: str,
    write: Callable[[nn.Module, Tensor, Path], object],
    suppresses: bool = False,
    finish: Callable[[nn.Module, Path], object] = lambda model, path: None,
) -> None:
    """Export what a command line asks for, or exit with a message.

    The file is written if it computes what torch does. ``--check`` also compares it
    with the library's ``predict``.

    Args:
        args (argparse.Namespace): As :func:`export_parser`'s parser reads them.
        runtime (str): A key of ``RUNTIMES``.
        title (str): Its name, for the eye.
        write (Callable): Writes a network, given images as it shall take, to a path.
        suppresses (bool): Whether it has a non-maximum suppression.
        finish (Callable): Is called with the model and the checked file.
    """
    try:
        check_runtime(runtime)
    except ImportError as error:
        sys.exit(f'{error}')
    if args.out.suffix in ('.xml', '.param'):
        require_free([args.out.with_suffix('.bin')], args.force)
    model, network, shape = load_network(args)
    detector = args.output == 'predictions' and find_task(model) == 'detection'
    if detector and not suppresses:
        sys.exit(
            f'{title} has no non-maximum suppression: export --output dense, whose '
            'boxes tools/deployment/run.py suppresses, or features'
        )
    with written(args.out) as path:
        pixels = sample_pixels(shape[2:], args.image)
        images = network_input(model, pixels, args.with_preprocess)
        images = torch.from_numpy(images)
        write(network, images, path)
        meta = describe(model, network, args.output, shape, checkpoint=args.checkpoint)
        save_metadata(meta, path)
        session = RUNTIMES[runtime].open(path, 1)
        if not detector:
            trained = deployable(model, args.output, args.with_preprocess)
            equal = require_same(trained, session, images, title)
            print(f'{title} and torch agree: {equal}')
        if detector or args.check:
            options = args.output, args.with_preprocess, title
            equal = check(model, session, pixels, *options)
            print(f"{title} and the library's predict agree: {equal}")
        finish(model, path)
        size = sum(file.stat().st_size for file in path.parent.iterdir())
    print(f'wrote {args.out}, {size / 1e6:.1f} MB, and {args.out.name}.json')
