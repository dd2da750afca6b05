import numpy as np
import pytest
import torch

from cellplm.corpus.genes import GeneIndex
from cellplm.errors import GenesError
from cellplm.model.inputs import prepare
from tests.model.make import expected_values, gene_numbers, make_batch, make_counts, vocabulary


def test_values_are_log1p_of_counts_per_10k() -> None:
    counts = make_counts(9, 12)
    counts[4] = 0
    inputs = prepare(make_batch([counts]), vocabulary(), GeneIndex.bundled(), dtype=torch.float64)
    np.testing.assert_allclose(inputs.x_CG.dense(0, 9), expected_values(counts), rtol=1e-6)


def test_columns_outside_the_vocabulary_go_and_still_count_for_the_library() -> None:
    counts = make_counts(6, 5)
    # No gene, a gene of the vocabulary, one outside it, two more inside, not in order.
    gene_ids = gene_numbers([0, 8, 1000, 30, 2])
    gene_ids[0] = -1
    batch = make_batch([counts], gene_ids=gene_ids)
    inputs = prepare(batch, vocabulary(), GeneIndex.bundled(), dtype=torch.float64)
    assert inputs.gene_rows_G.tolist() == [8, 30, 2]
    assert (inputs.n_cells, inputs.n_genes) == (6, 3)
    expected = expected_values(counts[:, 1:])[:, [0, 2, 3]]
    np.testing.assert_allclose(inputs.x_CG.dense(0, 6), expected, rtol=1e-6)
    assert inputs.x_CG.indptr[-1] == inputs.x_CG.values.numel()


def test_a_widened_batch_gives_the_same_input() -> None:
    batch = make_batch([make_counts(4, 6)])
    narrow = prepare(batch, vocabulary(), GeneIndex.bundled())
    wide = prepare(batch.to("cpu"), vocabulary(), GeneIndex.bundled())
    assert torch.equal(narrow.x_CG.values, wide.x_CG.values)


def test_each_cell_knows_its_window() -> None:
    batch = make_batch([make_counts(2, 3), make_counts(1, 3), make_counts(3, 3)])
    inputs = prepare(batch, vocabulary(), GeneIndex.bundled())
    assert inputs.segment_C.tolist() == [0, 0, 1, 2, 2, 2]


def test_a_pack_without_known_genes_is_refused_by_name() -> None:
    batch = make_batch([make_counts(2, 2)], gene_ids=np.array([-1, -1], dtype=np.int32))
    with pytest.raises(GenesError, match="pack 0 of epoch 0 .*part made"):
        prepare(batch, vocabulary(), GeneIndex.bundled())
