"""Whatever way data come, they are found as if they lay unpacked where the user says."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from cellplm.corpus.reader import Corpus
from cellplm.errors import InputError, MissingFileError
from cellplm.ingest.convert import ingest_files
from cellplm.ingest.fetch.fetch import Fetched, Limits, display, fetch
from cellplm.ingest.find import find
from cellplm.logs import Progress
from tests.ingest.make import GENES, make_counts, write_cosmx, write_h5ad
from tests.ingest.make_archive import tar_of, tree_of, write_bytes, zip_of
from tests.ingest.make_server import Reply, Web, web_server
from tests.shared import SHARED, needs_shared

LIMITS = Limits(reserve_bytes=0, n_retries=0)
TABLE = ("gene,a,b\n" + "".join(f"{gene},1,2\n" for gene in GENES)).encode()


def shown_tree(fetched: list[Fetched]) -> dict[str, bytes]:
    """Every file that is looked in, by the name that the user reads."""
    return {
        display(str(one.local / name) if name else str(one.local), fetched): data
        for one in fetched
        for name, data in tree_of(one.local).items()
    }


def zip_folder(folder: Path) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder.parent))
    return out.getvalue()


# Paths of this machine


def test_paths_without_archives_stay_as_they_are(tmp_path: Path) -> None:
    write_bytes(tmp_path / "d" / "x.csv", b"1")
    write_bytes(tmp_path / "cells.zarr.zip", b"a Xenium reader's")
    write_bytes(tmp_path / "d.zarr" / "x.zip", b"a chunk, for all we know")
    write_bytes(tmp_path / ".git" / "x.zip", b"hidden")
    work = tmp_path / "work"
    for path in (tmp_path, tmp_path / "d", tmp_path / "d" / "x.csv", tmp_path / "cells.zarr.zip"):
        assert fetch([path], work) == [Fetched(local=path, shown=str(path))]
    assert fetch([(tmp_path / "d" / "x.csv").as_uri()], work) == [
        Fetched(local=tmp_path / "d" / "x.csv", shown=f"file://{tmp_path}/d/x.csv")
    ]
    assert not work.exists()


def test_an_archive_becomes_a_folder_that_is_shown_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_bytes(tmp_path / "in" / "mm10.zip", zip_of({"mm10/matrix.mtx": b"1", "mm10/g.tsv": b"2"}))
    fetched = fetch(["in/mm10.zip"], Path("work"), limits=LIMITS)
    assert (fetched[0].local.name, fetched[0].shown) == ("mm10", "in/mm10.zip")
    assert shown_tree(fetched) == {
        "in/mm10.zip/mm10/matrix.mtx": b"1",
        "in/mm10.zip/mm10/g.tsv": b"2",
    }
    assert display(f"{fetched[0].local.parent}: nothing", fetched) == "in: nothing"


def test_archives_below_a_folder_stand_unpacked_beside_the_files(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_bytes(raw / "a" / "spatial.tar.gz", tar_of({"spatial/pos.csv": b"p"}, compression="gz"))
    write_bytes(raw / "a" / "matrix.h5", b"h")
    write_bytes(raw / "b" / "x.loom.gz", gzip.compress(b"loom"))
    write_bytes(raw / "b" / "y.csv.gz", b"stays")
    write_bytes(raw / "x.zarr" / "zarr.json", b"{}")
    write_bytes(raw / ".hidden" / "x.zip", b"not looked at")
    before = tree_of(raw)
    fetched = fetch([raw], tmp_path / "work", limits=LIMITS)
    (one,) = fetched
    assert one.shown == str(raw)
    names = {p.relative_to(one.local).as_posix() for p in one.local.rglob("*") if p.is_file()}
    assert names == {"a/spatial/pos.csv", "a/matrix.h5", "b/x.loom", "b/y.csv.gz"}
    assert (one.local / "x.zarr" / "zarr.json").read_bytes() == b"{}"
    # What lay there is only linked to, and shown under its own name.
    assert (one.local / "a" / "matrix.h5").resolve() == raw / "a" / "matrix.h5"
    assert display(f"{one.local}/a/matrix.h5", fetched) == f"{raw}/a/matrix.h5"
    assert display(f"{one.local}/b/x.loom: bad", fetched) == f"{raw}/b/x.loom.gz: bad"
    inside = f"{one.local}/a/spatial/pos.csv"
    assert display(inside, fetched) == f"{raw}/a/spatial.tar.gz/spatial/pos.csv"
    assert tree_of(raw) == before


def test_an_archive_beside_its_unpacked_self_is_looked_in_too(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_bytes(raw / "m" / "x", b"old")
    write_bytes(raw / "m.zip", zip_of({"m/x": b"new"}))
    write_bytes(raw / "m.tar", tar_of({"m/x": b"tar"}))
    fetched = fetch([raw], tmp_path / "work", limits=LIMITS)
    assert sorted(tree_of(fetched[0].local).values()) == [b"new", b"old", b"tar"]
    assert set(shown_tree(fetched)) == {
        f"{raw}/m/x", f"{raw}/m.zip/m/x", f"{raw}/m.tar/m/x"
    }  # fmt: skip


def test_an_archive_in_an_archive_is_unpacked_and_one_more_is_refused(tmp_path: Path) -> None:
    inner = zip_of({"inner/x": b"1"})
    middle = tar_of({"m/inner.zip": inner, "m/y": b"2"}, compression="gz")
    path = write_bytes(tmp_path / "middle.tgz", middle)
    work = tmp_path / "work"
    fetched = fetch([path], work, limits=LIMITS)
    assert shown_tree(fetched) == {f"{path}/m/inner.zip/inner/x": b"1", f"{path}/m/y": b"2"}
    outer = write_bytes(tmp_path / "outer.zip", zip_of({"middle.tgz": middle, "z": b"3"}))
    with pytest.raises(InputError, match="an archive in an archive in an archive") as error:
        fetch([outer], tmp_path / "refused", limits=LIMITS)
    assert str(error.value).startswith(f"{outer}/middle.tgz/m/inner.zip: ")
    assert tree_of(tmp_path / "refused") == {}
    told: list[tuple[str, InputError]] = []
    fetched = fetch([outer], work, limits=LIMITS, on_error=lambda *each: told.append(each))
    assert [name for name, _ in told] == [f"{outer}/middle.tgz/m/inner.zip"]
    # What is refused stays as the file that it is.
    assert shown_tree(fetched) == {
        f"{outer}/z": b"3", f"{outer}/middle.tgz/m/y": b"2",
        f"{outer}/middle.tgz/m/inner.zip": inner,
    }  # fmt: skip


def test_one_budget_covers_archives_in_archives(tmp_path: Path) -> None:
    few = Limits(reserve_bytes=0, free_bytes=1 << 20, max_ratio=100)
    bomb = zip_of({"x": bytes(700_000)})
    path = write_bytes(tmp_path / "a.zip", zip_of({f"{i}.zip": bomb for i in range(50)}))
    fetch([write_bytes(tmp_path / "one.zip", bomb)], tmp_path / "one", limits=few)
    with pytest.raises(InputError, match="more than 100 times its size"):
        fetch([path], tmp_path / "work", limits=few)
    assert tree_of(tmp_path / "work") == {}
    with pytest.raises(InputError, match="more than 60 files and folders"):
        fetch([path], tmp_path / "work", limits=Limits(reserve_bytes=0, max_entries=60))
    assert tree_of(tmp_path / "work") == {}


def test_what_is_refused_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_bytes(raw / "good.zip", zip_of({"x": b"1"}))
    write_bytes(raw / "bad.zip", zip_of({"../x": b"1"}))
    write_bytes(raw / "y.csv", b"2")
    with pytest.raises(InputError) as error:
        fetch([raw], tmp_path / "work", limits=LIMITS)
    assert str(error.value).startswith(f"{raw}/bad.zip: ../x leads out of its folder")
    assert tree_of(tmp_path / "work") == {}
    told: list[str] = []
    paths: list[str | Path] = [
        raw,
        tmp_path / "none",
        raw / "bad.zip",
        raw / "good.zip",
        "ftp://h/f",
    ]
    fetched = fetch(
        paths, tmp_path / "work", limits=LIMITS, on_error=lambda name, _: told.append(name)
    )
    assert [one.shown for one in fetched] == [str(raw), str(raw / "good.zip")]
    assert shown_tree(fetched) == {f"{raw}/good.zip/x": b"1", f"{raw}/y.csv": b"2"}
    assert told == [f"{raw}/bad.zip", f"{tmp_path}/none", f"{raw}/bad.zip", "ftp://h/f"]


def test_a_path_given_twice_is_brought_once(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "m.zip", zip_of({"x": b"1"}))
    first, second = fetch([path, path], tmp_path / "work", limits=LIMITS)
    assert first == second
    assert len(list((tmp_path / "work").iterdir())) == 1


def test_a_missing_path_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no such file or folder"):
        fetch([tmp_path / "none.zip"], tmp_path / "work")


def test_the_work_folder_may_lie_in_a_given_folder_and_hold_things(tmp_path: Path) -> None:
    write_bytes(tmp_path / "m.zip", zip_of({"x": b"1"}))
    work = tmp_path / "work"
    for _ in range(2):
        fetched = fetch([tmp_path], work, limits=LIMITS)
        assert shown_tree(fetched) == {f"{tmp_path}/m.zip/x": b"1"}


def test_display_replaces_whole_paths_only(tmp_path: Path) -> None:
    local = tmp_path / "0000" / "d" / "m"
    fetched = [
        Fetched(local=local, shown="m.zip", inside=(Fetched(local=local, shown="m.zip/m"),)),
        Fetched(local=tmp_path / "0000" / "d" / "m-2", shown="m-2.zip"),
        Fetched(local=Path("data"), shown="data/"),
        Fetched(local=Path("raw"), shown="raw"),
    ]
    texts = {
        f"{local}/x.mtx: bad": "m.zip/m/x.mtx: bad",
        f"{local}-2: bad": "m-2.zip: bad",
        f"in {local}.": "in m.zip/m.",
        f"({local}) and {local}, '{local}'": "(m.zip/m) and m.zip/m, 'm.zip/m'",
        f"{local}.csv": f"{local}.csv",
        f"/other{local}": f"/other{local}",
        "raw data": "raw data",
    }
    assert {text: display(text, fetched) for text in texts} == texts
    assert display("raw data", []) == "raw data"


# Addresses


@pytest.fixture(scope="module")
def server() -> Iterator[Web]:
    with web_server() as web:
        yield web


def test_files_of_one_address_lie_together_and_archives_of_it_are_unpacked_there(
    server: Web, tmp_path: Path
) -> None:
    tables = {"a.count.csv": TABLE, "a.metadata.csv": b"cell,type\na,t1\nb,t2\n"}
    server.replies |= {f"/d/{name}": Reply(body=data) for name, data in tables.items()}
    server.replies["/d/m.tar.gz"] = Reply(
        body=tar_of(
            {"m/b.count.csv": TABLE, "m/in.zip": zip_of({"c.csv": TABLE})}, compression="gz"
        )
    )
    server.replies["/other/a.count.csv"] = Reply(body=TABLE)
    names = ["/d/a.count.csv", "/d/a.metadata.csv", "/d/m.tar.gz?sig=hidden", "/other/a.count.csv"]
    seen: list[Progress] = []
    fetched = fetch(
        [server.url + name for name in names], tmp_path, limits=LIMITS, on_progress=seen.append
    )
    assert [one.shown for one in fetched] == [server.url + name.split("?")[0] for name in names]
    at = f"{server.url}/d"
    assert set(shown_tree(fetched)) == {
        f"{at}/a.count.csv", f"{at}/a.metadata.csv", f"{at}/m.tar.gz/m/b.count.csv",
        f"{at}/m.tar.gz/m/in.zip/c.csv", f"{server.url}/other/a.count.csv",
    }  # fmt: skip
    found, others = find([one.local for one in fetched])
    assert [len(one.files) for one in found] == [2, 1, 1, 1]
    assert others == []
    # No archive is left, and no name of a data set tells of the work folder.
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".gz", ".zip")]
    assert {one.name for one in found} == {"a", "a.count", "b.count", "c"}
    assert {each.what for each in seen} == {f"download {one.shown}" for one in fetched}


def test_a_downloaded_archive_that_is_refused_is_gone(server: Web, tmp_path: Path) -> None:
    server.replies["/bad.zip"] = Reply(body=zip_of({"/x": b"1"}))
    with pytest.raises(InputError) as error:
        fetch([f"{server.url}/bad.zip?token=hidden"], tmp_path, limits=LIMITS)
    assert str(error.value).startswith(f"{server.url}/bad.zip: /x has an absolute name")
    assert tree_of(tmp_path) == {}


# The whole way


def ingested(paths: list[str | Path], tmp_path: Path) -> dict[str, ad.AnnData]:
    """Fetch and ingest; every data set by its name, in the order of its source."""
    fetched = fetch(paths, tmp_path / "work", limits=LIMITS)
    ingest_files([one.local for one in fetched], tmp_path / "c.zarr")
    parts = Corpus.open(tmp_path / "c.zarr").parts
    return {part.entry.name: part.to_anndata() for part in parts}


def test_counts_in_archives_come_into_a_corpus_unchanged(server: Web, tmp_path: Path) -> None:
    counts = make_counts(30, len(GENES), seed=1)
    (tmp_path / "plain").mkdir()
    h5ad = write_h5ad(tmp_path / "plain" / "x.h5ad", counts)
    slide = tmp_path / "plain" / "slide"
    write_cosmx(slide)
    raw = tmp_path / "raw"
    write_bytes(raw / "one" / "x.h5ad.gz", gzip.compress(h5ad.read_bytes()))
    write_bytes(raw / "two" / "slide.zip", zip_folder(slide))
    server.replies["/x.h5ad.gz"] = Reply(body=gzip.compress(h5ad.read_bytes()))
    plain = tmp_path / "corpora" / "plain"
    packed = tmp_path / "corpora" / "packed"
    remote = tmp_path / "corpora" / "remote"
    want = ingested([tmp_path / "plain"], plain)
    got = ingested([raw], packed)
    assert len(want) == len(got) == 2
    for name, adata in want.items():
        assert got[name].obs_names.tolist() == adata.obs_names.tolist()
        assert got[name].var_names.tolist() == adata.var_names.tolist()
        assert (got[name].X != adata.X).nnz == 0
    (alone,) = ingested([f"{server.url}/x.h5ad.gz"], remote).values()
    assert np.array_equal(np.asarray(alone.X.todense()), counts)


@needs_shared
@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("sc-dixit-bmdc-mm10", {"mm10.zip/mm10/matrix.mtx": 11279787,
                                "mm10.zip/mm10/genes.tsv": 1020370,
                                "mm10.zip/mm10/barcodes.tsv": 22270}),
        ("formats-tiny/scvi-mini/pbmc_10k_protein_v3",
         {"filtered_feature_bc_matrix.tar.gz/filtered_feature_bc_matrix/matrix.mtx.gz": 78854,
          "filtered_feature_bc_matrix.tar.gz/filtered_feature_bc_matrix/features.tsv.gz": 1183,
          "filtered_feature_bc_matrix.tar.gz/filtered_feature_bc_matrix/barcodes.tsv.gz": 5971}),
    ],
)  # fmt: skip
def test_archives_of_real_data_come_out(tmp_path: Path, path: str, names: dict[str, int]) -> None:
    fetched = fetch([SHARED / path], tmp_path)
    inside = {
        name: len(data)
        for name, data in shown_tree(fetched).items()
        if ".zip/" in name or ".tar.gz/" in name
    }
    assert inside == {f"{SHARED / path}/{name}": n for name, n in names.items()}
