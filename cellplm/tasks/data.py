"""A file given to a task, through the same ingest as everything else.

Tasks read their data from a small corpus made of the file: the same checks, gene ids and
tissues, and no limit of memory. The cells of one sample or field of view are seen
together; `context` names another column for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import anndata as ad
import numpy as np
import torch
import zarr
from anndata.io import read_elem
from torch import Tensor

from cellplm.corpus.batch import TissueBatch
from cellplm.corpus.plan import PlanConfig
from cellplm.corpus.reader import Corpus
from cellplm.corpus.stream import TissueStream
from cellplm.errors import GenesError, InputError
from cellplm.ingest.convert import ingest_files
from cellplm.ingest.options import IngestOptions
from cellplm.logs import OnProgress, ignore
from cellplm.model.vocabulary import Vocabulary


@contextmanager
def opened(
    data: Path, *, context: str | None = None, on_progress: OnProgress = ignore
) -> Iterator[Corpus]:
    """A corpus of one file, for as long as the block runs.

    Args:
        data: a file or folder that holds one data set.
        context: obs column whose cells are seen together; the tissue rule if None.
        on_progress: of the ingest.

    Raises:
        InputError: the file is refused, or holds several data sets.
    """
    # Only empty cells are left out: whoever asks for predictions wants them for all others,
    # for spots too.
    options = IngestOptions(tissue_key=context, min_counts=1, allow_spots=True)
    with TemporaryDirectory(prefix="cellplm-") as folder:
        root = Path(folder) / "data.zarr"
        report = ingest_files([data], root, options, on_progress=on_progress)
        if len(report.ingested) != 1:
            names = ", ".join(each.name for each in report.ingested)
            raise InputError(
                f"{data}: holds {len(report.ingested)} data sets ({names}); give one of them."
            )
        yield Corpus.open(root)


def in_order(corpus: Corpus, window: int) -> Iterator[TissueBatch]:
    """Every kept cell once, in windows that no seed has a say in, as unknown batches."""
    for batch in TissueStream(corpus, PlanConfig(window=window), in_order=True):
        yield unknown_batch(batch)


def panel(corpus: Corpus, vocabulary: Vocabulary) -> Tensor:
    """(V,) bool: which columns of the corpus's one part are genes of a model.

    Raises:
        GenesError: none is.
    """
    (part,) = corpus.parts
    rows = vocabulary.rows_of(torch.from_numpy(part.index.gene_number), corpus.genes)
    in_panel = rows >= 0
    if not in_panel.any():
        raise GenesError(
            f"{part.entry.sources[0].path}: none of its {part.entry.n_genes:,} genes "
            f"({part.entry.species}) is among the {len(vocabulary):,} of the model."
        )
    return in_panel


def unknown_batch(batch: TissueBatch) -> TissueBatch:
    """The batch without its labels, which count another corpus than the model's."""
    return replace(batch, batch_label=torch.full_like(batch.batch_label, -1))


def as_anndata(data: Path, corpus: Corpus) -> ad.AnnData:
    """The file as AnnData, cells and features in their order.

    An h5ad as it is, if its counts have the columns of X; else what the part holds of it
    (counts in raw may be of other genes, or of the same in another order).
    """
    (part,) = corpus.parts
    if data.suffix == ".h5ad":
        whole = ad.read_h5ad(data)
        names = np.asarray(read_elem(zarr.open_group(part.path / "var", mode="r"))["source_name"])
        if np.array_equal(names[np.argsort(part.source_columns)], whole.var_names.astype(str)):
            return whole
    adata = part.to_anndata()
    adata.var_names = adata.var["source_name"].to_numpy()
    return adata
