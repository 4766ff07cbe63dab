"""The command line that all tools share: their arguments and how they end."""

import argparse
import atexit
import gc
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.runner import CheckpointLoader
from torch import nn

from .apis import change_config, init_model, read_config, require_model
from .checkpoint import read_weights, require_training

# The messages of these errors are clear alone. Others are shown with the error's type.
READABLE = (ValueError, OSError, RuntimeError, ImportError)
# Warnings about OpenMMLab's own code and configs, which a user cannot act on
IGNORED_WARNINGS = (
    'pkg_resources is deprecated as an API',
    "'pin_memory' argument is set as true but no accelerator",
)


class _Parser(argparse.ArgumentParser):
    """A parser whose help begins with what the tool does."""

    def __init__(self, doc: str) -> None:
        super().__init__()
        self.doc = doc

    def format_help(self) -> str:
        return f'{self.doc.strip()}\n\n{super().format_help()}'


class _ShapeAction(argparse.Action):
    """Stores ``--shape H [W]`` as (H, W); one number stands for a square."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        if len(values) > 2:
            parser.error(f'{option_string} takes H and W, got {len(values)} numbers')
        setattr(namespace, self.dest, (values[0], values[-1]))


class _OptionsAction(DictAction):
    """Reads ``--cfg-options KEY=VALUE ...``; other text is a wrong argument."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        for text in values:
            key, _, value = text.partition('=')
            try:
                if not (value and all(key.split('.'))):
                    raise ValueError('must be KEY=VALUE, such as model.head.loss=None')
                super().__call__(parser, namespace, [text], option_string)
            except Exception as error:  # mmengine asserts that brackets are balanced
                parser.error(f'argument {option_string}: {text}: {error}')


def make_parser(doc: str) -> argparse.ArgumentParser:
    """Make the parser of a tool; its help begins with ``doc``, the docstring."""
    return _Parser(doc)


def at_least(low: int) -> Callable[[str], int]:
    """Return a ``type`` for add_argument: whole numbers of at least ``low``."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(
                f'must be a whole number of at least {low}, got {text}'
            )
        return int(text)

    return read


positive_int = at_least(1)


def share(text: str) -> float:
    """Read a number from 0 to 1, as a ``type`` for add_argument."""
    number = float(text)  # argparse reports what is not a number
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f'must be from 0 to 1, got {text}')
    return number


Integers = Mapping[str, tuple[int | None, int, str]]


def add_integers(parser: argparse.ArgumentParser, options: Integers) -> None:
    """Add options that take a whole number: {name: (default, smallest value, help)}."""
    for name, (default, low, text) in options.items():
        text = f'{text}, at least {low}'
        parser.add_argument(
            f'--{name.replace("_", "-")}',
            type=at_least(low),
            default=default,
            metavar='N',
            help=text if default is None else f'{text} (default: {default})',
        )


def add_config(parser: argparse.ArgumentParser, checkpoint: str | None = '?') -> None:
    """Add the positional ``CONFIG [CHECKPOINT]`` and ``--cfg-options``.

    ``checkpoint`` is '?' for an optional checkpoint, '1' for a required one, and None
    for a tool that takes no checkpoint.
    """
    add = parser.add_argument
    add('config', metavar='CONFIG', help='config file, or the name of one of ours')
    text = 'file or URL of the weights'
    if checkpoint == '?':
        text = f'{text}; without it they are random'
        add('checkpoint', metavar='CHECKPOINT', nargs='?', help=text)
    elif checkpoint == '1':
        add('checkpoint', metavar='CHECKPOINT', help=text)
    add_cfg_options(parser)


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options KEY=VALUE ...``, read as a dict."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_OptionsAction,
        default={},
        metavar='KEY=VALUE',
        help='changes of the config, such as model.backbone.widen_factor=1.3',
    )


def load_config(args: argparse.Namespace) -> Config:
    """Read the config given by the arguments of :func:`add_config`.

    Raises:
        RuntimeError: The config is missing or invalid; the message names it.
    """
    with named_errors(args.config):
        cfg = read_config(args.config)
        change_config(cfg, args.cfg_options)
    return cfg


def load_model(args: argparse.Namespace) -> nn.Module:
    """Build the model given by the arguments of :func:`add_config`, with its weights.

    Raises:
        RuntimeError: Config or checkpoint is missing or invalid; the message names it.
    """
    config = load_config(args)
    with named_errors(args.config):
        return init_model(config, args.checkpoint)


def add_runner(parser: argparse.ArgumentParser, checkpoint: str | None) -> None:
    """Add the arguments that :func:`runner_config` reads, with :func:`add_config`'s."""
    add_config(parser, checkpoint)
    add = parser.add_argument
    add('--work-dir', metavar='DIR', help='folder of logs, metrics and checkpoints')
    launchers = ['none', 'pytorch', 'slurm', 'mpi']
    text = 'program that started the processes (default: none)'
    add('--launcher', choices=launchers, default='none', help=text)
    # torch.distributed.launch passes this option. It is not used, because the launcher
    # also sets the environment variable LOCAL_RANK, which mmengine reads.
    add('--local-rank', '--local_rank', type=int, help=argparse.SUPPRESS)


