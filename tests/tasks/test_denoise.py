"""Denoising scores what no one saw, and predicts each cell in its place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from cellplm.corpus.batch import TissueBatch
from cellplm.corpus.reader import Corpus
from cellplm.model.cellplm import CellPLM
from cellplm.model.config import ModelConfig
from cellplm.model.vocabulary import Vocabulary
from cellplm.tasks.data import in_order, opened
from cellplm.tasks.denoise import Denoise, DenoiseConfig
from cellplm.tasks.holdout import Scheme, hold_out
from cellplm.training.finetune import FinetuneConfig, fit
from tests.make import make_adata, vocabulary_genes, write_h5ad

SCHEMES: tuple[Scheme, ...] = ("hide", "thin")
N_GENES = 50
WINDOW = 40
MODEL = ModelConfig(
    width=16, n_heads=2, n_layers=1, n_latent=6, n_components=3, n_bottleneck=5, dropout=0.1
)


def make_vocabulary(n: int = N_GENES) -> Vocabulary:
    return Vocabulary(tuple(vocabulary_genes(n)))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_h5ad(tmp_path_factory.mktemp("denoise") / "a.h5ad", make_adata())


@pytest.fixture(scope="module")
def corpus(file: Path) -> Iterator[Corpus]:
    with opened(file) as corpus:
        yield corpus


def make_task(
    corpus: Corpus, scheme: Scheme | None, vocabulary: Vocabulary | None = None
) -> Denoise:
    config = DenoiseConfig(scheme=scheme, fraction=0.1, window=WINDOW, seed=3)
    return Denoise(corpus, vocabulary or make_vocabulary(), config)


def dense(batch: TissueBatch) -> NDArray[np.int64]:
    parts = (batch.counts.numpy(), batch.indices.numpy().astype(np.int32), batch.indptr.numpy())
    shape = (batch.n_cells, batch.gene_ids.numel())
    return sp.csr_matrix(parts, shape=shape).toarray().astype(np.int64)


def stored(corpus: Corpus) -> NDArray[np.int64]:
    """All counts, rows and columns as in the part."""
    counts = corpus.parts[0].to_anndata(source_order=False).X
    return np.asarray(counts.toarray(), dtype=np.int64)


def split_up(corpus: Corpus, scheme: Scheme) -> dict[str, NDArray[np.int64]]:
    """What is visible, test and valid of every entry of the part."""
    shape = (corpus.parts[0].entry.n_obs, corpus.parts[0].entry.n_vars)
    out = {name: np.zeros(shape, dtype=np.int64) for name in ("visible", "test", "valid")}
    for batch in in_order(corpus, WINDOW):
        held = hold_out(batch, scheme, 0.1, 3)
        rows = batch.row.numpy()
        out["visible"][rows] = dense(held.visible)
        for name, entries in (("test", held.test), ("valid", held.valid)):
            out[name][rows[entries.cell.numpy()], entries.column.numpy()] = entries.count.numpy()
    return out


def log_cp10k(counts: NDArray[np.int64], library: NDArray[np.int64]) -> NDArray[np.float64]:
    out: NDArray[np.float64] = np.log1p(1e4 * counts / np.maximum(library, 1)[:, None])
    return out


@pytest.mark.parametrize("scheme", SCHEMES)
def test_training_never_shows_what_is_set_aside(corpus: Corpus, scheme: Scheme) -> None:
    split = split_up(corpus, scheme)
    counts = stored(corpus)
    assert np.array_equal(split["visible"] + split["test"] + split["valid"], counts)
    seen = 0
    # Two epochs and more: other windows, the same counts.
    for batch in islice(make_task(corpus, scheme).training_batches(), 9):
        assert np.array_equal(dense(batch), split["visible"][batch.row.numpy()])
        assert np.array_equal(batch.library_size.numpy(), dense(batch).sum(1))
        assert (batch.batch_label == -1).all()
        seen += batch.n_cells
    assert seen > 2 * corpus.parts[0].entry.n_kept


@contextmanager
def with_and_without_marker(folder: Path, scheme: Scheme) -> Iterator[tuple[Corpus, Corpus]]:
    """Two corpora that differ in test counts alone: huge in the first, small in the second.

    Low counts are likelier to be hidden, so lowering a hidden count leaves it hidden; an
    entry whose molecules are all set aside for test may be left out altogether.
    """
    adata = make_adata(seed=4)
    if scheme == "hide":
        adata.X = adata.X * 100
    with opened(write_h5ad(folder / "marked.h5ad", adata)) as marked:
        split = split_up(marked, scheme)
        test = split["test"]
        if scheme == "hide":
            other = np.where(test > 0, 1, stored(marked))
        else:
            other = np.where((test > 0) & (test == stored(marked)), 0, stored(marked))
        assert (other != stored(marked)).sum() > 50
        part = marked.parts[0]
        counts = np.zeros_like(other)
        counts[np.ix_(part.source_rows, part.source_columns)] = other
        plain = adata.copy()
        plain.X = sp.csr_matrix(counts.astype(np.float32))
        with opened(write_h5ad(folder / "plain.h5ad", plain)) as unmarked:
            yield marked, unmarked


@pytest.mark.parametrize("scheme", SCHEMES)
def test_test_counts_have_no_say_in_training_or_in_the_choice_of_a_step(
    tmp_path: Path, scheme: Scheme
) -> None:
    with with_and_without_marker(tmp_path, scheme) as corpora:
        tasks = [make_task(corpus, scheme) for corpus in corpora]
        for a, b in zip(*(islice(task.training_batches(), 6) for task in tasks), strict=True):
            for name in ("row", "indptr", "indices", "counts", "library_size"):
                assert torch.equal(getattr(a, name), getattr(b, name)), name
        models = [CellPLM(MODEL, make_vocabulary()) for _ in tasks]
        budget = FinetuneConfig(max_steps=6, eval_every=2, warmup_steps=1, lr=0.01)
        best = [fit(model, task, budget) for model, task in zip(models, tasks, strict=True)]
        assert best[0] == best[1]
        left, right = (model.state_dict() for model in models)
        assert all(torch.equal(left[name], right[name]) for name in left)
        valid = [t.score(t.model_predict(m), "valid") for t, m in zip(tasks, models, strict=True)]
        assert valid[0] == valid[1]
        for name in tasks[0].baselines():
            means = [t.baselines()[name](next(in_order(t.corpus, WINDOW))) for t in tasks]
            assert torch.equal(*means)
        if scheme == "hide":
            # And the marker is there: the test score does see it.
            test = [t.score(t.baselines()["gene mean of non-zeros"], "test") for t in tasks]
            assert test[0] != test[1]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_predictor_is_shown_visible_counts_only(corpus: Corpus, scheme: Scheme) -> None:
    visible = split_up(corpus, scheme)["visible"]
    task = make_task(corpus, scheme)
    rows: list[int] = []

    def predict(batch: TissueBatch) -> torch.Tensor:
        assert np.array_equal(dense(batch), visible[batch.row.numpy()])
        rows.extend(batch.row.tolist())
        return torch.zeros(batch.n_cells, N_GENES)

    task.score(predict, "valid")
    assert sorted(rows) == list(range(100))


def test_the_gene_means_are_what_a_hand_computes(corpus: Corpus) -> None:
    visible = split_up(corpus, "hide")["visible"]
    total = log_cp10k(visible, visible.sum(1)).sum(0)
    baselines = make_task(corpus, "hide").baselines()
    batch = next(in_order(corpus, WINDOW))
    for name, n in (
        ("gene mean", len(visible)),
        ("gene mean of non-zeros", np.maximum((visible > 0).sum(0), 1)),
    ):
        got = baselines[name](batch).numpy()
        assert got.shape == (batch.n_cells, N_GENES)
        assert np.allclose(got, total / n, rtol=1e-5)


def test_the_gene_mean_for_molecules_is_the_pooled_counts(corpus: Corpus) -> None:
    visible = split_up(corpus, "thin")["visible"]
    predict = make_task(corpus, "thin").baselines()["gene mean"]
    got = np.expm1(predict(next(in_order(corpus, WINDOW))).numpy())
    assert np.allclose(got / got.sum(1, keepdims=True), visible.sum(0) / visible.sum(), rtol=1e-4)


@pytest.mark.parametrize("split", ["test", "valid"])
def test_a_perfect_predictor_has_no_error(corpus: Corpus, split: str) -> None:
    counts = stored(corpus)
    # For validation the library is without the test counts, which no choice may depend on.
    unknown = split_up(corpus, "hide")["test"] if split == "valid" else 0
    truth = torch.from_numpy(log_cp10k(counts, (counts - unknown).sum(1))).float()
    score = make_task(corpus, "hide").score(lambda batch: truth[batch.row], split)
    assert score == pytest.approx({"rmse": 0.0, "mae": 0.0}, abs=1e-5)
    worse = make_task(corpus, "hide").score(lambda batch: truth[batch.row] + 0.5, split)
    assert worse == pytest.approx({"rmse": 0.5, "mae": 0.5}, abs=1e-5)


def test_on_molecules_the_true_rates_beat_the_mean_and_knowing_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rate = rng.gamma(0.5, 2.0, (2, N_GENES))[np.arange(300) % 2] + 0.05
    adata = ad.AnnData(
        sp.csr_matrix(rng.poisson(rate).astype(np.float32)),
        var=pd.DataFrame(index=vocabulary_genes(N_GENES)),
    )
    with opened(write_h5ad(tmp_path / "two.h5ad", adata)) as corpus:
        task = make_task(corpus, "thin")
        part = corpus.parts[0]
        true = torch.log1p(torch.from_numpy(rate[part.source_rows][:, part.source_columns]))
        best, mean, nothing = (
            task.score(predict, "test")["molecule_nll"]
            for predict in (
                lambda batch: true[batch.row],
                task.baselines()["gene mean"],
                lambda batch: torch.zeros(batch.n_cells, N_GENES),
            )
        )
        assert best < mean < nothing
        assert nothing == pytest.approx(np.log(N_GENES))


def test_what_is_hidden_outside_the_vocabulary_is_not_scored(corpus: Corpus) -> None:
    small = make_vocabulary(20)
    task = make_task(corpus, "hide", small)
    var = corpus.parts[0].to_anndata(source_order=False).var
    inside = var["gene_id"].isin(small.ensembl_ids).to_numpy()
    assert inside.sum() == 20
    split = split_up(corpus, "hide")
    for name in ("test", "valid"):
        assert task.n_set_aside()[name] == (split[name][:, inside] > 0).sum()
    counts = stored(corpus)
    truth = torch.from_numpy(log_cp10k(counts, counts.sum(1))[:, inside]).float()
    score = task.score(lambda batch: truth[batch.row], "test")
    assert score["rmse"] == pytest.approx(0.0, abs=1e-5)


def test_without_a_scheme_everything_is_seen_and_nothing_is_scored(corpus: Corpus) -> None:
    task = make_task(corpus, None)
    assert task.chosen_by is None
    assert task.score(task.baselines()["gene mean"], "test") == {}
    assert task.n_set_aside() == {"test": 0, "valid": 0}
    batch = next(task.training_batches())
    assert np.array_equal(dense(batch), stored(corpus)[batch.row.numpy()])


def test_for_hide_a_quarter_of_the_non_zeros_is_masked_and_no_zero(corpus: Corpus) -> None:
    task, model = make_task(corpus, "hide"), CellPLM(MODEL, make_vocabulary())
    batch = next(task.training_batches())
    inputs = model.prepare(batch, corpus.genes)
    mask = task.mask(model, inputs)
    hidden = mask.hidden_MG.numpy()
    assert mask.cells_M.tolist() == list(range(batch.n_cells))
    assert not hidden[dense(batch) == 0].any()
    assert hidden[dense(batch) > 0].mean() == pytest.approx(0.25, abs=0.06)
    assert torch.equal(task.mask(model, inputs).hidden_MG, mask.hidden_MG)


def expected_predictions(task: Denoise, model: CellPLM, adata: ad.AnnData) -> NDArray[np.float64]:
    """By the names of cells and genes, where `write_predictions` goes by numbers."""
    part = task.corpus.parts[0].to_anndata(source_order=False)
    in_model = part.var["gene_id"].isin(model.vocabulary.ensembl_ids).to_numpy()
    genes = part.var["source_name"].to_numpy()[in_model]
    out = pd.DataFrame(np.nan, index=adata.obs_names, columns=adata.var_names)
    depth = part.X.toarray()[:, in_model].sum(1)
    for batch in in_order(task.corpus, WINDOW):
        values = np.expm1(model.predict(model.prepare(batch)).clamp(min=0).numpy())
        values *= (depth[batch.row.numpy()] / values.sum(1))[:, None]
        out.loc[part.obs_names[batch.row.numpy()], genes] = values
    return out.to_numpy()


def trained(corpus: Corpus, vocabulary: Vocabulary) -> CellPLM:
    model = CellPLM(MODEL, vocabulary)
    budget = FinetuneConfig(max_steps=30, warmup_steps=1, lr=0.01)
    fit(model, make_task(corpus, None, vocabulary), budget)
    return model


def test_predictions_hold_every_cell_in_its_place_on_the_scale_of_counts(tmp_path: Path) -> None:
    adata = make_adata()
    counts = adata.X.toarray()
    counts[[3, 50]] = 0
    adata.X = sp.csr_matrix(counts)
    names = list(adata.var_names)
    names[7] = "no-such-gene"
    adata.var_names = names
    # Source columns in another order than the corpus keeps them in.
    adata = adata[:, np.random.default_rng(0).permutation(N_GENES)].copy()
    adata.layers["predicted"] = adata.X.copy()
    data, out = write_h5ad(tmp_path / "a.h5ad", adata), tmp_path / "out.h5ad"
    vocabulary = make_vocabulary(45)
    with opened(data) as corpus:
        model = trained(corpus, vocabulary)
        task = make_task(corpus, None, vocabulary)
        task.write_predictions(model, data, out)
        expected = expected_predictions(task, model, adata)
    got = ad.read_h5ad(out)
    assert list(got.obs_names) == list(adata.obs_names)
    assert list(got.var_names) == list(adata.var_names)
    assert (got.X != adata.X).nnz == 0
    layer = got.layers["predicted"]
    assert np.allclose(layer, expected, rtol=1e-4, atol=1e-6, equal_nan=True)
    outside = ~adata.var_names.isin(vocabulary.ensembl_ids)
    assert outside.sum() == 6
    empty = np.isin(np.arange(adata.n_obs), [3, 50])
    assert np.array_equal(np.isnan(layer), empty[:, None] | outside[None, :])
    assert (layer[np.isfinite(layer)] >= 0).all()


def test_predictions_of_a_csv_file(tmp_path: Path) -> None:
    adata = make_adata(samples=(30,))
    data, out = tmp_path / "table.csv", tmp_path / "out.h5ad"
    frame = pd.DataFrame(adata.X.toarray().astype(int), adata.obs_names, adata.var_names)
    frame.T.to_csv(data)
    with opened(data) as corpus:
        model = CellPLM(MODEL, make_vocabulary())
        task = make_task(corpus, None)
        task.write_predictions(model, data, out)
        got = ad.read_h5ad(out)
        expected = expected_predictions(task, model, got)
    assert list(got.obs_names) == list(adata.obs_names)
    assert list(got.var_names) == list(adata.var_names)
    assert np.array_equal(got.X.toarray(), adata.X.toarray())
    assert np.allclose(got.layers["predicted"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n_left", [20, N_GENES])
def test_predictions_stand_under_their_genes_where_the_counts_are_in_raw(
    tmp_path: Path, n_left: int
) -> None:
    whole = make_adata(samples=(30,))
    chosen = np.random.default_rng(0).permutation(N_GENES)[:n_left]
    adata = whole[:, chosen].copy()
    adata.X = adata.X.log1p()
    adata.raw = whole
    data, out = write_h5ad(tmp_path / "a.h5ad", adata), tmp_path / "out.h5ad"
    with opened(data) as corpus:
        model = CellPLM(MODEL, make_vocabulary())
        task = make_task(corpus, None)
        task.write_predictions(model, data, out)
        got = ad.read_h5ad(out)
        expected = expected_predictions(task, model, got)
    assert list(got.obs_names) == list(whole.obs_names)
    assert set(got.var_names) == set(whole.var_names)
    assert np.allclose(got.layers["predicted"], expected, rtol=1e-4, atol=1e-6)


def test_calibration_makes_a_new_model_as_good_as_the_means_of_genes(corpus: Corpus) -> None:
    task = make_task(corpus, "hide")
    model = CellPLM(MODEL, make_vocabulary())
    before = task.score(task.model_predict(model), "test")["rmse"]
    task.calibrate(model)
    after = task.score(task.model_predict(model), "test")["rmse"]
    mean = task.score(task.baselines()["gene mean of non-zeros"], "test")["rmse"]
    assert after < 1.15 * mean < before
