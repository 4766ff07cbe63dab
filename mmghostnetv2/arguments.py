"""Types of the tools' arguments."""

import argparse


def at_least_one(text: str) -> int:
    """Read a number of the command line.

    Raises:
        argparse.ArgumentTypeError: It is below 1, or no whole number.
    """
    try:
        number = int(text)
    except ValueError:
        message = f'must be a whole number, got {text}'
        raise argparse.ArgumentTypeError(message) from None
    if number < 1:
        raise argparse.ArgumentTypeError(f'must be at least 1, got {text}')
    return number