def runner_config(
    args: argparse.Namespace, checkpoint: str | None, resumes: bool = False
) -> Config:
    """Read the config of :func:`load_config` and set its launcher and its work_dir.

    Raises:
        FileNotFoundError, OSError, RuntimeError: The config has no model, or the
            checkpoint cannot be read, or is to be resumed and not that of a training. A
            runner would notice it only after it has begun its logs and read the data.
        ValueError: torchrun started more processes on this machine than it has GPUs.
    """
    cfg = load_config(args)
    require_model(cfg)
    _require_gpus(cfg)
    # Processes that are not connected yet would all download the same file.
    if checkpoint and args.launcher == 'none':
        read_weights(checkpoint)
        if resumes:
            saved = CheckpointLoader.load_checkpoint(checkpoint, 'cpu')
            require_training(saved, checkpoint)
    cfg.launcher = args.launcher
    default = cfg.get('work_dir') or f'work_dirs/{Path(cfg.filename).stem}'
    cfg.work_dir = args.work_dir or default
    return cfg


def _require_gpus(cfg: Config) -> None:
    processes = int(os.environ.get('LOCAL_WORLD_SIZE', 1))  # torchrun sets it
    gpus = torch.cuda.device_count()
    can_use_cpu = str(cfg.get('runner_type')).endswith('GlooRunner')
    if 1 < processes > gpus and get_device() in ('cpu', 'cuda') and not can_use_cpu:
        raise ValueError(
            f'{processes} processes need as many GPUs, but PyTorch finds {gpus}: start '
            f'fewer, or let the CPU compute by configs/_base_/gloo_cpu.py'
        )


def add_shape(parser: argparse.ArgumentParser, **kwargs) -> None:
    """Add ``--shape H [W]``, read as a pair; ``kwargs`` are those of add_argument."""
    parser.add_argument(
        '--shape',
        metavar=('H', 'W'),
        nargs='+',
        type=positive_int,
        action=_ShapeAction,
        help='height and width of the images in pixels; one number for a square',
        **kwargs,
    )


def add_out(
    parser: argparse.ArgumentParser, help: str, suffixes: Sequence[str] = (), **kwargs
) -> None:
    """Add ``--out FILE`` and ``--force``.

    The name must end in one of ``suffixes``, if there are any. ``kwargs`` are those of
    add_argument, for example ``required=True``.
    """

    def out_file(text: str) -> Path:
        if suffixes and Path(text).suffix.lower() not in suffixes:
            allowed = ' or '.join(suffixes)
            raise argparse.ArgumentTypeError(f'must end in {allowed}, got {text}')
        return Path(text)

    metavar = f'FILE{suffixes[0]}' if suffixes else 'FILE'
    parser.add_argument('--out', metavar=metavar, type=out_file, help=help, **kwargs)
    parser.add_argument('--force', action='store_true', help='overwrite existing files')


def add_out_dir(
    parser: argparse.ArgumentParser, default: str | None, help: str
) -> None:
    """Add ``--out-dir DIR`` and ``--force``."""
    parser.add_argument(
        '--out-dir',
        metavar='DIR',
        type=Path,
        default=default,
        help=f'{help} (default: {default})' if default else help,
    )
    parser.add_argument('--force', action='store_true', help='overwrite existing files')


@contextmanager
def named_errors(source: object) -> Iterator[None]:
    """Turn any exception into a RuntimeError that begins with its source, e.g. a file.

    It may be of any type, because configs are programs and runtimes define their own
    exceptions.
    """
    try:
        yield
    except Exception as error:
        message = f'{source}: {type(error).__name__}: {_message(error)}'
        raise RuntimeError(message) from error


def _message(error: Exception) -> str:
    """Return an error's message without the traceback of a worker of a DataLoader."""
    text, _, traceback = str(error).strip().partition('Original Traceback')
    return traceback.splitlines()[-1] if traceback else text


def run_tool(main: Callable[[], int | None]) -> None:
    """Run a tool and end the process with the exit status that all tools share.

    The status is 0 or what ``main`` returns; 2 if the arguments are wrong (from
    argparse); 1 if something fails, with one line on stderr, and with the traceback
    before it if MMGHOSTNETV2_DEBUG is set in the environment; 130 after Ctrl-C.
    """
    for text in IGNORED_WARNINGS:
        warnings.filterwarnings('ignore', text, UserWarning)
    # Without this, Python searches all objects of torch for garbage when it ends, which
    # takes a second even after --help.
    atexit.register(gc.freeze)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if os.environ.get('MMGHOSTNETV2_DEBUG'):
            traceback.print_exc()
        message = ' '.join(_message(error).split())
        if not message or not isinstance(error, READABLE):
            message = f'{type(error).__name__}: {message}'
            message += ' (MMGHOSTNETV2_DEBUG=1 shows where)'
        print(f'error: {message}', file=sys.stderr)
        sys.exit(1)
