"""An embedding is a function of the cell and the cells of its context, and of nothing else."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

import cellplm
from cellplm.errors import CheckpointError, InputError
from cellplm.logs import Progress
from cellplm.model.cellplm import CellPLM
from cellplm.model.config import ModelConfig
from cellplm.model.pretrained import save_model
from cellplm.model.vocabulary import Vocabulary
from cellplm.tasks.data import opened
from cellplm.tasks.embed import KEY, embed, embed_corpus, embed_file
from tests.make import make_adata, vocabulary_genes, write_h5ad

CONFIG = ModelConfig(
    width=16, n_heads=2, n_layers=2, n_latent=6, n_components=3, n_bottleneck=5, dropout=0.3
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("model")
    model = CellPLM(CONFIG, Vocabulary(tuple(vocabulary_genes(45))), ("a", "b"))
    with torch.no_grad():
        # A fresh table is so near zero that cells would hardly differ.
        model.embedder.table.mul_(30)
    save_model(model, folder)
    return folder


def embedding_of(adata: ad.AnnData, checkpoint: Path, **options: str | int) -> NDArray[np.float32]:
    copy = adata.copy()
    embed(copy, checkpoint, **options)  # type: ignore[arg-type]
    out: NDArray[np.float32] = copy.obsm[KEY]
    return out


def test_a_file_and_an_anndata_get_the_same_embedding_every_time(
    checkpoint: Path, tmp_path: Path
) -> None:
    adata = make_adata(samples=(30, 20))
    data = write_h5ad(tmp_path / "a.h5ad", adata)
    torch.manual_seed(1)
    first = embed_file(data, checkpoint, tmp_path / "new" / "one.h5ad")
    torch.manual_seed(2)
    embed_file(data, checkpoint, tmp_path / "two.h5ad")
    one, two = (ad.read_h5ad(tmp_path / name) for name in ("new/one.h5ad", "two.h5ad"))
    assert first["cells"] == first["embedded"] == 50
    assert first["width"] == 6
    assert one.obsm[KEY].dtype == np.float32
    assert np.array_equal(one.obsm[KEY], two.obsm[KEY])
    assert np.array_equal(one.obsm[KEY], embedding_of(adata, checkpoint))
    assert list(one.obs_names) == list(adata.obs_names)
    assert list(one.obs.columns) == list(adata.obs.columns)
    assert (one.X != adata.X).nnz == 0
    # Different cells are told apart, or the equalities above would say little.
    assert np.unique(one.obsm[KEY].round(4), axis=0).shape[0] == 50


def test_a_cell_keeps_its_embedding_wherever_it_stands_in_the_file(checkpoint: Path) -> None:
    adata = make_adata(samples=(30, 20))
    order = np.random.default_rng(1).permutation(50)
    moved = embedding_of(adata[order].copy(), checkpoint)
    assert np.allclose(moved, embedding_of(adata, checkpoint)[order], atol=1e-5)


def test_the_order_of_genes_has_no_say(checkpoint: Path) -> None:
    adata = make_adata(samples=(30,))
    backwards = adata[:, ::-1].copy()
    assert np.allclose(
        embedding_of(backwards, checkpoint), embedding_of(adata, checkpoint), atol=1e-5
    )


def test_cells_of_another_sample_have_no_say_and_those_of_the_same_do(checkpoint: Path) -> None:
    adata = make_adata(samples=(30, 20))
    mine = (adata.obs["sample"] == "s0").to_numpy()
    before = embedding_of(adata, checkpoint)
    changed = adata.copy()
    counts = changed.X.toarray()
    counts[~mine] = counts[~mine][:, ::-1] * 3 + 1
    changed.X = sp.csr_matrix(counts)
    after = embedding_of(changed, checkpoint)
    assert np.allclose(after[mine], before[mine], atol=1e-5)
    assert not np.allclose(after[~mine], before[~mine], atol=1e-2)
    # All in one context, the same change does reach the others.
    for each in (adata, changed):
        each.obs["all"] = "together"
    one = embedding_of(adata, checkpoint, context="all")
    other = embedding_of(changed, checkpoint, context="all")
    assert np.abs(one[mine] - other[mine]).max() > 1e-3


def test_the_context_column_decides_which_cells_are_seen_together(checkpoint: Path) -> None:
    adata = make_adata(samples=(30, 20))
    together = embedding_of(adata, checkpoint, context="cell_type")
    kind = adata.obs["cell_type"].to_numpy()
    alone = embedding_of(adata[kind == "t1"].copy(), checkpoint, context="cell_type")
    assert np.allclose(alone, together[kind == "t1"], atol=1e-5)
    assert not np.allclose(together, embedding_of(adata, checkpoint), atol=1e-3)


def test_a_window_bounds_the_context_and_is_recorded(checkpoint: Path) -> None:
    adata = make_adata(samples=(30,))
    alone = adata.copy()
    embed(alone, checkpoint, window=1)
    one = embedding_of(adata[17:18].copy(), checkpoint)
    assert np.allclose(one, alone.obsm[KEY][17:18], atol=1e-5)
    assert alone.uns["cellplm"]["window"] == 1
    assert alone.uns["cellplm"]["n_tissues"] == 1
    assert alone.uns["cellplm"]["checkpoint"] == str(checkpoint)


def test_a_cell_without_counts_has_no_embedding(checkpoint: Path, tmp_path: Path) -> None:
    adata = make_adata(samples=(30, 20))
    counts = adata.X.toarray()
    counts[[0, 33]] = 0
    # One count in all is still a cell.
    counts[7] = 0
    counts[7, 3] = 1
    adata.X = sp.csr_matrix(counts)
    data = write_h5ad(tmp_path / "a.h5ad", adata)
    done = embed_file(data, checkpoint, tmp_path / "out.h5ad")
    got = ad.read_h5ad(tmp_path / "out.h5ad").obsm[KEY]
    assert np.flatnonzero(np.isnan(got).any(1)).tolist() == [0, 33]
    assert np.isnan(got[[0, 33]]).all()
    assert (done["cells"], done["embedded"]) == (50, 48)


def test_positions_move_an_embedding_and_their_origin_does_not(checkpoint: Path) -> None:
    adata = make_adata(samples=(60,), spatial=True)
    before = embedding_of(adata, checkpoint)
    shifted, shuffled = adata.copy(), adata.copy()
    shifted.obsm["spatial"] = adata.obsm["spatial"] + 10_000.0
    shuffled.obsm["spatial"] = adata.obsm["spatial"][np.random.default_rng(0).permutation(60)]
    assert np.allclose(embedding_of(shifted, checkpoint), before, atol=1e-2)
    assert not np.allclose(embedding_of(shuffled, checkpoint), before, atol=1e-1)


def test_a_table_is_embedded_as_the_same_counts_in_an_h5ad(
    checkpoint: Path, tmp_path: Path
) -> None:
    adata = make_adata(samples=(30,))
    data = tmp_path / "table.csv"
    frame = pd.DataFrame(adata.X.toarray().astype(int), adata.obs_names, adata.var_names)
    frame.T.to_csv(data)
    embed_file(data, checkpoint, tmp_path / "out.h5ad")
    got = ad.read_h5ad(tmp_path / "out.h5ad")
    assert list(got.obs_names) == list(adata.obs_names)
    assert np.allclose(got.obsm[KEY], embedding_of(adata, checkpoint), atol=1e-6)


def test_progress_counts_all_cells(checkpoint: Path, tmp_path: Path) -> None:
    data = write_h5ad(tmp_path / "a.h5ad", make_adata(samples=(30, 20)))
    seen: list[Progress] = []
    with opened(data) as corpus:
        model = CellPLM.from_pretrained(checkpoint)
        out = embed_corpus(model, corpus, window=10, on_progress=seen.append)
    assert out.shape == (50, 6)
    assert [seen[-1].done, seen[-1].total] == [50, 50]


def test_what_cannot_be_embedded_is_refused_and_left_as_it_was(
    checkpoint: Path, tmp_path: Path
) -> None:
    adata = make_adata(samples=(30,))
    with pytest.raises(CheckpointError, match="nowhere"):
        embed(adata, tmp_path / "nowhere")
    normalised = adata.copy()
    normalised.X = adata.X.log1p()
    with pytest.raises(InputError):
        embed(normalised, checkpoint)
    mouse = adata.copy()
    genes = cellplm.corpus.genes.GeneIndex.bundled()
    mouse.var_names = list(genes.ensembl_id[genes.species == "mouse"][:50])
    with pytest.raises(InputError, match="none of its 50 genes"):
        embed(mouse, checkpoint)
    for each in (adata, normalised, mouse):
        assert KEY not in each.obsm
