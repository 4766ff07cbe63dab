"""How a cost grows with the size of the images."""

from collections.abc import Sequence

import numpy as np


def fit_power(pixels: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """Fit cost = factor * pixels ** exponent by least squares on logarithms.

    Args:
        pixels (Sequence[float]): Numbers of pixels.
        costs (Sequence[float]): What each takes, such as time or memory; above zero.

    Returns:
        tuple[float, float]: Exponent and factor, NaN for less than two points.
    """
    if len(pixels) < 2:
        return np.nan, np.nan
    exponent, offset = np.polyfit(np.log(pixels), np.log(costs), 1)
    return float(exponent), float(np.exp(offset))
