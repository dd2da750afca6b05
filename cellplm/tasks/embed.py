"""Embed cells with a trained model, without training: one vector a cell."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anndata as ad
import numpy as np
from numpy.typing import NDArray

from cellplm.corpus.reader import Corpus
from cellplm.logs import OnProgress, Progress, ignore
from cellplm.model.cellplm import CellPLM
from cellplm.model.device import DeviceName, device_of
from cellplm.tasks.data import as_anndata, in_order, opened, panel

KEY = "X_cellplm"
WINDOW = 2000


def embed_corpus(
    model: CellPLM, corpus: Corpus, *, window: int = WINDOW, on_progress: OnProgress = ignore
) -> NDArray[np.float32]:
    """Embeddings of the cells of a corpus with one part.

    Args:
        model: in any mode; embeddings are taken in eval mode.
        corpus: with one part.
        window: most cells that are seen together.
        on_progress: called after each window.

    Returns:
        (N, Z) float32 in the order of the source; NaN for a cell without counts.
    """
    (part,) = corpus.parts
    out = np.full((part.entry.n_obs, model.config.n_latent), np.nan, dtype=np.float32)
    panel(corpus, model.vocabulary)
    done = 0
    for batch in in_order(corpus, window):
        rows = part.source_rows[batch.row.numpy()]
        out[rows] = model.embed(batch, corpus.genes).float().cpu().numpy()
        done += batch.n_cells
        on_progress(Progress(what="embed", done=done, total=part.entry.n_kept))
    return out


def embed(
    adata: ad.AnnData,
    checkpoint: Path | str,
    *,
    context: str | None = None,
    window: int = WINDOW,
    device: DeviceName = "auto",
) -> None:
    """Write embeddings of an AnnData's cells into `adata.obsm["X_cellplm"]`.

    Args:
        adata: with raw counts in X, raw or a layer "counts".
        checkpoint: a run or checkpoint folder.
        context: obs column whose cells are seen together; found if None.
        window: most cells that are seen together.
        device: "auto" takes a GPU if there is one.

    Raises:
        InputError: no raw counts, or no gene of the model.
        CheckpointError: not a checkpoint.
    """
    model = CellPLM.from_pretrained(checkpoint).to(device_of(device))
    with TemporaryDirectory(prefix="cellplm-") as folder:
        path = Path(folder) / "adata.h5ad"
        adata.write_h5ad(path)
        with opened(path, context=context) as corpus:
            _put(
                adata,
                embed_corpus(model, corpus, window=window),
                corpus,
                checkpoint,
                context,
                window,
            )


def embed_file(
    data: Path,
    checkpoint: Path | str,
    out: Path,
    *,
    context: str | None = None,
    window: int = WINDOW,
    device: DeviceName = "auto",
    on_progress: OnProgress = ignore,
) -> dict[str, Any]:
    """Embed the cells of a file and write it with `obsm["X_cellplm"]` as h5ad.

    Args:
        data: a file or folder with one data set.
        checkpoint: a run or checkpoint folder.
        out: the h5ad to write.
        context: obs column whose cells are seen together; found if None.
        window: most cells that are seen together.
        device: "auto" takes a GPU if there is one.
        on_progress: called now and then.

    Returns:
        {"cells", "embedded", "width", "out"}.

    Raises:
        InputError: the file is refused.
        CheckpointError: not a checkpoint.
    """
    model = CellPLM.from_pretrained(checkpoint).to(device_of(device))
    with opened(data, context=context, on_progress=on_progress) as corpus:
        embedding = embed_corpus(model, corpus, window=window, on_progress=on_progress)
        adata = as_anndata(data, corpus)
        _put(adata, embedding, corpus, checkpoint, context, window)
    out.parent.mkdir(parents=True, exist_ok=True)
    adata.write_h5ad(out)
    return {
        "cells": adata.n_obs,
        "embedded": int(np.isfinite(embedding[:, 0]).sum()),
        "width": embedding.shape[1],
        "out": str(out),
    }


def _put(
    adata: ad.AnnData,
    embedding: NDArray[np.float32],
    corpus: Corpus,
    checkpoint: Path | str,
    context: str | None,
    window: int,
) -> None:
    (part,) = corpus.parts
    index = part.index
    adata.obsm[KEY] = embedding
    adata.uns["cellplm"] = {
        "checkpoint": str(checkpoint),
        "context": context or "",
        "window": window,
        "n_tissues": index.n_tissues,
        "modality": part.entry.modality,
        "n_genes": part.entry.n_genes,
    }
