"""What comes in as numbers is made of real numbers, or refused by name; nothing is converted in silence."""

import operator

import numpy as np


def real(name: str, value) -> np.ndarray:
    """The array as float64.

    Raises
    ------
    TypeError
        If it is masked, ragged, or holds anything but real numbers. (NumPy would drop the mask, or the imaginary part.)
    """
    if np.ma.isMaskedArray(value):
        raise TypeError(f"{name} must be a plain array; got a masked array: fill or drop what is masked")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists; tensors on another device or with a gradient
        raise TypeError(f"{name} must be an array of real numbers; got {type(value).__name__}: {error}") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers; got dtype {array.dtype}")
    return array.astype(float, copy=False)


def number(name: str, value, least: float, strictly: bool = False) -> float:
    """The value as a finite float of at least, or strictly above, `least`.

    Raises
    ------
    TypeError, ValueError
        If it is not.
    """
    array = real(name, value)
    what = f"{name} must be {'above' if strictly else 'at least'} {least:g} and finite"
    if array.ndim or not np.isfinite(array) or array < least or (strictly and array == least):
        raise ValueError(f"{what}; got {value}")
    return float(array)


def instance(name: str, value, kind: type) -> None:
    """Raise TypeError unless the value is of this class."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be of class {kind.__name__}; got an object of class {type(value).__name__}")


def count(name: str, value, least: int = 1) -> int:
    """The value as an int of at least `least`.

    Raises
    ------
    TypeError, ValueError
        If it is not.
    """
    try:
        whole = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number; got {value!r}") from None
    if whole < least:
        raise ValueError(f"{name} must be at least {least}; got {whole}")
    return whole
