"""Pictures from which a quantiser learns the ranges of a network's values."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .check import sample_pixels
from .networks import Normalize, PixelFormat

SUFFIXES = {'.bmp', '.gif', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp'}


def find_pictures(paths: Sequence[Path], number: int = 100) -> list[Path]:
    """List the pictures in paths: files, and folders that are searched for pictures.

    If there are more than ``number``, evenly spaced ones are chosen.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A folder has no pictures.
    """
    files = []
    for path in paths:
        found = [path]
        if path.is_dir():
            found = sorted(p for p in path.rglob('*') if p.suffix.lower() in SUFFIXES)
        elif not path.exists():
            raise FileNotFoundError(f'no such picture or folder: {path}')
        if not found:
            raise ValueError(f'{path} has no pictures')
        files += found
    chosen = np.linspace(0, len(files) - 1, min(number, len(files))).round()
    return [files[int(i)] for i in chosen]


def read_calibration(
    files: Sequence[Path], size: tuple[int, int], pixels: PixelFormat | None
) -> Tensor:
    """Read pictures as batches of one, (number, 1, 3, H, W).

    Each is stretched to ``size``, height and width. ``pixels`` tells how to normalise
    them; None leaves them as they are.

    Raises:
        OSError: A file is not a picture.
    """
    arrays = [sample_pixels(size, file) for file in files]
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float()
    if pixels is not None:
        images = Normalize(pixels)(images)
    return images[:, None].contiguous()
