"""What the configs in ``configs/templates`` derive from the size of a data set."""

import json
from pathlib import Path

IMAGES_SEEN = 60_000  # enough for fine-tuning; more epochs on few images overfit
MIN_EPOCHS, MAX_EPOCHS = 12, 100


def count_images(path: str | Path) -> int:
    """Count the images of a data set.

    Args:
        path (str | Path): A file in COCO's format, or a folder of images, which may be
            in subfolders.

    Returns:
        int: The number of images; 0 if there is no such file or folder, so that a
        config can be read where the data are not.

    Raises:
        ValueError: The file is not in COCO's format.
    """
    path = Path(path)
    if path.is_dir():
        return sum(file.is_file() for file in path.rglob('*'))
    if not path.exists():
        return 0
    try:
        return len(json.loads(path.read_text(encoding='utf-8'))['images'])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{path} is not in the format of COCO: {error!r}') from error


def plan_epochs(num_images: int) -> int:
    """Return the number of epochs to fine-tune on a set of this many images.

    A training sees 60 000 images, but a set is used at least 12 and at most 100 times:
    100 images are trained for 100 epochs, 2000 for 30 and 100 000 for 12.
    """
    return min(MAX_EPOCHS, max(MIN_EPOCHS, IMAGES_SEEN // max(1, num_images)))
