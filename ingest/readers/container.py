"""What AnnData in HDF5 and in Zarr have in common, whichever of the two holds it.

Groups of both answer to `in`, `[]`, `keys()` and `attrs`, arrays of both to `shape`, `dtype`,
`chunks` and slicing, so the readers of AnnData treat them alike. What differs is here.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol


class Container(Protocol):
    """A file or folder with an AnnData in it."""

    @property
    def path(self) -> Path:
        """What messages name."""

    @property
    def n_bytes(self) -> int:
        """What it takes on disk."""

    @property
    def row_values(self) -> int:
        """Values of a sparse matrix that are best read at a time, in whole rows."""

    def opened(self) -> AbstractContextManager[Any]:
        """The root group; whatever goes wrong in reading becomes an InputError."""

    def refuse_unwritten(self, item: Any) -> None:
        """Refuse values that an array or group declares and that are not there.

        Raises:
            InputError: which ones.
        """

    def for_one_pass(self, root: Any, key: str) -> Any:
        """An array that is read once from its start to its end, in pieces."""


def is_array(item: Any) -> bool:
    """Whether this is an array and no group."""
    return hasattr(item, "dtype")


def group_at(root: Any, key: str) -> Any | None:
    """A group, or None where there is none of this name."""
    item = item_at(root, key)
    return None if item is None or is_array(item) else item


def item_at(root: Any, key: str) -> Any | None:
    """A group or array, or None; also where a part of the way is an array."""
    for name in key.split("/"):
        if is_array(root) or name not in root:
            return None
        root = root[name]
    return root


def text_attr(item: Any, *names: str) -> str:
    """The first of some attributes as text, "" where there is none."""
    value = next((item.attrs[name] for name in names if name in item.attrs), "")
    return value.decode() if isinstance(value, bytes) else str(value)
