"""Delimited bytes into rows, numbers and texts: the inner loop of reading tables, compiled.

The grammar is that of Python's csv module (quoted fields, doubled quotes, line ends of any
kind), but for what it lets pass: text after a closing quote is a fault here. Rows without any
text are no rows. A number is what `float` makes of the field, exactly: up to 15 or so digits
and a power of ten within 1e22 go through one division of two exact numbers, which IEEE 754
rounds once (Clinger 1990, the fast path); every other field is handed back for `float`.

The buffer ends in `SENTINEL`, so no loop needs to look where the bytes end. Releases the GIL.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

SKIP, TEXT, NUMBER, EMPTY = 0, 1, 2, 3
"""What to do with a field: nothing, hand its bytes back, parse it, see that nothing is in it."""

FAULT_NONE, FAULT_LENGTH, FAULT_QUOTE, FAULT_EMPTY = 0, 1, 2, 3
"""A row of another length; text after a closing quote; a number that is not there."""

SENTINEL = b'\n"\n\n'
"""Stands behind the last byte: ends a field, then a quoted one."""

_NEWLINE, _RETURN, _TAB, _SPACE, _QUOTE = 10, 13, 9, 32, 34
_PLUS, _MINUS, _POINT, _ZERO, _E, _E_UPPER = 43, 45, 46, 48, 101, 69

# Whole numbers up to here, and these powers of ten, are exact in binary64.
_EXACT = np.uint64(2**53)
_POWERS = np.array([float(f"1e{n}") for n in range(23)])
# So many digits always fit in a uint64.
_MAX_DIGITS = 18

_jit: Any = nb.njit(nogil=True, cache=True)


@_jit
def parse(  # type: ignore[no-untyped-def]
    data, size, final, delimiter, roles, columns, values, ends, starts, texts, late
):
    """Parse the whole rows of a buffer; the last one, if it is cut, is left for the next call.

    Args:
        data: (size + 4,) uint8, `SENTINEL` behind `size`.
        size: bytes.
        final: whether the file ends here.
        delimiter: a byte. Spaces count as one, and none at the ends of a row.
        roles: (n_fields,) uint8.
        columns: out, int32 (size // 2 + 1,): which of the numbers of its row.
        values: out, float64 likewise: numbers other than 0, NaN where `late` has to fill in.
        ends: out, int32 (size // 2 + 1,): for each row, the values up to its end.
        starts: out, int32 likewise: its first byte.
        texts: out, int32 (size + 1, 2): the bytes of each text, from and to; to is negative
            (~to) where quotes in it are doubled.
        late: out, int32 (size // 2 + 1, 3): place in `values`, and the bytes, of numbers that
            were not parsed.

    Returns:
        (rows, bytes used, lines used, values, late ones, fault, field of the fault). A fault is
        in the row that begins after the bytes used.
    """
    n_fields = roles.size
    runs = delimiter == _SPACE
    tail = n_fields
    while tail > 0 and roles[tail - 1] == SKIP and not runs:
        tail -= 1
    at = rows = lines = n_values = n_texts = n_late = 0
    while at < size:
        start, row_lines = at, 0
        kept_values, kept_texts, kept_late = n_values, n_texts, n_late
        while data[at] == _SPACE or data[at] == _TAB or data[at] == delimiter:
            at += 1
        blank = data[at] == _NEWLINE or data[at] == _RETURN
        if not blank:
            at = start
            while runs and data[at] == _SPACE:
                at += 1
        field, number, fault = 0, 0, FAULT_NONE
        while not blank:
            if field >= n_fields:
                fault = FAULT_LENGTH
                break
            if field >= tail:
                at, passed = _pass(data, at, delimiter)
                field += passed
                if data[at] != _QUOTE:
                    break
            role = roles[min(field, n_fields - 1)]
            first = at
            if role == NUMBER:
                if data[at] == _ZERO and data[at + 1] == delimiter:
                    at += 1
                elif data[at + 1] == delimiter and 1 <= data[at] - _ZERO <= 9:
                    columns[n_values] = number
                    values[n_values] = data[at] - _ZERO
                    n_values += 1
                    at += 1
                else:
                    at, value, parsed = _number(data, at, delimiter)
                    if not parsed:
                        at, lines_in, closed = _end(data, first, delimiter)
                        row_lines += lines_in
                        if not closed:
                            fault = FAULT_QUOTE
                            break
                        if at == first:
                            fault = FAULT_EMPTY
                            break
                        late[n_late, 0], late[n_late, 1], late[n_late, 2] = n_values, first, at
                        n_late += 1
                    if value != 0:
                        columns[n_values] = number
                        values[n_values] = value
                        n_values += 1
                number += 1
            else:
                at, lines_in, closed = _end(data, at, delimiter)
                row_lines += lines_in
                if not closed:
                    fault = FAULT_QUOTE
                    break
                if role == TEXT:
                    texts[n_texts, 0], texts[n_texts, 1] = _bare(data, first, at)
                    n_texts += 1
                elif role == EMPTY and at != first:
                    fault = FAULT_LENGTH
                    break
            if data[at] != delimiter:
                break
            at += 1
            while runs and data[at] == _SPACE:
                at += 1
            if runs and (data[at] == _NEWLINE or data[at] == _RETURN):
                break
            field += 1
        cut = at >= size or (data[at] == _RETURN and at + 1 == size and not final)
        if cut or fault != FAULT_NONE or (not blank and field != n_fields - 1):
            n_values, n_texts, n_late = kept_values, kept_texts, kept_late
            if cut:
                fault = FAULT_NONE
            elif fault == FAULT_NONE:
                fault = FAULT_LENGTH
            return rows, start, lines, n_values, n_late, fault, field
        at += 2 if data[at] == _RETURN and data[at + 1] == _NEWLINE and at + 1 < size else 1
        lines += row_lines + 1
        if not blank:
            ends[rows], starts[rows] = n_values, start
            rows += 1
    return rows, at, lines, n_values, n_late, FAULT_NONE, 0


@_jit
def _number(data, at, delimiter):  # type: ignore[no-untyped-def]
    """(end of the field, its number, whether that could be told); NaN where it could not."""
    quoted = data[at] == _QUOTE
    if quoted:
        at += 1
    while data[at] == _SPACE and delimiter != _SPACE:
        at += 1
    negative = data[at] == _MINUS
    if negative or data[at] == _PLUS:
        at += 1
    digits, whole, power = 0, np.uint64(0), 0
    first = at
    while 0 <= data[at] - _ZERO <= 9:
        whole = whole * np.uint64(10) + np.uint64(data[at] - _ZERO)
        at += 1
    digits = at - first
    n_digits = digits
    if data[at] == _POINT:
        at += 1
        zeros = 0
        while 0 <= data[at] - _ZERO <= 9:
            n_digits += 1
            # Zeros at the end add nothing: np.savetxt writes 1.000000000000000000e+00.
            if data[at] == _ZERO:
                zeros += 1
            else:
                digits += zeros + 1
                power -= zeros + 1
                if digits <= _MAX_DIGITS:
                    for _ in range(zeros + 1):
                        whole *= np.uint64(10)
                    whole += np.uint64(data[at] - _ZERO)
                zeros = 0
            at += 1
    if n_digits == 0 or digits > _MAX_DIGITS:
        return at, np.nan, False
    if data[at] == _E or data[at] == _E_UPPER:
        at += 1
        below = data[at] == _MINUS
        if below or data[at] == _PLUS:
            at += 1
        first, exponent = at, 0
        while 0 <= data[at] - _ZERO <= 9 and at < first + 4:
            exponent = exponent * 10 + (data[at] - _ZERO)
            at += 1
        if at == first:
            return at, np.nan, False
        power += -exponent if below else exponent
    while data[at] == _SPACE and delimiter != _SPACE:
        at += 1
    if quoted:
        if data[at] != _QUOTE:
            return at, np.nan, False
        at += 1
    if data[at] != delimiter and data[at] != _NEWLINE and data[at] != _RETURN:
        return at, np.nan, False
    if whole == 0:
        return at, 0.0, True
    if whole > _EXACT or not -22 <= power <= 22:
        return at, np.nan, False
    value = float(whole)
    value = value * _POWERS[power] if power >= 0 else value / _POWERS[-power]
    return at, -value if negative else value, True


@_jit
def _end(data, at, delimiter):  # type: ignore[no-untyped-def]
    """(end of the field that begins here, line ends in it, whether its quote is well closed)."""
    if data[at] != _QUOTE:
        while data[at] != delimiter and data[at] != _NEWLINE and data[at] != _RETURN:
            at += 1
        return at, 0, True
    lines = 0
    while True:
        at += 1
        while data[at] != _QUOTE:
            lines += data[at] == _NEWLINE
            at += 1
        at += 1
        if data[at] != _QUOTE:
            break
    return at, lines, data[at] == delimiter or data[at] == _NEWLINE or data[at] == _RETURN


@_jit
def _pass(data, at, delimiter):  # type: ignore[no-untyped-def]
    """(end of the row or the next field that is quoted, fields passed on the way there)."""
    passed = 0
    if data[at] == _QUOTE:
        return at, passed
    while data[at] != _NEWLINE and data[at] != _RETURN:
        at += 1
        if data[at - 1] == delimiter:
            passed += 1
            if data[at] == _QUOTE:
                break
    return at, passed


@_jit
def _bare(data, start, stop):  # type: ignore[no-untyped-def]
    """A field without the quotes around it; see `texts` of `parse`."""
    if data[start] != _QUOTE or stop - start < 2:
        return start, stop
    for at in range(start + 1, stop - 1):
        if data[at] == _QUOTE:
            return start + 1, ~(stop - 1)
    return start + 1, stop - 1
