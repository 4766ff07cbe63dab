"""Output of the tools: files that appear only when complete, tables, and progress."""

import errno
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from operator import length_hint
from pathlib import Path
from time import monotonic
from typing import TypeVar

from mmengine.config import Config
from rich.console import Console
from rich.progress import track

T = TypeVar('T')
# Their messages name no file. EFBIG is that of a limit on the size of files.
FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG
LOG_SECONDS = 30  # time between two lines of progress in a log


def require_free(paths: Iterable[Path], force: bool) -> None:
    """Check that files can be written, before the work that makes them.

    Raises:
        FileExistsError: A file exists and ``force`` is false.
        OSError: A path is no file, or its own folder is a file or cannot be written.
    """
    for path in paths:
        if path.is_dir():
            raise IsADirectoryError(f'{path} is a folder')
        if path.exists() and not path.is_file():
            # Moving a complete file there would remove a device such as /dev/null.
            raise OSError(f'{path} is not a regular file')
        if path.exists() and not force:
            raise FileExistsError(f'{path} exists; --force overwrites it')
        folder = next(p for p in path.absolute().parents if p.exists())
        if not folder.is_dir():
            raise NotADirectoryError(f'{folder} is not a folder')
        if not os.access(folder, os.W_OK):
            raise PermissionError(f'{folder} cannot be written to')


@contextmanager
def written(out: Path) -> Iterator[Path]:
    """Yield a temporary path for ``out``, a file or a folder, and move it at the end.

    Files that are written beside the temporary path move with it. A folder replaces an
    existing one. After an error, Ctrl-C or SIGTERM, nothing is moved and nothing
    temporary is left. The parent folder of ``out`` is created if it is missing.

    Raises:
        OSError: The parent folder cannot be created or written to, or the disk is full.
    """
    target = out.parent
    made = [folder for folder in (target, *target.parents) if not folder.exists()]
    # By default SIGTERM ends the process at once, and the temporary files remain.
    previous = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        target.mkdir(parents=True, exist_ok=True)
        # In the target's own folder, a move is a rename, so files appear complete.
        with tempfile.TemporaryDirectory(prefix='.unfinished-', dir=target) as name:
            yield Path(name, out.name)
            for path in sorted(Path(name).iterdir()):
                old = target / path.name
                if path.is_dir() and old.exists():
                    old.rename(path.with_name('.replaced'))
                path.replace(old)
    except BaseException as error:
        for folder in made:
            with suppress(OSError):  # it does not exist or is not empty
                folder.rmdir()
        if isinstance(error, OSError) and error.errno in FULL:
            raise OSError(f'{out} cannot be written: {error.strerror}') from error
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)


def require_same_config(work_dir: Path, config: Config) -> None:
    """Check that a training in ``work_dir`` used the same version of a config.

    The first call creates the folder and saves the config there for later calls.

    Raises:
        FileExistsError: The training there used a different version.
    """
    used = work_dir / 'quickstart_config.json'
    text = json.dumps(config.to_dict(), indent=1, default=str)
    if used.exists() and used.read_text() != text:
        raise FileExistsError(
            f'{os.path.relpath(config.filename)} has changed since the training in '
            f'{os.path.relpath(work_dir)}: remove that folder, or move it away, to '
            'train again'
        )
    work_dir.mkdir(parents=True, exist_ok=True)
    used.write_text(text)


def markdown_table(rows: Sequence[Sequence[object]], numbers: int = 0) -> list[str]:
    """Format a table as lines of Markdown; the first row is the header.

    The last ``numbers`` columns are aligned to the right.
    """
    texts = len(rows[0]) - numbers
    lines = [f'| {" | ".join(map(str, row))} |' for row in rows]
    lines.insert(1, f'| {" | ".join(["---"] * texts + ["---:"] * numbers)} |')
    return lines


def progress(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yield the items and show on stderr how many are done.

    A terminal shows a progress bar, and a log a line every ``LOG_SECONDS``. If the
    items have no length, ``total`` is their number.
    """
    console, total = Console(stderr=True), total or length_hint(items)
    if console.is_terminal:
        yield from track(items, what, total, console=console, transient=True)
        return
    last = monotonic()
    for number, item in enumerate(items, 1):
        yield item
        if number == total or monotonic() - last > LOG_SECONDS:
            last = monotonic()
            print(f'{what}: {number} of {total}', file=sys.stderr, flush=True)
