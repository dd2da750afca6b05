from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from cellplm.errors import InputError, MissingFileError
from cellplm.ingest.readers import hdf5


def refuse(path: Path) -> None:
    with hdf5.opened(path) as file:
        hdf5.refuse_ways_out(file, path)
        hdf5.refuse_unwritten(file, path)


def test_an_honest_file_passes(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["a/b/c"] = np.arange(5)
        file["scalar"] = 3
        file["text"] = "words"
        file["names"] = np.array(["x", "y"], h5py.string_dtype())
        file["empty"] = np.zeros((0, 3))
        file["null"] = h5py.Empty("f4")
        file.create_dataset("chunked", data=np.zeros(1000), chunks=(7,), compression="gzip")
        file.create_dataset("none yet", (0,), "f4", maxshape=(None,), chunks=(5,))
    refuse(path)


def test_one_object_of_many_names_is_walked_once(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("g0")
        for depth in range(1, 20):  # 100 ** 20 ways through it
            below = file.create_group(f"h{depth}")
            for name in range(100):
                group[str(name)] = below
            group = below
    with hdf5.opened(path) as file:
        hdf5.refuse_ways_out(file, path)


def test_groups_in_groups_without_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_group("/".join(["g"] * (hdf5.MAX_DEPTH + 5)))
    with pytest.raises(InputError, match=r"a\.h5"):
        refuse(path)


def test_a_named_type_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["kind"] = np.dtype("f4")
    with pytest.raises(InputError, match="/kind is nothing that such a file has"):
        refuse(path)


@pytest.mark.parametrize(("chunks", "words"), [(None, "never written"), ((10,), "only 0 of 10 ")])
def test_values_that_were_never_written_are_refused(
    tmp_path: Path, chunks: tuple[int] | None, words: str
) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("deep/x", (100,), "f4", chunks=chunks)
    with pytest.raises(InputError, match=f"/deep/x declares 100 values.*{words}"):
        refuse(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no such file"), hdf5.opened(tmp_path / "a.h5"):
        pass


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_reading_once_gives_the_same_values(tmp_path: Path, compression: str | None) -> None:
    path = tmp_path / "a.h5"
    values = np.random.default_rng(0).integers(0, 9, 10_000)
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=values, chunks=(777,), compression=compression)
    with hdf5.opened(path) as file:
        once = hdf5.for_one_pass(file, "x")
        read = [once[at : at + 500] for at in range(0, 10_000, 500)]
    np.testing.assert_array_equal(np.concatenate(read), values)
