"""Numbers of configurations: of their kind and in their range, or refused by name."""

import math


def whole(name: str, value: object, least: int = 1) -> None:
    """Raise ValueError unless the value is an int of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}; got {value!r}")


def number(name: str, value: object, least: float = 0.0, below: float = math.inf, strictly: bool = False) -> None:
    """Raise ValueError unless the value is a number of at least `least` (strictly: above it), and below `below`."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not (least <= value < below and not (strictly and value == least))
    ):
        limit = "finite" if below == math.inf else f"below {below:g}"
        raise ValueError(f"{name} must be {'above' if strictly else 'at least'} {least:g} and {limit}; got {value!r}")
