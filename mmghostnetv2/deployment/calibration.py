"""Pictures that tell a quantiser the ranges of a network's values."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .check import sample_pixels
from .networks import Normalize, PixelFormat

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.webp')


def read_calibration(
    paths: Sequence[Path],
    size: tuple[int, int],
    pixels: PixelFormat | None,
    number: int = 100,
) -> Tensor:
    """Read pictures as a network takes them, each stretched to its size.

    Args:
        paths (Sequence[Path]): Pictures, or folders that are searched for some.
        size (tuple[int, int]): Height and width.
        pixels (PixelFormat, optional): How to normalise; not at all by default.
        number (int): Largest number of pictures; of more, evenly spaced ones count.

    Returns:
        Tensor: Batches of one, (number, 1, 3, H, W).

    Raises:
        OSError: A file is missing, or no picture.
        ValueError: A folder has no pictures.
    """
    files = []
    for path in paths:
        found = [path]
        if path.is_dir():
            found = sorted(p for p in path.rglob('*') if p.suffix.lower() in SUFFIXES)
        if not found:
            raise ValueError(f'{path} has no pictures')
        files += found
    chosen = np.linspace(0, len(files) - 1, min(number, len(files))).round()
    arrays = [sample_pixels(size, files[int(i)]) for i in chosen]
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float()
    if pixels is not None:
        images = Normalize(pixels)(images)
    return images[:, None].contiguous()
