"""The inner loop of reading a page of bars: JSON text to columns in one pass, without the GIL.

It reads the plain form that the vendor writes and nothing else. Whatever else stands there (a
sign, a null, a blank, an unknown or doubled key, more digits than a float holds exactly) is a
doubt, and the caller reads the page in another way.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

Text = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

FLOAT_KEYS = ("v", "vw", "o", "c", "h", "l")
INTEGER_KEYS = ("t", "n")
ABSENT = -1

_KEY_T, _KEY_N, _UNKNOWN = 6, 7, -1
# Bits of the keys that every row has: all but vw and n.
_REQUIRED = 0b01111101
_EXACT = 2**53
# Characters of a number whose digits still fit an integer of 64 bits, one point among them.
_LONGEST = 18
_ZERO = np.uint8(48)
_POWERS = 10.0 ** np.arange(23)
_CODES = np.full(256, _UNKNOWN)
_CODES[[ord(letter) for letter in "vochltn"]] = (0, 2, 3, 4, 5, _KEY_T, _KEY_N)


@njit(cache=True, nogil=True, inline="always")
def _key(text: Text, at: int) -> tuple[int, int]:
    """Return which key begins at ``at`` (its opening quote), and where its value begins."""
    if at + 5 >= len(text) or text[at] != 34:
        return _UNKNOWN, at
    if text[at + 2] == 34 and text[at + 3] == 58:
        return int(_CODES[text[at + 1]]), at + 4
    if text[at + 1] == 118 and text[at + 2] == 119 and text[at + 3] == 34 and text[at + 4] == 58:
        return 1, at + 5
    return _UNKNOWN, at


@njit(cache=True, nogil=True, inline="always")
def _number(text: Text, at: int) -> tuple[int, int, int, bool]:
    """Return where a number ends, its digits, its power of ten, and whether it is written whole.

    The end is ``ABSENT`` where there is no plain number. An integer of at most 2**53 and a power
    of at most 22 make the nearest float in one rounding (Clinger, "How to read floating point
    numbers accurately", 1990).
    """
    begin, digits, power, length, whole = at, 0, 0, len(text), True
    # A number too long for the loop's integer is refused by its length before it can overflow.
    while at < length:
        digit = np.uint8(text[at] - _ZERO)
        if digit > 9:
            break
        digits = digits * 10 + np.int64(digit)
        at += 1
    if at == begin or (text[begin] == 48 and at > begin + 1):
        return ABSENT, 0, 0, False
    if at < length and text[at] == 46:
        whole, at = False, at + 1
        point = at
        while at < length:
            digit = np.uint8(text[at] - _ZERO)
            if digit > 9:
                break
            digits = digits * 10 + np.int64(digit)
            at += 1
        power = point - at
        if power == 0:
            return ABSENT, 0, 0, False
    if at < length and (text[at] == 101 or text[at] == 69):
        return ABSENT, 0, 0, False
    if digits > _EXACT or at - begin > _LONGEST or power < -22:
        return ABSENT, 0, 0, False
    return at, int(digits), power, whole


@njit(cache=True, nogil=True, error_model="numpy")
def read_rows(text: Text, floats: Floats, integers: Integers) -> int:
    """Fill columns from rows; return how many there are, or ``ABSENT`` on any doubt.

    Parameters
    ----------
    text : (B,) uint8
        ``{"v":1,...},{...}``, the inside of a list of JSON objects.
    floats : (6, N) float64
        By ``FLOAT_KEYS``; filled with NaN before.
    integers : (2, N) int64
        By ``INTEGER_KEYS``; filled with ``ABSENT`` before.
    """
    at, row, length = 0, 0, len(text)
    while at < length:
        if text[at] != 123 or row >= floats.shape[1]:
            return ABSENT
        seen = 0
        while at < length and text[at] != 125:
            # The brace before the first key, the comma before the others.
            if text[at] != (44 if seen else 123):
                return ABSENT
            code, at = _key(text, at + 1)
            if code == _UNKNOWN or seen & (1 << code):
                return ABSENT
            seen |= 1 << code
            at, digits, power, whole = _number(text, at)
            if at == ABSENT:
                return ABSENT
            if code < _KEY_T:
                floats[code, row] = digits / _POWERS[-power]
            elif not whole:
                return ABSENT
            else:
                integers[code - _KEY_T, row] = digits
        if at >= length or seen & _REQUIRED != _REQUIRED:
            return ABSENT
        at, row = at + 1, row + 1
        # A comma follows every row but the last, and a row follows every comma.
        if at < length:
            if text[at] != 44 or at + 1 == length:
                return ABSENT
            at += 1
    return row
