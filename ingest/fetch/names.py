"""Names that others gave to files, made safe before anything is written under them.

A name from an archive or an object store may be absolute, climb with "..", hide a second
separator in a backslash, or stand twice so that one file overwrites the other. Each is
refused, never repaired: a repaired name is a guess about the data. Upper and lower case are
not told apart, because many disks do not; only inside a Zarr hierarchy they are, because obs
columns named "Batch" and "batch" are two groups there. (Disks that cannot hold both are met by
writing each file as a new one.)

What macOS adds to archives ("__MACOSX/", "._x", ".DS_Store") is passed over.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath

from cellplm.errors import InputError

_MAX_NAME_BYTES = 255
_MAX_PATH_BYTES = 1024
_MAX_DEPTH = 64


class Names:
    """The names of one tree; remembers them, to refuse the second of two that are the same."""

    def __init__(self, shown: str, *, in_zarr: bool = False) -> None:
        """Begin an empty tree.

        Args:
            shown: what the user calls the archive or address, for messages.
            in_zarr: whether the tree is one Zarr hierarchy.
        """
        self._shown = shown
        self._in_zarr = in_zarr
        self._is_folder: dict[str, bool] = {}

    def take(self, name: str, *, folder: bool) -> PurePosixPath | None:
        """Check one name and keep it.

        Args:
            name: as it is written there, parts separated by "/".
            folder: whether it names a folder; a folder may stand twice.

        Returns:
            The path to use, relative; None for what is passed over.

        Raises:
            InputError: the name is not safe, or a file stands where this one would.
        """
        parts = self._parts(name)
        if not parts or _is_junk(parts):
            return None
        self._keep(name, parts, folder=folder)
        return PurePosixPath(*parts)

    def _parts(self, name: str) -> tuple[str, ...]:
        fault = None
        if "\0" in name:
            fault = "has a NUL byte in its name"
        elif "\\" in name:
            fault = "has a backslash in its name"
        elif any(ord(char) < 32 or ord(char) == 127 for char in name):
            fault = "has a control character in its name"
        elif name.startswith("/") or re.match(r"[A-Za-z]:", name):
            fault = "has an absolute name"
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if ".." in parts:
            fault = 'leads out of its folder with ".."'
        elif len(parts) > _MAX_DEPTH:
            fault = f"lies more than {_MAX_DEPTH} folders deep"
        elif len(name.encode(errors="replace")) > _MAX_PATH_BYTES or any(
            len(part.encode(errors="replace")) > _MAX_NAME_BYTES for part in parts
        ):
            fault = "has too long a name"
        if fault:
            raise InputError(
                f"{self._shown}: {told_name(name)} {fault}, so nothing of it is taken; "
                "pack it again with plain relative names"
            )
        return parts

    def _keep(self, name: str, parts: tuple[str, ...], *, folder: bool) -> None:
        key = self._key(parts)
        seen = self._is_folder.get(key)
        if seen is None:
            if len(parts) > 1:
                self._keep(name, parts[:-1], folder=True)
            self._is_folder[key] = folder
        elif not (seen and folder):
            what = "as a file and as a folder" if seen != folder else "twice"
            raise InputError(
                f"{self._shown}: {told_name('/'.join(parts))} stands there {what} (upper and "
                "lower case are not told apart), so nothing of it is taken; pack it again with "
                "names of their own"
            )

    def _key(self, parts: tuple[str, ...]) -> str:
        zarr = (i + 1 for i, part in enumerate(parts) if part.lower().endswith(".zarr"))
        n_folded = 0 if self._in_zarr else next(zarr, len(parts))
        folded = [part.casefold() for part in parts[:n_folded]]
        return unicodedata.normalize("NFC", "/".join([*folded, *parts[n_folded:]]))


def told_name(name: str) -> str:
    """A name as it can stand in a message of one line."""
    clean = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    return clean if len(clean) <= 120 else f"{clean[:60]}...{clean[-50:]}"


def _is_junk(parts: tuple[str, ...]) -> bool:
    return "__MACOSX" in parts or parts[-1] == ".DS_Store" or parts[-1].startswith("._")
