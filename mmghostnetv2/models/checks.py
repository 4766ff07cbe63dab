"""Checks of arguments that several networks and layers have."""

from collections.abc import Iterable
from typing import Any


def check_choice(name: str, value: Any, choices: Iterable) -> None:
    """Raise a ValueError that names an argument, its value and the allowed values."""
    choices = tuple(choices)  # a dict would fail on values such as lists
    if value not in choices:
        allowed = ', '.join(map(repr, choices))
        raise ValueError(f'{name} must be one of {allowed}, got {value!r}')


def is_int(value: Any) -> bool:
    """Return whether a value is an int; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_odd(value: Any) -> bool:
    """Return whether a value is a positive odd int, as kernel sizes must be."""
    return is_int(value) and value > 0 and value % 2 == 1
