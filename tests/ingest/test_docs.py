"""The documents about source formats say what the code does, and their example runs."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from cellplm.corpus.reader import Corpus
from cellplm.errors import InputError
from cellplm.ingest.convert import ingest_files
from cellplm.ingest.coords import COLUMNS
from cellplm.ingest.find import SOURCES, find, why_not
from cellplm.ingest.harmonise import ID_COLUMNS, KINDS, SYMBOL_COLUMNS
from cellplm.ingest.options import DataSetOptions, IngestOptions, read_rules
from cellplm.ingest.readers.anndata_counts import LAYERS
from cellplm.ingest.source import Reader
from cellplm.ingest.tissue import FOV_COLUMNS, SAMPLE_COLUMNS
from tests.ingest.make import GENES, make_counts

DOCS = Path(__file__).resolve().parents[2] / "docs"
FORMATS = (DOCS / "formats.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """What stands below a heading, without line ends inside of sentences."""
    return FORMATS.split(f"\n## {title}\n")[1].split("\n## ")[0]


def named(names: tuple[str, ...]) -> str:
    """Names as the documents list them."""
    return ", ".join(f"`{name}`" for name in names)


def first_cells(text: str) -> list[list[str]]:
    """The code in the first cell of every row of a table."""
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [re.findall("`([^`]+)`", row) for row in rows]


def test_the_formats_stand_in_the_order_of_precedence_and_have_a_section_each() -> None:
    top = FORMATS.split("\n## ")[0]
    assert [cells[0] for cells in first_cells(top)] == list(SOURCES)
    headings = re.findall(r"^## (.+)$", FORMATS, re.M)
    assert [title for title in headings if title in SOURCES] == list(SOURCES)


def test_the_columns_of_positions_are_those_that_are_looked_for() -> None:
    assert first_cells(section("Positions")) == [[x, y] for x, y, _ in COLUMNS]


def test_the_lists_of_names_are_those_of_the_code() -> None:
    genes, tissues, h5ad = (
        " ".join(section(title).split()) for title in ("Genes", "Tissues", "h5ad")
    )
    assert named(ID_COLUMNS) in genes
    assert named(SYMBOL_COLUMNS) in genes
    assert named(SAMPLE_COLUMNS) in tissues
    assert named(FOV_COLUMNS) in tissues
    assert f"{named(LAYERS[:-1])} or `{LAYERS[-1]}`" in h5ad
    assert [cells[0] for cells in first_cells(section("Genes"))] == list(KINDS)


def test_the_datasets_toml_is_read_and_all_of_its_keys_are_named(tmp_path: Path) -> None:
    text = section("datasets.toml")
    example = text.split("```toml\n")[1].split("```")[0]
    for table in tomllib.loads(example)["dataset"]:
        (tmp_path / table["path"]).mkdir(parents=True)
    (tmp_path / "datasets.toml").write_text(example, encoding="utf-8")
    assert len(read_rules(tmp_path / "datasets.toml")) == example.count("[[dataset]]")
    after = text.split("```")[-1]
    assert all(f"`{field.name}`" in after for field in fields(DataSetOptions))


def reader_of_the_how_to(folder: Path) -> Reader:
    """The reader that the how-to shows."""
    text = (DOCS / "how-to-add-a-reader.md").read_text(encoding="utf-8")
    path = folder / "npz_reader.py"
    path.write_text(text.split("```python\n")[1].split("```")[0], encoding="utf-8")
    spec = importlib.util.spec_from_file_location("npz_reader", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return cast(Reader, module)


def test_the_reader_of_the_how_to_brings_data_into_a_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = reader_of_the_how_to(tmp_path)
    monkeypatch.setitem(SOURCES, reader.FORMAT, reader)
    monkeypatch.setattr(reader, "BLOCK_VALUES", 8000)
    counts = make_counts(2500, len(GENES)) + 1
    cells = np.array([f"cell{i}" for i in range(len(counts))])
    xy = np.random.default_rng(1).uniform(0, 1000, (len(counts), 2)).astype(np.float32)
    (tmp_path / "raw").mkdir()
    np.savez(tmp_path / "raw" / "mine.npz", counts=counts, cells=cells, genes=GENES, xy=xy)
    report = ingest_files([tmp_path / "raw"], tmp_path / "c.zarr", IngestOptions(workers=1))
    assert [(each.name, each.format, each.modality) for each in report.ingested] == [
        ("mine", "npz", "srt")
    ]
    adata = Corpus.open(tmp_path / "c.zarr").parts[0].to_anndata()
    order = [GENES.index(name) for name in adata.var["source_name"]]
    assert list(adata.obs_names) == cells.tolist()
    np.testing.assert_array_equal(adata.X.toarray(), counts[:, order])
    np.testing.assert_array_equal(adata.obsm["spatial"], xy)


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ({"genes": GENES}, "no archive of counts, cells and genes"),
        ({"genes": GENES[:2], "cells": ["a"]}, r"counts are \(1, 8\); the names say \(1, 2\)"),
        ({"genes": GENES, "cells": ["a"], "xy": [[1.0]]}, r"xy is \(1, 1\)"),
    ],
)
def test_the_reader_of_the_how_to_refuses_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: dict[str, list[str]], fault: str
) -> None:
    reader = reader_of_the_how_to(tmp_path)
    monkeypatch.setitem(SOURCES, reader.FORMAT, reader)
    path = tmp_path / "bad.npz"
    save: Any = np.savez
    save(path, counts=make_counts(1, len(GENES)), **members)
    with pytest.raises(InputError, match=f"bad.npz: {fault}") as caught:
        ingest_files([path], tmp_path / "c.zarr", IngestOptions(workers=1))
    assert "\n" not in str(caught.value)


def test_the_reader_of_the_how_to_refuses_damaged_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = reader_of_the_how_to(tmp_path)
    monkeypatch.setitem(SOURCES, reader.FORMAT, reader)
    path = tmp_path / "bad.npz"
    counts = make_counts(1000, len(GENES))
    np.savez(path, counts=counts, cells=np.arange(1000).astype(str), genes=GENES)
    packed = bytearray(path.read_bytes())
    packed[counts.nbytes // 2] ^= 255
    path.write_bytes(packed)
    with pytest.raises(InputError, match="bad.npz: damaged") as caught:
        ingest_files([path], tmp_path / "c.zarr", IngestOptions(workers=1))
    assert "\n" not in str(caught.value)


def test_the_reader_of_the_how_to_says_why_a_file_is_no_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = reader_of_the_how_to(tmp_path)
    monkeypatch.setitem(SOURCES, reader.FORMAT, reader)
    path = tmp_path / "weights.npz"
    np.savez(path, w=np.zeros(3))
    assert find([tmp_path])[0] == []
    assert reader.refusal(path) == f"{path}: no member 'counts'; it has w"
    assert why_not(path).startswith(str(path))
