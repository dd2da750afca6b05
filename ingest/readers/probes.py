"""Bring counts of probes to counts of genes, as Space Ranger does.

raw_probe_bc_matrix.h5 has a row for each probe, up to several a gene. A gene's count is the sum
over its included probes (`filtered_probes`; 10x Genomics, Space Ranger probe-barcode matrix).
Probes that are excluded, for they bind elsewhere too or are deprecated, stay features of their own
under the name of the probe, so that no count is lost and none ends in a gene.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cellplm.errors import InputError
from cellplm.ingest.readers.tenx_matrix import Matrix, features
from cellplm.ingest.source import Block

COLUMNS = ("gene_id", "gene_name", "filtered_probes")


def are_in(var: pd.DataFrame) -> bool:
    """Whether features are probes whose genes are known."""
    return all(name in var.columns for name in COLUMNS)


def joined(matrix: Matrix, path: Path) -> Matrix:
    """The matrix with the included probes of each gene added up.

    Args:
        matrix: whose features are probes.
        path: its file, for the message.

    Raises:
        InputError: while its blocks are read: a probe has two values in one cell.
    """
    var = matrix.var
    included = var["filtered_probes"].to_numpy(dtype=bool)
    key = np.where(included, "gene " + var["gene_id"].astype(str), "probe " + var["feature_id"])
    column, _ = pd.factorize(key)
    first = np.flatnonzero(~pd.Series(column).duplicated())
    one = var.iloc[first]
    names = np.where(included[first], one["gene_name"], one.index)
    ids = np.where(included[first], one["gene_id"], one["feature_id"])
    by_gene = features(names.tolist(), ids.tolist())
    for name in ("feature_types", "genome"):
        if name in one.columns:
            by_gene[name] = one[name].to_numpy()
    by_gene["n_probes"] = np.bincount(column)
    n_genes = int(included[first].sum())
    note = (
        f"counts of {int(included.sum())} probes were summed to {n_genes} genes; "
        f"{int((~included).sum())} excluded probes stay features of their own"
    )
    blocks = matrix.blocks
    return replace(
        matrix,
        var=by_gene,
        place=f"{matrix.place}, probes summed by gene",
        notes=(*matrix.notes, note),
        blocks=lambda: (_summed(b, column, len(first), path) for b in blocks()),
    )


def _summed(block: Block, column: NDArray[np.int64], n_columns: int, path: Path) -> Block:
    shape = (block.n, column.size)
    probes = sp.csr_matrix((block.data, block.indices, block.indptr), shape=shape)
    # Summing would hide what the check of counts refuses.
    probes.sort_indices()
    if not probes.has_canonical_format:
        raise InputError(f"{path}: a probe has two values in one cell; one was expected")
    genes = sp.csr_matrix(
        (probes.data, column[probes.indices], probes.indptr), shape=(block.n, n_columns)
    )
    genes.sum_duplicates()
    return Block(
        axis=block.axis,
        start=block.start,
        indptr=genes.indptr.astype(np.int64),
        indices=genes.indices.astype(np.int32),
        data=genes.data,
    )
