"""What the tools that export have in common: arguments, the network, their files."""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path

from mmengine.config import DictAction
from torch import nn

from ..apis import init_model
from ..arguments import at_least_one
from ..errors import exit_with_message
from ..models import fold_norms
from .metadata import metadata_path
from .networks import OUTPUTS, deployable


def export_parser(doc: str, suffix: str) -> argparse.ArgumentParser:
    """Make the parser of a tool that exports a model.

    Args:
        doc (str): Description of the tool.
        suffix (str): What the file's name has to end in, with the dot.

    Returns:
        argparse.ArgumentParser: Its arguments are ``config``, ``checkpoint``,
        ``shape``, ``out``, ``output``, ``with_preprocess``, ``check``, ``image``,
        ``force`` and ``cfg_options``. A tool adds its own.
    """

    def out_file(text: str) -> Path:
        if Path(text).suffix != suffix:
            raise argparse.ArgumentTypeError(f'must end in {suffix}, got {text}')
        return Path(text)

    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('config', metavar='CONFIG', help='config file, or the name of one of ours')
    add(
        'checkpoint',
        metavar='CHECKPOINT',
        nargs='?',
        help='file or URL with the weights; without it they are random',
    )
    add(
        '--shape',
        metavar=('H', 'W'),
        nargs='+',
        type=at_least_one,
        required=True,
        help='height and width of the images, pixels; one number for squares',
    )
    add(
        '--out',
        metavar=f'NAME{suffix}',
        type=out_file,
        required=True,
        help=f'file to write, beside it NAME{suffix}.json, which describes it',
    )
    add(
        '--output',
        choices=OUTPUTS,
        default='predictions',
        help="what it returns: predictions (default), a detector's dense boxes and "
        "scores before suppression, or the backbone's features",
    )
    add(
        '--with-preprocess',
        action='store_true',
        help='take RGB pixels of 0 to 255; normalisation becomes part of the network',
    )
    add('--check', action='store_true', help='compare with torch before writing')
    add(
        '--image',
        metavar='IMAGE',
        help='picture for --check, stretched to --shape; a generated one by default',
    )
    add('--force', action='store_true', help='overwrite the files')
    add(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='changes of the config',
    )
    return parser


def load_network(
    args: argparse.Namespace, change: Callable[[nn.Module], object] | None = None
) -> tuple[nn.Module, nn.Module, tuple[int, ...]]:
    """Build what the command line asks for, or exit with a message.

    Args:
        args (argparse.Namespace): As :func:`export_parser` reads them.
        change (Callable, optional): Is called with the folded model and changes it in
            place.

    Returns:
        tuple[nn.Module, nn.Module, tuple[int, ...]]: The model as it was trained; the
        network to export, which has a folded copy of its layers; and the shape of the
        images, (1, 3, H, W).
    """
    if len(args.shape) > 2:
        sys.exit(f'--shape takes height and width, got {len(args.shape)} numbers')
    height, width = args.shape[0], args.shape[-1]
    require_free([args.out, metadata_path(args.out)], args.force)
    if args.image and not args.check:
        sys.exit('--image is for --check')
    with exit_with_message():
        model = init_model(args.config, args.checkpoint, args.cfg_options)
        folded = fold_norms(deepcopy(model))
        if change is not None:
            change(folded)
        network = deployable(folded, args.output, args.with_preprocess)
    divisor = getattr(model.data_preprocessor, 'pad_size_divisor', 1) or 1
    if height % divisor or width % divisor:
        sys.exit(
            f'--shape {height} {width}: this model pads its images to multiples of '
            f'{divisor}, so both must be such'
        )
    return model, network, (1, 3, height, width)


def require_free(paths: Iterable[Path], force: bool) -> None:
    """Exit with a message where a file is there and must not be overwritten.

    Args:
        paths (Iterable[Path]): Files to write.
        force (bool): Whether files may be overwritten; folders may not.
    """
    for path in paths:
        if path.is_dir():
            sys.exit(f'{path} is a folder')
        if path.exists() and not force:
            sys.exit(f'{path} exists; --force overwrites it')


@contextmanager
def written(out: Path) -> Iterator[Path]:
    """Let files appear together once all are complete, or none of them.

    An error inside ends the tool with a message; so does a folder in which nothing can
    be written, before the work.

    Args:
        out (Path): File to write. Its folder is made where there is none.

    Yields:
        Path: Where to write it, in a folder of its own with the same name. What else is
        written there goes to the folder of ``out``, too.
    """
    target = out.parent
    made = [folder for folder in (target, *target.parents) if not folder.exists()]
    with exit_with_message():
        try:
            target.mkdir(parents=True, exist_ok=True)
            # where moving a file is to rename it
            with tempfile.TemporaryDirectory(prefix='.export-', dir=target) as folder:
                yield Path(folder, out.name)
                for path in sorted(Path(folder).iterdir()):
                    os.replace(path, target / path.name)
        except BaseException:
            for folder in made:
                with suppress(OSError):  # not made, or in use
                    folder.rmdir()
            raise
