"""Choose where the counts of an AnnData are, and read them in blocks.

They are looked for in `layers['counts']` (and other spellings), `raw.X` and `X`, in this
order, and taken from the first place where a sample of the values may be raw counts. A matrix is
CSR, CSC or dense. `raw` may be a group, or the two items "raw.X" and "raw.var" of anndata
before 0.7.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from cellplm.errors import CountsError, InputError
from cellplm.ingest.readers import dense, sparse
from cellplm.ingest.readers.container import Container, group_at, is_array, item_at, text_attr
from cellplm.ingest.readers.sample import fault_of_sample
from cellplm.ingest.readers.sparse import Sparse
from cellplm.ingest.source import Block

LAYERS = (
    "counts", "raw_counts", "rawcounts", "count", "raw", "umi", "umis", "umi_counts", "count_matrix"
)  # fmt: skip

# Columns touch all cells, so the fewer blocks the better.
COLUMN_VALUES = 4 * 2**20

Layout = Literal["csr", "csc", "dense"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Matrix:
    """A matrix inside a container: its place there, how it lies, and its shape."""

    key: str
    layout: Layout
    shape: tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Where the counts are.

    Attributes:
        place: in AnnData's words ("layers['counts']").
        matrix: what is there.
        var_key: the table of its features.
        looked_in: what was seen on the way.
    """

    place: str
    matrix: Matrix
    var_key: str
    looked_in: tuple[str, ...]


def choose(root: Any, container: Container, asked: str | None) -> Choice:
    """Look in the usual places, or in the one asked for.

    Args:
        root: the group of the AnnData.
        container: it belongs to.
        asked: a layer, "X" or "raw".

    Raises:
        CountsError: no place holds raw counts, or there is no such place.
        InputError: a matrix is damaged.
    """
    path = container.path
    layers = group_at(root, "layers")
    names = sorted(layers.keys()) if layers is not None else []
    usual = [name for known in LAYERS for name in names if name.lower() == known]
    places = [_layer(name) for name in usual] or [_layer("counts")]
    raw, x = _raw(root), ("X", "X", "var")
    places += [raw, x]
    if asked is not None:
        places = [{"X": x, "raw": raw, "raw.X": raw}.get(asked, _layer(asked))]
        if item_at(root, places[0][1]) is None:
            have = [place for place, key, _ in (x, raw) if item_at(root, key) is not None]
            have += [f"layers[{name!r}]" for name in names]
            raise CountsError(f"{path}: no {places[0][0]}; it has {', '.join(have) or 'no matrix'}")
    looked: list[str] = []
    for place, key, var_key in places:
        item = item_at(root, key)
        if item is None:
            looked.append(f"{place}: not there")
            continue
        container.refuse_unwritten(item)
        matrix = _matrix(item, key, container)
        fault = fault_of_sample(item if matrix.layout == "dense" else item["data"])
        looked.append(f"{place}: {fault or 'raw counts'}")
        if fault is None:
            return Choice(place=place, matrix=matrix, var_key=var_key, looked_in=tuple(looked))
    seen = {key for _, key, _ in places}
    others = [f"{name!r}" for name in names if f"layers/{name}" not in seen]
    raise CountsError(
        f"{path}: no raw counts found. Looked in {'; '.join(looked)}"
        + (f". Not looked in: layers {', '.join(others)}" if others and asked is None else "")
        + ". Give a file with raw counts, or name the layer that holds them with --counts"
    )


def check(root: Any, container: Container, matrix: Matrix) -> None:
    """Refuse a sparse matrix whose three arrays do not fit together.

    Raises:
        InputError: how they do not.
    """
    if matrix.layout != "dense":
        sparse.checked_indptr(_sparse(root, container, matrix))


def blocks(container: Container, matrix: Matrix) -> Iterator[Block]:
    """One pass over the counts; the container is open as long as it lasts.

    Raises:
        InputError: something cannot be read.
    """
    with container.opened() as root:
        if matrix.layout == "dense":
            yield from dense.blocks(container.for_one_pass(root, matrix.key), rows="obs")
        else:
            yield from sparse.blocks(_sparse(root, container, matrix))


def _layer(name: str) -> tuple[str, str, str]:
    return f"layers[{name!r}]", f"layers/{name}", "var"


def _raw(root: Any) -> tuple[str, str, str]:
    old = item_at(root, "raw.X") is not None
    return ("raw.X", "raw.X", "raw.var") if old else ("raw.X", "raw/X", "raw/var")


def _matrix(item: Any, key: str, container: Container) -> Matrix:
    path = container.path
    if is_array(item):
        if len(item.shape) != 2:
            raise InputError(f"{path}: {key} has {len(item.shape)} dimensions, a matrix has 2")
        return Matrix(key=key, layout="dense", shape=(item.shape[0], item.shape[1]))
    encoding = text_attr(item, "encoding-type", "h5sparse_format")
    layouts: dict[str, Layout] = {"csr": "csr", "csc": "csc"}
    layout = layouts.get(encoding.removesuffix("_matrix"))
    shape = item.attrs.get("shape", item.attrs.get("h5sparse_shape"))
    if layout is None or shape is None or len(shape) != 2:
        raise InputError(f"{path}: {key} is neither a dense, CSR nor CSC matrix ({encoding!r})")
    for part in ("data", "indices", "indptr"):
        array = item_at(item, part)
        if array is None or not is_array(array) or len(array.shape) != 1:
            raise InputError(f"{path}: {key} is a sparse matrix without {part}")
    return Matrix(key=key, layout=layout, shape=(int(shape[0]), int(shape[1])))


def _sparse(root: Any, container: Container, matrix: Matrix) -> Sparse:
    data, indices, indptr = (
        container.for_one_pass(root, f"{matrix.key}/{part}")
        for part in ("data", "indices", "indptr")
    )
    by_row = matrix.layout == "csr"
    return Sparse(
        where=f"{container.path}: {matrix.key}",
        axis="obs" if by_row else "var",
        n_major=matrix.shape[0] if by_row else matrix.shape[1],
        n_minor=matrix.shape[1] if by_row else matrix.shape[0],
        indptr=indptr,
        indices=indices,
        data=data,
        block_values=container.row_values if by_row else COLUMN_VALUES,
    )
