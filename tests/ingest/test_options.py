from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cellplm.corpus.reader import Corpus
from cellplm.errors import CellplmError, ConfigError, MissingFileError
from cellplm.ingest.convert import ingest_files
from cellplm.ingest.options import DataSetOptions, IngestOptions, read_rules
from tests.make import make_adata, write_h5ad


def write_rules(folder: Path, text: str) -> Path:
    path = folder / "datasets.toml"
    path.write_text(text)
    return path


def test_rules_hold_for_their_data_sets_only_and_later_ones_win(tmp_path: Path) -> None:
    a, b = make_adata(seed=1), make_adata(seed=2)
    a.layers["mine"], a.X = a.X.copy(), a.X.log1p()
    write_h5ad(tmp_path / "raw" / "a.h5ad", a)
    write_h5ad(tmp_path / "raw" / "b.h5ad", b)
    rules = write_rules(
        tmp_path,
        """
        [[dataset]]
        path = "raw"
        min_cells = 41

        [[dataset]]
        path = "raw/a.h5ad"
        name = "first"
        counts = "mine"
        min_cells = 1
        """,
    )
    options = IngestOptions(rules=read_rules(rules))
    report = ingest_files([tmp_path / "raw"], tmp_path / "c.zarr", options)
    first, second = report.ingested
    assert (first.name, first.counts_from) == ("first", "layers['mine']")
    assert (first.n_kept, first.n_tissues, first.excluded_cells) == (100, 2, {})
    assert (second.name, second.counts_from) == ("b", "X")
    assert (second.n_kept, second.n_tissues) == (60, 1)
    assert second.excluded_cells == {"in tissues of fewer than 41 cells": 40}
    obs = Corpus.open(tmp_path / "c.zarr").parts[1].to_anndata().obs
    assert (obs["tissue"] == -1).sum() == 40


@pytest.mark.parametrize(
    ("text", "says", "kind"),
    [
        ("path = 1", r"expected tables \[\[dataset\]\]", ConfigError),
        ("[[dataset]]\nname = 'x'", "needs a path", ConfigError),
        ("[[dataset]]\npath = 'a'\ncount = 'raw'", "no option 'count'; known are", ConfigError),
        (
            "[[dataset]]\npath = '.'\nmin_counts = '5'",
            "min_counts = '5' has the wrong",
            ConfigError,
        ),
        ("[[dataset]]\npath = '.'\nspecies = 'rat'", "species = 'rat'", ConfigError),
        ("[[dataset]]\npath = '.'\nmin_cells = 0", "must be at least 1", ConfigError),
        ("[[dataset]]\npath = 'absent'", "absent: no such file", MissingFileError),
        ("[[dataset]", "not TOML", ConfigError),
    ],
)
def test_what_is_wrong_with_rules_is_one_line(
    tmp_path: Path, text: str, says: str, kind: type[CellplmError]
) -> None:
    with pytest.raises(kind, match=says) as caught:
        read_rules(write_rules(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [{"min_counts": -1}, {"min_cells": 0}, {"um_per_unit": 0.0}, {"coords": ("a", "b", "c")}],
)
def test_options_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        DataSetOptions(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        IngestOptions(**wrong)  # type: ignore[arg-type]


def test_positions_come_from_the_columns_that_are_named(tmp_path: Path) -> None:
    adata = make_adata()
    places = np.random.default_rng(0).uniform(0, 900, (100, 2)).astype(np.float32)
    adata.obs["left"], adata.obs["down"] = places.T
    path = write_h5ad(tmp_path / "a.h5ad", adata)
    options = IngestOptions(coords=("left", "down"), um_per_unit=0.5)
    (each,) = ingest_files([path], tmp_path / "c.zarr", options).ingested
    assert each.modality == "srt"
    back = Corpus.open(tmp_path / "c.zarr").parts[0].to_anndata()
    assert np.array_equal(back.obsm["spatial"], places * 0.5)
