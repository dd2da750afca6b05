import pytest
import torch

from cellplm.corpus.genes import GeneIndex
from cellplm.errors import GenesError
from cellplm.model.vocabulary import Vocabulary
from tests.model.make import gene_numbers, vocabulary


def test_numbers_map_to_rows_and_strangers_to_minus_one() -> None:
    rows = [7, 0, 39, 41]  # The last is beyond the small vocabulary.
    numbers = torch.from_numpy(gene_numbers(rows))
    numbers = torch.cat((numbers, torch.tensor([-1], dtype=torch.int32)))
    assert vocabulary().rows_of(numbers, GeneIndex.bundled()).tolist() == [7, 0, 39, -1, -1]


def test_an_id_unknown_to_the_index_has_a_row_that_nothing_maps_to() -> None:
    known = GeneIndex.bundled().vocabulary_ids()[3]
    words = Vocabulary(("ENSG_no_such_gene", known))
    everything = torch.from_numpy(GeneIndex.bundled().number.copy())
    rows = words.rows_of(everything, GeneIndex.bundled())
    assert sorted(rows[rows >= 0].tolist()) == [1]


def test_an_id_given_twice_is_refused() -> None:
    with pytest.raises(GenesError, match="ENSG1 stands twice"):
        Vocabulary(("ENSG1", "ENSG2", "ENSG1"))


def test_a_number_beyond_the_index_is_refused() -> None:
    index = GeneIndex.bundled()
    with pytest.raises(GenesError, match="newer"):
        vocabulary().rows_of(torch.tensor([index.n]), index)
