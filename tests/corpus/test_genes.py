from __future__ import annotations

import hashlib
import importlib.resources
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cellplm.corpus.genes import GeneIndex
from cellplm.errors import CorruptCorpusError
from tests.shared import SHARED, needs_shared


def small(**changes: object) -> bytes:
    table = {
        "number": np.arange(2, dtype=np.int32),
        "ensembl_id": ["ENSG00000000003", "ENSMUSG00000000003"],
        "symbol": ["A", "a"],
        "species": ["human", "mouse"],
        "biotype": ["", ""],
        "ortholog": np.array([1, 0], dtype=np.int32),
        "vocabulary": np.array([0, -1], dtype=np.int32),
    } | changes
    out = io.BytesIO()
    pd.DataFrame(table).to_parquet(out)
    return out.getvalue()


def test_the_bundled_index_keeps_its_bytes() -> None:
    path = importlib.resources.files("cellplm") / "data" / "genes.parquet"
    index = GeneIndex.bundled()
    assert index.raw_bytes == path.read_bytes()
    assert index.sha256 == hashlib.sha256(index.raw_bytes).hexdigest()
    assert GeneIndex.bundled() is index


def test_the_vocabulary_comes_first_and_in_order() -> None:
    index = GeneIndex.bundled()
    ids = index.vocabulary_ids()
    assert len(ids) == 19_374
    np.testing.assert_array_equal(index.numbers_of(ids), np.arange(19_374))
    np.testing.assert_array_equal(index.vocabulary[:19_374], np.arange(19_374))
    assert (index.vocabulary[19_374:] == -1).all()


@needs_shared
def test_the_vocabulary_is_the_published_one() -> None:
    config = json.loads((SHARED / "genes-vocab/CellPLM_20230926_85M.config.json").read_text())
    assert list(GeneIndex.bundled().vocabulary_ids()) == config["gene_list"]


def test_orthologs_point_at_each_other_across_species() -> None:
    index = GeneIndex.bundled()
    some = np.flatnonzero(index.ortholog >= 0)
    assert some.size > 30_000
    np.testing.assert_array_equal(index.ortholog[index.ortholog[some]], some)
    assert (index.species[some] != index.species[index.ortholog[some]]).all()


def test_an_unknown_id_has_no_number() -> None:
    index = GeneIndex.from_bytes(small())
    asked = ["ENSMUSG00000000003", "nothing", "ENSG00000000003", "ENSG00000000003"]
    assert index.numbers_of(asked).tolist() == [1, -1, 0, 0]
    assert index.numbers_of([]).tolist() == []


def test_an_index_read_back_from_disk_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "genes.parquet"
    path.write_bytes(small())
    assert GeneIndex.from_path(path).sha256 == GeneIndex.from_bytes(small()).sha256


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a readable gene index"),
        (b"PAR1 and no more", "not a readable gene index"),
        (small()[:-40], "not a readable gene index"),
        (small(number=np.array([0, 2], dtype=np.int32)), r"not 0\.\.1"),
        (small(number=np.arange(2)), "number as int64"),
        (small(ensembl_id=["same", "same"]), "one an id"),
        (small(ortholog=np.array([7, 0], dtype=np.int32)), "ortholog"),
    ],
)
def test_a_broken_index_is_refused_in_one_line(data: bytes, words: str) -> None:
    with pytest.raises(CorruptCorpusError, match=words) as caught:
        GeneIndex.from_bytes(data, name="corpus/genes/x.parquet")
    assert str(caught.value).startswith("corpus/genes/x.parquet")
    assert "\n" not in str(caught.value)


def test_an_index_without_a_column_is_refused() -> None:
    out = io.BytesIO()
    pd.read_parquet(io.BytesIO(small())).drop(columns="ortholog").to_parquet(out)
    with pytest.raises(CorruptCorpusError, match="lacks ortholog"):
        GeneIndex.from_bytes(out.getvalue())


def test_a_missing_index_is_a_corrupt_corpus(tmp_path: Path) -> None:
    with pytest.raises(CorruptCorpusError, match="cannot be read"):
        GeneIndex.from_path(tmp_path / "genes.parquet")
