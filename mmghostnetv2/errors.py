"""How the tools end where something fails."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def exit_with_message(source: object = None) -> Iterator[None]:
    """End the program with one line where anything fails inside.

    For what builds a config, which is a program, or calls a runtime: their errors are
    of any type.

    Args:
        source (object, optional): What the message is to name, a file for one.
    """
    try:
        yield
    except Exception as error:
        message = f'{type(error).__name__}: {error}'
        if source is not None:
            message = f'{source}: {message}'
        sys.exit(' '.join(message.split()))
