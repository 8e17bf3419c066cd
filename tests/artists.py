"""What a figure shows: the data of the artists on its axes, to compare with the numbers that drawing returned."""

import numpy as np
from matplotlib.collections import LineCollection, PolyCollection

BARE = ("None", "", None)  # ways to say that a line has no marker


def points(ax, marker=None):
    """Vertices of the lines with this marker; without one, with any but a star or a dot: (K, 2)."""
    lines = [line for line in _lines(ax) if line.get_marker() not in BARE]
    wanted = [line for line in lines if (line.get_marker() == marker if marker else line.get_marker() not in "*.")]
    return _stack([line.get_xydata() for line in wanted], 2)


def curves(ax):
    """Vertices of the lines without a marker: (K, 2)."""
    return _stack([line.get_xydata() for line in _lines(ax) if line.get_marker() in BARE], 2)


def intervals(ax):
    """Ends of the upright segments: (K, 3) with x, low, high."""
    first, last = _segments(ax)
    assert (first[:, 0] == last[:, 0]).all()
    return np.column_stack([first, last[:, 1]])


def level_intervals(ax):
    """Ends of the level segments: (K, 3) with y, low, high."""
    first, last = _segments(ax)
    assert (first[:, 1] == last[:, 1]).all()
    return np.column_stack([first[:, 1], first[:, 0], last[:, 0]])


def bands(ax):
    """Edges of the filled bands: (K, 3) with x, low, high; a band over y is (y, low, high)."""
    return _stack(
        [_edges(path.vertices) for c in ax.collections if isinstance(c, PolyCollection) for path in c.get_paths()], 3
    )


def levels(ax):
    """Heights of the lines that cross the axes from side to side, ascending."""
    across = ax.get_yaxis_transform(which="grid")
    return sorted(float(line.get_ydata()[0]) for line in ax.lines if line.get_transform() == across)


def assert_same(drawn, numbers, near=None):
    """Rows of both are equal, but for their order.

    With `near`, the first column is a place on the axis: what is drawn may stand beside it, by less than `near` (in the
    unit of the axis), so that series do not hide one another.
    """
    drawn, numbers = np.array(drawn, float), np.array(numbers, float)
    assert drawn.shape == numbers.shape
    if near is not None:
        places = np.unique(numbers[:, 0])
        nearest = places[np.abs(drawn[:, :1] - places).argmin(1)]
        assert np.abs(drawn[:, 0] - nearest).max() < near
        drawn[:, 0] = nearest
    np.testing.assert_allclose(*(rows[np.lexsort(rows.T)] for rows in (drawn, numbers)), rtol=1e-9)


def _lines(ax):
    return [line for line in ax.lines if line.get_transform() == ax.transData]


def _segments(ax):
    """First and last ends, (K, 2) each, of what `vlines` and `hlines` draw; without missing values."""
    paths = [path.vertices for c in ax.collections if isinstance(c, LineCollection) for path in c.get_paths()]
    ends = np.array([path for path in paths if np.isfinite(path).all()], float).reshape(-1, 2, 2)
    return ends[:, 0], ends[:, 1]


def _edges(vertices):
    """Of a closed polygon by fill_between (start, low edge, end, high edge backwards), or by fill_betweenx."""
    half = (len(vertices) - 3) // 2
    low, high = vertices[1 : half + 1], vertices[half + 2 : -1][::-1]
    place = 0 if np.array_equal(low[:, 0], high[:, 0]) else 1
    return np.column_stack([low[:, place], low[:, 1 - place], high[:, 1 - place]])


def _stack(rows, width):
    """All rows, but for those with a missing value, which are not drawn."""
    rows = np.concatenate([np.empty((0, width)), *rows])
    return rows[np.isfinite(rows).all(1)]
