"""Types of the tools' arguments."""

import argparse


def at_least_one(text: str) -> int:
    """Read a number of the command line.

    Raises:
        argparse.ArgumentTypeError: It is below 1.
    """
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f'must be at least 1, got {text}')
    return int(text)
