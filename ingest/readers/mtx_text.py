"""The inner loops of reading MatrixMarket: lines of text to row, column and value, compiled.

A line is "row column value", divided by blanks or tabs; blank lines are passed over. The text
given is whole lines, so that a digit is always followed by something. Both loops stop where the
arrays are full or a line is not what it should be, and say where.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

FAULT_NONE, FAULT_LINE, FAULT_ROW, FAULT_COLUMN = 0, 1, 2, 3
"""What is wrong with a line: not three numbers; a row or column outside of the matrix."""

SHORTEST_LINE = 6
"""Bytes of "1 1 1" and its end."""

_SPACE, _TAB, _RETURN, _NEWLINE = 32, 9, 13, 10
_PLUS, _MINUS, _POINT, _ZERO = 43, 45, 46, 48
_LOWER_E, _UPPER_E = 101, 69
# A number of this many digits fits: an index in int64, a whole count in int64.
_MAX_DIGITS = 18
# Up to here mantissa and power of ten are exact in float64, so one rounding gives what Python's
# float() gives: W. D. Clinger (1990), How to read floating point numbers accurately, sect. 3.
_EXACT_DIGITS, _EXACT_POWER = 15, 22
_POWERS = 10.0 ** np.arange(_EXACT_POWER + 1)

_jit: Any = nb.njit(nogil=True, cache=True)


@_jit
def _blank(byte):  # type: ignore[no-untyped-def]
    return byte == _SPACE or byte == _TAB or byte == _RETURN


@_jit
def _digits(text, at):  # type: ignore[no-untyped-def]
    """(number, place behind it); the number is -1 where there is none, or a too long one."""
    begin, number = at, np.int64(0)
    digit = np.int64(text[at]) - _ZERO
    while 0 <= digit <= 9:
        number = number * 10 + digit
        at += 1
        digit = np.int64(text[at]) - _ZERO
    if at == begin or at - begin > _MAX_DIGITS:
        number = np.int64(-1)
    return number, at


@_jit
def _indices(text, at):  # type: ignore[no-untyped-def]
    """(row, column, place of the value); a row of -1 where the line is none."""
    row, at = _digits(text, at)
    if row < 0 or not _blank(text[at]):
        return np.int64(-1), np.int64(0), at
    while _blank(text[at]):
        at += 1
    column, at = _digits(text, at)
    if column < 0 or not _blank(text[at]):
        return np.int64(-1), np.int64(0), at
    while _blank(text[at]):
        at += 1
    return row, column, at


@_jit
def parse_integers(text, at, rows, columns, values, n, n_rows, n_columns):  # type: ignore[no-untyped-def]
    """Parse lines whose values are whole numbers.

    Args:
        text: uint8, whole lines.
        at: where to begin.
        rows: out, int32 from 0.
        columns: likewise.
        values: out, int64.
        n: entries that are there already.
        n_rows: of the matrix.
        n_columns: of the matrix.

    Returns:
        (where the next line begins, or the faulty one does, entries, fault).
    """
    while at < text.size and n < rows.size:
        while _blank(text[at]):
            at += 1
        if text[at] == _NEWLINE:
            at += 1
            continue
        begin = at
        row, column, at = _indices(text, at)
        if row < 0:
            return begin, n, FAULT_LINE
        if not 1 <= row <= n_rows:
            return begin, n, FAULT_ROW
        if not 1 <= column <= n_columns:
            return begin, n, FAULT_COLUMN
        sign = text[at]
        if sign == _MINUS or sign == _PLUS:
            at += 1
        value, at = _digits(text, at)
        if value < 0:
            return begin, n, FAULT_LINE
        while _blank(text[at]):
            at += 1
        if text[at] != _NEWLINE:
            return begin, n, FAULT_LINE
        at += 1
        rows[n] = row - 1
        columns[n] = column - 1
        values[n] = -value if sign == _MINUS else value
        n += 1
    return at, n, FAULT_NONE


@_jit
def _number(text, at):  # type: ignore[no-untyped-def]
    """(value, whether it is exact, place behind it) of a decimal number.

    What is no plain decimal number, or has too many digits, is not exact and left to the caller.
    """
    sign = text[at]
    if sign == _MINUS or sign == _PLUS:
        at += 1
    mantissa, n_digits, power, seen = np.int64(0), 0, 0, False
    after_point = False
    while True:
        digit = np.int64(text[at]) - _ZERO
        if 0 <= digit <= 9:
            seen = True
            if n_digits > 0 or digit > 0:
                n_digits += 1
            if n_digits <= _EXACT_DIGITS:
                mantissa = mantissa * 10 + digit
            if after_point:
                power -= 1
        elif text[at] == _POINT and not after_point:
            after_point = True
        else:
            break
        at += 1
    exact = seen and n_digits <= _EXACT_DIGITS
    if text[at] == _LOWER_E or text[at] == _UPPER_E:
        at += 1
        negative = text[at] == _MINUS
        if negative or text[at] == _PLUS:
            at += 1
        exponent, at = _digits(text, at)
        if exponent < 0 or exponent > 999:
            exact = False
        else:
            power += -exponent if negative else exponent
    exact = exact and -_EXACT_POWER <= power <= _EXACT_POWER
    value = np.float64(mantissa)
    if exact and power > 0:
        value *= _POWERS[power]
    elif exact and power < 0:
        value /= _POWERS[-power]
    while not _blank(text[at]) and text[at] != _NEWLINE:
        exact = False
        at += 1
    return (-value if sign == _MINUS else value), exact, at


@_jit
def parse_reals(text, at, rows, columns, values, n, n_rows, n_columns, inexact):  # type: ignore[no-untyped-def]
    """Parse lines whose values are decimal numbers; see `parse_integers`.

    Args:
        text: uint8, whole lines.
        at: where to begin.
        rows: out, int32 from 0.
        columns: likewise.
        values: out, float64.
        n: entries that are there already.
        n_rows: of the matrix.
        n_columns: of the matrix.
        inexact: (k, 3) int64 out: entry, begin and end of values that the caller has to parse.

    Returns:
        (where the next line begins, or the faulty one does, entries, fault, values left).
    """
    left = 0
    while at < text.size and n < rows.size and left < len(inexact):
        while _blank(text[at]):
            at += 1
        if text[at] == _NEWLINE:
            at += 1
            continue
        begin = at
        row, column, at = _indices(text, at)
        if row < 0:
            return begin, n, FAULT_LINE, left
        if not 1 <= row <= n_rows:
            return begin, n, FAULT_ROW, left
        if not 1 <= column <= n_columns:
            return begin, n, FAULT_COLUMN, left
        token = at
        value, exact, at = _number(text, at)
        if at == token:
            return begin, n, FAULT_LINE, left
        if not exact:
            inexact[left, 0], inexact[left, 1], inexact[left, 2] = n, token, at
            left += 1
        while _blank(text[at]):
            at += 1
        if text[at] != _NEWLINE:
            return begin, n, FAULT_LINE, left
        at += 1
        rows[n] = row - 1
        columns[n] = column - 1
        values[n] = value
        n += 1
    return at, n, FAULT_NONE, left


@_jit
def gather(text, places):  # type: ignore[no-untyped-def]
    """Some stretches of a text behind one another.

    Args:
        text: uint8.
        places: (k, 3) int64: anything, begin and end of each.

    Returns:
        (k + 1,) int32 where each begins, and all of them, uint8.
    """
    offsets = np.zeros(len(places) + 1, dtype=np.int32)
    for i in range(len(places)):
        offsets[i + 1] = offsets[i] + places[i, 2] - places[i, 1]
    out = np.empty(offsets[-1], dtype=np.uint8)
    for i in range(len(places)):
        out[offsets[i] : offsets[i + 1]] = text[places[i, 1] : places[i, 2]]
    return offsets, out


@_jit
def group(keys, fill):  # type: ignore[no-untyped-def]
    """The order that brings equal keys together and else keeps what comes first first.

    Args:
        keys: (k,) int32.
        fill: (n keys,) int64 where each key begins; advanced.

    Returns:
        (k,) int64.
    """
    order = np.empty(keys.size, dtype=np.int64)
    for at in range(keys.size):
        order[fill[keys[at]]] = at
        fill[keys[at]] += 1
    return order
