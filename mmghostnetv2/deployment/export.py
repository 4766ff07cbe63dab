"""Export of a model to the file of a runtime, compared with torch."""

from copy import deepcopy
from pathlib import Path

import torch
from torch import nn

from ..models import fold_norms
from .check import network_input, require_predictions, require_same, sample_pixels
from .metadata import describe, save_metadata
from .networks import deployable, find_task
from .runtimes import check_runtime, find_runtime

# In smaller images the deepest features have a side of one pixel, which DFC attention
# does not down-sample. A graph of free sizes cannot have this condition.
MIN_DYNAMIC_SIDE = 33


def export_model(
    model: nn.Module,
    path: Path,
    size: tuple[int, int],
    output: str = 'predictions',
    preprocess: bool = False,
    dynamic: bool = False,
    check: bool = False,
    image: str | Path | None = None,
    checkpoint: str | None = None,
    **compress: object,
) -> list[str]:
    """Write a model to a file; the suffix of ``path`` selects the runtime.

    Batch norms are folded in a copy of the model. Then the file is run, and its outputs
    are compared with those of torch, or a detector's boxes with those of the library's
    ``predict``.

    Args:
        model (nn.Module): What :func:`mmghostnetv2.init_model` returned. It may be in
            training mode, and stays as it is; a copy in eval mode is exported.
        path (Path): File to write. A description, ``path.name.json``, is written beside
            it, and the weights where the format keeps them apart.
        size (tuple[int, int]): Height and width of the images.
        output (str): What the file returns, see :func:`deployable`.
        preprocess (bool): Whether the file normalises, see :func:`deployable`.
        dynamic (bool): Whether the file takes batches and images of other sizes, too.
        check (bool): Whether to compare predictions with the library's ``predict`` for
            classifiers and segmentors, too.
        image (str | Path, optional): Picture to compare with, stretched to ``size``; a
            generated one by default.
        checkpoint (str, optional): File or URL of the model's weights, for the
            description.
        compress: Options in :attr:`Runtime.compress`, applied to the compared file.

    Returns:
        list[str]: What was compared, as sentences.

    Raises:
        ValueError: The suffix belongs to no runtime, the runtime does not have an
            option, ``output`` is not one of this model's, or the model does not take
            images of this size.
        ImportError: The runtime is not installed.
        NotImplementedError: The model, or this output of it, cannot be exported.
        RuntimeError: The network cannot be converted, or the file's outputs differ
            from those of torch.
    """
    runtime = find_runtime(path)
    title = runtime.title
    check_runtime(runtime.name)
    allowed = [*runtime.compress, *(['dynamic'] if runtime.dynamic else [])]
    for name in [*compress, *(['dynamic'] if dynamic else [])]:
        if name not in allowed:
            known = ', '.join(allowed)
            raise ValueError(f'{title} has no option {name!r}; its options: {known}')
    divisor = getattr(model.data_preprocessor, 'pad_size_divisor', 1) or 1
    if any(side % divisor for side in size):
        raise ValueError(
            f'size {size}: this model pads its images to multiples of {divisor}, so '
            'height and width must be such multiples'
        )
    is_detector = output == 'predictions' and find_task(model) == 'detection'
    if is_detector and not runtime.suppresses:
        raise NotImplementedError(
            f"{title} has no non-maximum suppression: export 'dense' boxes, "
            "which tools/deployment/run.py suppresses, or 'features'"
        )
    model = deepcopy(model)
    model.eval()
    network = deployable(fold_norms(deepcopy(model)), output, preprocess)
    pixels = sample_pixels(size, image)
    images = torch.from_numpy(network_input(model, pixels, preprocess))
    assert runtime.write is not None  # all runtimes that have a suffix write files
    runtime.write(network, images, path, **(dict(dynamic=True) if dynamic else {}))
    meta = describe(model, network, output, images.shape, dynamic, checkpoint)
    save_metadata(meta, path)
    said = []
    if runtime.runs:
        session = runtime.open(path, 1)
        if not is_detector:
            trained = deployable(model, output, preprocess)
            equal = require_same(trained, session, images, title)
            said.append(f'{title} and torch {equal}')
        if is_detector or (check and output == 'predictions'):
            equal = require_predictions(model, session, pixels, preprocess, title)
            said.append(f"{title} and the library's predict {equal}")
    else:
        said.append(f'{title} does not run here; only shapes were compared')
    for name, value in compress.items():
        runtime.compress[name](network, images, path, value)
    return said
