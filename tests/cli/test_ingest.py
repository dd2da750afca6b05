"""`cellplm ingest`: the document, the exit codes, and one line for an error."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cellplm.corpus.reader import Corpus
from tests.cli.make import run
from tests.make import make_adata, write_h5ad

KEYS = set(
    "name source format modality species platform n_obs n_kept n_vars n_genes nnz n_tissues "
    "excluded_cells features warnings seconds".split()
)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_h5ad(tmp_path / "raw" / "blood.h5ad", make_adata(samples=(30, 20)))
    spatial = make_adata(samples=(60,), seed=1, spatial=True)
    write_h5ad(tmp_path / "raw" / "deep" / "slide.h5ad", spatial)
    return tmp_path / "raw"


def test_a_dry_run_plans_what_the_run_then_does(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "corpus.zarr"
    planned = run(capsys, "ingest", raw, "--out", out, "--dry-run", "--json")
    assert planned.code == 0
    assert not out.exists()
    assert set(planned.document) >= {"snapshot", "planned", "skipped", "refused"}
    assert "ingested" not in planned.document
    assert planned.document["snapshot"] is None
    done = run(capsys, "ingest", raw, "--out", out, "--json")
    assert done.code == 0
    assert set(done.document) >= {"snapshot", "ingested", "skipped", "refused"}
    assert "planned" not in done.document
    assert done.document["snapshot"] == Corpus.open(out).snapshot.snapshot
    for before, after in zip(planned.document["planned"], done.document["ingested"], strict=True):
        assert set(after) >= KEYS
        for key in (set(before) | set(after)) - {"seconds"}:
            assert before[key] == after[key], key
    by_name = {each["name"]: each for each in done.document["ingested"]}
    assert by_name["blood"]["n_obs"] == 50
    assert by_name["blood"]["n_tissues"] == 2
    assert by_name["blood"]["source"] == str(raw / "blood.h5ad")
    assert by_name["slide"]["modality"] == "srt"
    assert by_name["slide"]["features"]["gene"] == 50
    assert done.err
    again = run(capsys, "ingest", raw, "--out", out, "--json")
    assert again.code == 0
    assert again.document["ingested"] == []
    assert [set(each) >= {"name", "source", "reason"} for each in again.document["skipped"]] == [
        True,
        True,
    ]


def test_a_person_sees_tables_and_the_next_command(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "corpus.zarr"
    planned = run(capsys, "ingest", raw, "--out", out, "--dry-run")
    assert "Nothing was written" in planned.out
    done = run(capsys, "ingest", raw, "--out", out)
    assert done.code == 0
    assert "blood" in done.out
    assert f"cellplm pretrain {out}" in done.out
    silent = run(capsys, "ingest", raw, "--out", out, "-q")
    assert (silent.out, silent.err) == ("", "")


def test_one_bad_data_set_stops_all_or_is_reported(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adata = make_adata(samples=(20,), seed=3)
    adata.X = adata.X.log1p()
    bad = write_h5ad(raw / "bad.h5ad", adata)
    out = tmp_path / "corpus.zarr"
    run(capsys, "ingest", raw, "--out", out, "--json").assert_error(bad)
    assert not out.exists()
    done = run(capsys, "ingest", raw, "--out", out, "--on-error", "skip", "--json")
    assert done.code == 0
    assert len(done.document["ingested"]) == 2
    (refused,) = done.document["refused"]
    assert refused["source"] == str(bad)
    assert str(bad) in refused["reason"]


def test_options_reach_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adata = make_adata(samples=(30, 30), spatial=True)
    adata.layers["mine"] = adata.X.copy()
    adata.X = adata.X.log1p()
    data = write_h5ad(tmp_path / "a.h5ad", adata)
    words = ["--counts", "mine", "--tissue-key", "cell_type", "--modality", "scrna"]
    least = int(np.median(np.asarray(adata.layers["mine"].sum(1))))
    done = run(
        capsys, "ingest", data, "--out", tmp_path / "c.zarr", "--dry-run", "--json", *words,
        "--species", "human", "--min-counts", least,
    )  # fmt: skip
    (planned,) = done.document["planned"]
    assert planned["modality"] == "scrna"
    assert planned["n_tissues"] == 3
    assert "mine" in planned["counts_from"]
    assert sum(planned["excluded_cells"].values()) == planned["n_obs"] - planned["n_kept"] > 0


def test_an_out_that_is_no_corpus_is_refused_and_left_alone(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "cat.png").write_bytes(b"meow")
    run(capsys, "ingest", raw, "--out", folder).assert_error(folder, "no cellplm corpus")
    file = tmp_path / "file.txt"
    file.write_text("mine")
    run(capsys, "ingest", raw, "--out", file).assert_error(file)
    run(capsys, "ingest", raw, "--out", file / "below").assert_error(file / "below")
    assert [path.name for path in folder.iterdir()] == ["cat.png"]
    assert file.read_text() == "mine"


def test_nothing_to_take_in_is_an_error_that_names_where_it_looked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "corpus.zarr"
    run(capsys, "ingest", tmp_path / "absent", "--out", out).assert_error(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    run(capsys, "ingest", tmp_path / "empty", "--out", out).assert_error(tmp_path / "empty")
    strange = tmp_path / "strange.csv"
    pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}).to_csv(strange)
    run(capsys, "ingest", strange, "--out", out).assert_error(strange)
    cut = tmp_path / "cut.h5ad"
    cut.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    run(capsys, "ingest", cut, "--out", out).assert_error(cut)
    assert not out.exists()


def test_wrong_usage_is_code_2(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "ingest", raw).code == 2
    assert run(capsys, "ingest", "--out", "c.zarr").code == 2
    assert run(capsys, "ingest", raw, "--out", "c.zarr", "--modality", "proteins").code == 2
    few = run(capsys, "ingest", raw, "--out", "c.zarr", "--min-counts", "-1")
    few.assert_error("--min-counts", code=2)


def test_ctrl_c_stops_with_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    baron = Path(str(files("cellplm") / "data" / "demo" / "Baron_H1_Data.csv.gz"))
    command = [sys.executable, "-m", "cellplm", "ingest", str(baron), "--out", str(tmp_path / "c")]
    # Where the tests run as a background job, Ctrl-C is ignored, and children inherit that.
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("read Baron")
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert rest.splitlines()[-1].startswith("stopped; nothing is half-written")
    assert not list(tmp_path.iterdir())


def test_a_manifest_names_the_sources_and_says_how_to_read_them(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = tmp_path / "datasets.toml"
    rules.write_text(f'[[dataset]]\npath = "{raw}"\nmin_counts = 0\ntissue_key = "cell_type"\n')
    out = tmp_path / "corpus.zarr"
    ran = run(capsys, "ingest", "--manifest", rules, "--out", out, "--json")
    assert ran.code == 0, ran.err
    rules_of = {each["name"]: each["tissue_rule"] for each in ran.document["ingested"]}
    assert set(rules_of) == {"blood", "slide"}
    assert all(rule.startswith("obs['cell_type']") for rule in rules_of.values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "RAW"),
        (["--coords", "a,b,c"], "--coords a,b,c"),
        (["--um-per-unit", "0"], "--um-per-unit"),
        (["--min-cells", "0"], "--min-cells"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_options_that_cannot_be_exit_with_2(
    raw: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    sources = [raw] if arguments else []
    ran = run(capsys, "ingest", *sources, "--out", tmp_path / "c.zarr", *arguments)
    ran.assert_error(words, code=2)
    assert not (tmp_path / "c.zarr").exists()


def test_a_dry_run_is_the_document_of_the_run(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adata = make_adata(samples=(30,), seed=8)
    adata.X = adata.X.log1p()
    write_h5ad(raw / "bad.h5ad", adata)
    shutil.copy(raw / "blood.h5ad", raw / "again.h5ad")
    (raw / "notes.txt").write_text("hello")
    words = ["ingest", raw, "--out", tmp_path / "c.zarr", "--on-error", "skip", "--json"]
    planned = run(capsys, *words, "--dry-run").document
    assert not (tmp_path / "c.zarr").exists()
    done = run(capsys, *words).document
    planned["ingested"] = planned.pop("planned")
    for document in (planned, done):
        document.pop("snapshot")
        for each in document["ingested"]:
            each.pop("seconds")
    assert planned == done
    assert done["skipped"]
    assert done["refused"]
    assert done["other_files"]
