"""Colours and marks of the networks in all plots, and names beside points."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colour and marker of each family. The colours are those of Okabe and Ito for readers
# who are colour-blind, and the markers differ without colour, too.
FAMILIES = {
    'GhostNetV1': ('#e69f00', 's'),
    'GhostNetV2': ('#0072b2', 'o'),
    'GhostNetV3': ('#009e73', '^'),
    'others': ('#6e6e78', 'D'),
}

# Places of a name, right of its point and above it, in points of length, nearest first.
_PLACES = [(7, 0), (-7, 0), (0, 7), (0, -7)]
_PLACES += [(x, y) for far in (14, 24, 36, 48) for x in (7, -7) for y in (far, -far)]
_HORIZONTAL, _VERTICAL = ('center', 'left', 'right'), ('center', 'bottom', 'top')


def family_of(network: str) -> str:
    """Return the key of ``FAMILIES`` of a network's name or of its config's."""
    ghost = re.search(r'ghostnet(?:v(\d))?(?![a-z])', network.lower())
    name = f'GhostNetV{ghost[1] or 1}' if ghost else 'others'
    return name if name in FAMILIES else 'others'


def place_names(
    panel: 'Axes', names: Sequence[tuple[float, float, str]], colour: str = 'black'
) -> None:
    """Write names beside points, where they cover no other name, point or line.

    The figure must be finished, because its layout is kept from now on, and be saved
    with the dpi that it has.

    Args:
        panel (Axes): Panel that the names are written into.
        names (Sequence[tuple]): x and y of a point in the panel's data, and its name.
        colour (str): Colour of the names.
    """
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    figure: Any = panel.get_figure(root=True)
    figure.draw_without_rendering()
    figure.set_layout_engine('none')
    inside = panel.get_window_extent().padded(-3)
    radius = 4 * figure.dpi / 72  # of a point, in pixels
    taken = [
        Bbox.from_bounds(x - radius, y - radius, 2 * radius, 2 * radius)
        for line in panel.lines
        for x, y in panel.transData.transform(line.get_xydata())
    ]
    # A line without style has points alone.
    lines = [line for line in panel.lines if line.get_linestyle() != 'None']
    paths = [line.get_path().transformed(panel.transData) for line in lines]
    if legend := panel.get_legend():
        taken.append(legend.get_window_extent())
    halo = [withStroke(linewidth=2, foreground='white')]
    style: dict[str, Any] = dict(textcoords='offset points', color=colour, zorder=4)
    for x, y, name in names:
        text = panel.annotate(
            name, (x, y), (0, 0), fontsize=7, path_effects=halo, **style
        )
        for right, above in _PLACES:
            text.set_position((right, above))
            sides = _HORIZONTAL[np.sign(right)], _VERTICAL[np.sign(above)]
            text.set(ha=sides[0], va=sides[1])
            box = text.get_window_extent()
            free = not any(box.overlaps(other) for other in taken)
            free &= not any(path.intersects_bbox(box, filled=False) for path in paths)
            if free and inside.contains(*box.min) and inside.contains(*box.max):
                break
        taken.append(box)
        if abs(above) > 7:  # the name is not beside its point
            arrow = dict(arrowstyle='-', color='0.4', linewidth=0.8, shrinkB=3)
            above_names = style | dict(zorder=5)
            panel.annotate('', (x, y), (right, above), arrowprops=arrow, **above_names)
