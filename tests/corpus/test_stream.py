"""The stream gives the corpus's own counts, each cell once, and goes on where it stopped."""

from __future__ import annotations

import threading
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from cellplm.corpus.batch import TissueBatch
from cellplm.corpus.genes import GeneIndex
from cellplm.corpus.plan import PlanConfig
from cellplm.corpus.reader import Corpus
from cellplm.corpus.stream import TissueStream
from cellplm.errors import ConfigError, CorruptCorpusError
from tests.make import make_adata, make_corpus

CONFIG = PlanConfig(window=25, pack_cells=50, global_batch_packs=3)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("stream")
    return make_corpus(
        folder,
        make_adata(samples=(60, 40, 7)),
        make_adata(samples=(120,), n_genes=30, seed=1, spatial=True),
    )


def cells(batches: list[TissueBatch]) -> list[tuple[str, int]]:
    return [(batch.part, row) for batch in batches for row in batch.row.tolist()]


def assert_equal(a: TissueBatch, b: TissueBatch) -> None:
    for name in ("indptr", "indices", "counts", "segments", "batch_label", "tissue", "row"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert (a.part, a.key) == (b.part, b.key)


def test_an_epoch_is_every_kept_cell_once_with_its_own_counts(corpus: Corpus) -> None:
    whole = {part.entry.id: ad.io.read_zarr(part.path) for part in corpus.parts}
    batches = list(TissueStream(corpus, CONFIG))
    expected = [(p.entry.id, r) for p in corpus.parts for r in range(p.entry.n_kept)]
    assert sorted(cells(batches)) == sorted(expected)
    for batch in batches:
        source = whole[batch.part][batch.row.numpy()]
        got = sp.csr_matrix(
            (batch.counts.numpy(), batch.indices.numpy().astype(np.int32), batch.indptr.numpy()),
            shape=source.shape,
        )
        assert (got != source.X).nnz == 0
        assert np.array_equal(batch.library_size.numpy(), np.asarray(source.X.sum(1)).ravel())
        assert batch.counts.dtype == torch.uint8
        assert batch.indices.dtype == torch.uint16


def test_a_window_is_one_tissue_and_carries_its_label(corpus: Corpus) -> None:
    stream = TissueStream(corpus, CONFIG)
    whole = {part.entry.id: part for part in corpus.parts}
    for batch in stream:
        obs = ad.io.read_zarr(whole[batch.part].path).obs
        for segment in range(batch.n_segments):
            rows = batch.row[batch.segments[segment] : batch.segments[segment + 1]].numpy()
            assert (np.diff(rows) == 1).all()
            assert obs["tissue"].iloc[rows].nunique() == 1
            label = stream.labels[int(batch.batch_label[segment])]
            assert label.startswith(f"{whole[batch.part].entry.name}/{obs['sample'].iloc[rows[0]]}")


def test_positions_are_relative_to_the_field_of_view(corpus: Corpus) -> None:
    for batch in TissueStream(corpus, PlanConfig(modality="srt")):
        assert batch.coords_um is not None
        assert batch.extent_um is not None
        assert batch.coords_um.min() == 0
        for start, stop, extent in zip(
            batch.segments[:-1], batch.segments[1:], batch.extent_um, strict=True
        ):
            assert batch.coords_um[start:stop].max() == pytest.approx(extent.item())
    for batch in TissueStream(corpus, PlanConfig(modality="scrna")):
        assert batch.coords_um is None


def test_widening_keeps_the_values(corpus: Corpus) -> None:
    batch = next(iter(TissueStream(corpus, CONFIG)))
    wide = batch.to("cpu")
    assert wide.counts.dtype == torch.float32
    assert wide.indices.dtype == torch.int64
    assert np.array_equal(wide.counts.numpy(), batch.counts.numpy())
    assert str(batch.n_cells) in repr(batch)


@settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(stop_after=st.integers(0, 12), before=st.integers(1, 4), after=st.integers(1, 4))
def test_resume_sees_the_same_remaining_steps_on_any_number_of_ranks(
    corpus: Corpus, stop_after: int, before: int, after: int
) -> None:
    def ranks(n: int) -> list[TissueStream]:
        return [TissueStream(corpus, CONFIG, seed=5, rank=r, world_size=n) for r in range(n)]

    unbroken = TissueStream(corpus, CONFIG, seed=5)
    steps = list(unbroken.steps())
    stop_after = min(stop_after, len(steps) - 1)
    first = ranks(before)
    for stream in first:
        for _, _ in zip(range(stop_after), stream.steps(), strict=False):
            pass
    states = [stream.state_dict() for stream in first]
    if stop_after:
        assert all(state == states[0] for state in states)
    resumed = ranks(after)
    for stream in resumed:
        stream.load_state_dict(states[0])
    dealt = zip(*(stream.steps() for stream in resumed), strict=True)
    for expected, mine in zip(steps[stop_after:], dealt, strict=True):
        got = sorted((b for each in mine for b in each), key=lambda b: b.key)
        for a, b in zip(sorted(expected, key=lambda b: b.key), got, strict=True):
            assert_equal(a, b)


def test_state_in_the_middle_of_a_step_gives_the_step_again(corpus: Corpus) -> None:
    stream = TissueStream(corpus, CONFIG)
    batches = iter(stream)
    next(batches)
    assert stream.state_dict()["steps_done"] == 0
    next(batches)
    next(batches)
    assert stream.state_dict()["steps_done"] == 1
    assert isinstance(batches, type(iter(stream)))


def test_the_next_epoch_has_another_order_of_the_same_cells(corpus: Corpus) -> None:
    stream = TissueStream(corpus, CONFIG)
    first, second = list(stream), list(stream)
    assert stream.epoch == 2
    assert cells(first) != cells(second)
    assert sorted(cells(first)) == sorted(cells(second))


def test_two_streams_at_once_do_not_disturb_each_other(corpus: Corpus) -> None:
    a, b = TissueStream(corpus, CONFIG, seed=1), TissueStream(corpus, CONFIG, seed=1)
    for left, right in zip(a, b, strict=True):
        assert_equal(left, right)


def test_a_state_of_another_plan_or_seed_is_refused(corpus: Corpus) -> None:
    state = TissueStream(corpus, CONFIG, seed=1).state_dict()
    with pytest.raises(ConfigError, match="seed"):
        TissueStream(corpus, CONFIG, seed=2).load_state_dict(state)
    with pytest.raises(ConfigError, match="plan"):
        TissueStream(corpus, PlanConfig(window=10), seed=1).load_state_dict(state)


def test_it_is_a_dataset_for_a_data_loader_without_workers(corpus: Corpus) -> None:
    loaded = list(DataLoader(TissueStream(corpus, CONFIG), batch_size=None))
    assert cells(loaded) == cells(list(TissueStream(corpus, CONFIG)))


def test_leaving_in_the_middle_leaves_no_thread(corpus: Corpus) -> None:
    before = threading.active_count()
    batches = TissueStream(corpus, CONFIG).steps()
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_a_filter_that_leaves_nothing_is_an_error(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, make_adata())
    with pytest.raises(ConfigError, match="no cells"):
        TissueStream(corpus, PlanConfig(modality="srt"))


def test_a_damaged_part_is_named_while_streaming(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, make_adata())
    chunk = corpus.parts[0].path / "X" / "data" / "c" / "0"
    raw = bytearray(chunk.read_bytes())
    raw[20] ^= 1
    chunk.write_bytes(bytes(raw))
    with pytest.raises(CorruptCorpusError, match=corpus.parts[0].entry.id):
        list(TissueStream(corpus, CONFIG))


def mouse_adata() -> ad.AnnData:
    adata = make_adata(samples=(30,), seed=3)
    genes = GeneIndex.bundled()
    adata.var_names = list(genes.ensembl_id[genes.species == "mouse"][: adata.n_vars])
    return adata


def test_a_part_without_a_gene_that_the_model_knows_is_left_out(tmp_path: Path) -> None:
    human, mouse = make_corpus(tmp_path, make_adata(), mouse_adata()).parts
    corpus = Corpus.open(tmp_path / "corpus.zarr")
    known = corpus.genes.vocabulary >= 0
    assert (human.entry.species, mouse.entry.species) == ("human", "mouse")
    for in_order in (False, True):
        everything = cells(list(TissueStream(corpus, CONFIG, in_order=in_order)))
        chosen = TissueStream(corpus, CONFIG, genes=known, in_order=in_order)
        seen = cells(list(chosen))
        assert sorted(seen) == [(human.entry.id, row) for row in range(100)]
        assert len(everything) == 130
    # One gene is enough, and whose labels a model has does not depend on it.
    one = np.zeros_like(known)
    one[mouse.index.gene_number[0]] = True
    only_mouse = TissueStream(corpus, CONFIG, genes=one)
    assert {part for part, _ in cells(list(only_mouse))} == {mouse.entry.id}
    assert chosen.labels == only_mouse.labels == TissueStream(corpus, CONFIG).labels


def test_a_corpus_without_any_gene_that_the_model_knows_is_an_error(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, mouse_adata())
    with pytest.raises(ConfigError, match="genes of the model"):
        TissueStream(corpus, CONFIG, genes=corpus.genes.vocabulary >= 0)
