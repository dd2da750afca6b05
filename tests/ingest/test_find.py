from __future__ import annotations

from pathlib import Path

import pytest

from cellplm.errors import InputError, MissingFileError
from cellplm.ingest.find import SOURCES, find, why_not
from tests.ingest.make import GENES, make_counts, write_cosmx, write_h5ad, write_text
from tests.ingest.make_anndata import make_anndata, write_spatialdata, write_zarr
from tests.shared import SHARED, needs_shared

TABLE = "gene,a,b\n" + "".join(f"{gene},1,2\n" for gene in GENES)


def test_a_folder_is_searched_to_its_depth_and_leftovers_are_told(tmp_path: Path) -> None:
    write_cosmx(tmp_path / "slides" / "one")
    (tmp_path / "cells").mkdir()
    write_h5ad(tmp_path / "cells" / "x.h5ad", make_counts(2, 2))
    write_text(tmp_path / "cells" / "m.count.csv", TABLE)
    write_text(tmp_path / "cells" / "readme.md", "hello")
    found, others = find([tmp_path])
    assert sorted((one.format, one.name) for one in found) == [
        ("cosmx", "S1"), ("h5ad", "x"), ("table", "m.count"),
    ]  # fmt: skip
    assert others == [tmp_path / "cells" / "readme.md"]


def test_hidden_files_are_passed_over_and_a_zarr_folder_is_one_file(tmp_path: Path) -> None:
    for folder in ("other.zarr", ".cache"):
        (tmp_path / folder).mkdir()
        write_text(tmp_path / folder / "m.csv", TABLE)
    write_text(tmp_path / "._m.csv", TABLE)
    assert find([tmp_path]) == ([], [tmp_path / "other.zarr"])


def test_a_named_file_brings_the_files_that_belong_to_it(tmp_path: Path) -> None:
    write_text(tmp_path / "a.count.csv", TABLE)
    write_text(tmp_path / "a.metadata.csv", "cell,type\na,t1\nb,t2\n")
    write_text(tmp_path / "other.csv", TABLE)
    for name in ("a.count.csv", "a.metadata.csv"):
        found, others = find([tmp_path / name])
        assert [file.name for file in found[0].files] == ["a.count.csv", "a.metadata.csv"]
        assert len(found) == 1
        assert others == []


def test_a_data_set_named_twice_is_found_once(tmp_path: Path) -> None:
    path = write_h5ad(tmp_path / "x.h5ad", make_counts(2, 2))
    assert len(find([path, tmp_path, path])[0]) == 1


def test_names_are_unique(tmp_path: Path) -> None:
    for folder in ("p/one", "p/two", "q/two"):
        (tmp_path / folder).mkdir(parents=True)
        write_text(tmp_path / folder / "m.csv", TABLE)
    names = [one.name for one in find([tmp_path])[0]]
    assert names == ["one-m", "two-m", "two-m-2"]


def test_a_missing_path_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no such file or folder"):
        find([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("notes.md", "hello", "no data set that can be read; known formats are .*cosmx.*h5ad"),
        ("labels.csv", '"","x"\n"1","acinar"\n', "no matrix of counts: row '1', column 'x'"),
        ("genes.csv", "", "empty file"),
    ],
)
def test_a_named_file_that_is_no_data_set_is_refused(
    tmp_path: Path, name: str, text: str, words: str
) -> None:
    path = write_text(tmp_path / name, text)
    with pytest.raises(InputError, match=words) as caught:
        find([path])
    assert str(path) in str(caught.value)


def test_a_damaged_table_in_a_folder_is_left_over_with_its_reason(tmp_path: Path) -> None:
    path = write_text(tmp_path / "m.csv.gz", TABLE)
    path.write_bytes(path.read_bytes()[:30])
    found, others = find([tmp_path])
    assert (found, others) == ([], [path])
    assert "damaged or cut short" in why_not(path)


def test_every_format_is_listed_under_its_own_name() -> None:
    assert all(reader.FORMAT == name for name, reader in SOURCES.items())


def test_a_zarr_is_one_data_set_and_a_spatialdata_one_for_each_table(tmp_path: Path) -> None:
    one, two = make_anndata(make_counts(3, 2)), make_anndata(make_counts(4, 2))
    write_zarr(tmp_path / "a.zarr", one)
    write_zarr(tmp_path / "folder without suffix", one, zarr_format=2)
    write_spatialdata(tmp_path / "slide.zarr", {"cells": one, "nuclei": two})
    found, others = find([tmp_path])
    assert [(one.format, one.name) for one in found] == [
        ("spatialdata", "slide-cells"), ("spatialdata", "slide-nuclei"),
        ("anndata-zarr", "a"), ("anndata-zarr", "folder without suffix"),
    ]  # fmt: skip
    assert others == []
    named, others = find([tmp_path / "slide.zarr"])
    assert [one.name for one in named] == ["slide-cells", "slide-nuclei"]
    assert others == []


def test_a_zarr_and_the_h5ad_of_one_name_keep_apart(tmp_path: Path) -> None:
    write_zarr(tmp_path / "a.zarr", make_anndata(make_counts(3, 2)))
    write_h5ad(tmp_path / "a.h5ad", make_counts(3, 2))
    names = [one.name for one in find([tmp_path])[0]]
    assert len(set(names)) == 2


@needs_shared
def test_real_annotation_tables_are_no_data_sets() -> None:
    found, others = find([SHARED / "sc-baron-h1", SHARED / "genes-gencode"])
    assert [one.name for one in found] == ["Baron_H1"]
    assert not {path.parent.name for path in others} & {"sc-baron-h1"}
    ((named,), _) = find([SHARED / "sc-baron-h1" / "Baron_H1_Gene_Ann.csv.gz"])
    assert named.path.name == "Baron_H1_Data.csv.gz"
