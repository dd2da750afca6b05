"""obs and var of a part: what the source had, in the part's order, and our columns beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellplm.corpus.columns import OBS_COLUMNS, VAR_COLUMNS, stored_names
from cellplm.ingest.plan import Planned


def obs_table(planned: Planned) -> pd.DataFrame:
    """The part's obs: what the source had, and source_row, tissue, sample, fov, kept, cell_hash.

    Returns:
        N rows in the part's order. A column of the source with one of our names is kept
        as source_<name>; repeated cell names get a number.
    """
    order = planned.row_order
    rule = planned.rule
    tissue = np.full(order.size, -1, dtype=np.int32)
    table = planned.tissues
    tissue[: table.stop[-1]] = np.repeat(np.arange(table.start.size), table.stop - table.start)
    ours = {
        "source_row": order,
        "tissue": tissue,
        "sample": _categorical(rule.sample[order]),
        "fov": _categorical(rule.fov[order]),
        "kept": planned.kept[order],
        "cell_hash": planned.scanned.content[order],
    }
    names = planned.source.obs.index.astype(str)
    if names.has_duplicates:
        ours["source_name"] = names.to_numpy().astype(object)[order]
    obs = _storable(planned.source.obs, OBS_COLUMNS).iloc[order]
    return _with_ours(obs, ours)


def var_table(planned: Planned) -> pd.DataFrame:
    """The part's var: unique index, gene_id, symbol, source_name, kind, match, source_column.

    Returns:
        V rows in the part's order; the index is the Ensembl id of a gene, else the source's
        name.
    """
    order = planned.column_order
    genes = planned.genes
    name = planned.source.var.index.to_numpy().astype(str)
    ours = {
        "gene_id": genes.gene_id[order],
        "symbol": genes.symbol[order],
        "source_name": name[order],
        "kind": pd.Categorical(genes.kind[order]),
        "match": pd.Categorical(genes.match[order]),
        "source_column": order,
    }
    var = _storable(planned.source.var, VAR_COLUMNS).iloc[order]
    var.index = pd.Index(np.where(genes.kind == "gene", genes.gene_id, name)[order])
    return _with_ours(var, ours)


def _categorical(values: NDArray[np.str_]) -> pd.Categorical:
    """What pd.Categorical gives, without a Python string for every value."""
    categories, codes = np.unique(values, return_inverse=True)
    return pd.Categorical.from_codes(codes, pd.Index(categories.astype(object)))


def _with_ours(table: pd.DataFrame, ours: dict[str, object]) -> pd.DataFrame:
    out = table.assign(**ours)  # type: ignore[arg-type]
    out.index = _unique(out.index)
    return out


def _unique(names: pd.Index[Any]) -> pd.Index[Any]:
    """Numbers after repeated names, none of which meets another name."""
    values = names.astype(str).to_numpy(dtype=object, copy=True)
    repeated = np.flatnonzero(pd.Index(values).duplicated())
    seen = set(values) if repeated.size else set()
    for position in repeated:
        base, number = values[position], 1
        while f"{base}-{number}" in seen:
            number += 1
        values[position] = f"{base}-{number}"
        seen.add(values[position])
    unique: pd.Index[Any] = pd.Index(values, name=None, dtype=object)
    return unique


def _storable(table: pd.DataFrame, ours: tuple[str, ...]) -> pd.DataFrame:
    """Mixed object columns as strings, which AnnData can write; names as strings, unique."""
    out = table.copy()
    out.columns = pd.Index(stored_names(out.columns, ours))
    for column in out.columns:
        if out[column].dtype == object:
            values = out[column]
            out[column] = values.where(values.isna(), values.astype(str)).astype("string")
            out[column] = out[column].fillna("").astype(object)
    return out
