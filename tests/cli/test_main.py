"""The command as a person starts it: help, exit codes, one-line errors, clean stdout."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cellplm.cli.main import app
from cellplm.errors import NotACorpusError
from tests.cli.make import run
from tests.make import make_adata, make_corpus, write_h5ad


def cellplm(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cellplm", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "words",
    [
        ["ingest"],
        ["info"],
        ["pretrain"],
        ["finetune"],
        ["finetune", "denoise"],
        ["embed"],
        ["demo"],
    ],
)
def test_the_help_of_every_command_has_an_example(words: list[str]) -> None:
    result = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert f"Example: cellplm {' '.join(words)}" in " ".join(result.output.split())


def test_every_command_is_in_the_help_of_the_whole() -> None:
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for word in ("ingest", "info", "pretrain", "finetune", "embed"):
        assert word in result.output


def test_a_process_writes_one_document_to_stdout_and_progress_to_stderr(tmp_path: Path) -> None:
    data = write_h5ad(tmp_path / "blood.h5ad", make_adata(samples=(30, 20)))
    done = cellplm("ingest", data, "--out", tmp_path / "corpus.zarr", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ingested"][0]["name"] == "blood"
    assert "blood" in done.stderr
    assert "Warning" not in done.stderr


def test_a_process_that_fails_says_so_in_one_line_and_code_1(tmp_path: Path) -> None:
    failed = cellplm("pretrain", tmp_path / "absent", "--out", tmp_path / "run", "--json")
    assert failed.returncode == 1
    assert failed.stdout == ""
    (line,) = failed.stderr.splitlines()
    assert line.startswith("error: ")
    assert str(tmp_path / "absent") in line


def test_a_process_that_is_used_wrongly_has_code_2() -> None:
    wrong = cellplm("inform")
    assert wrong.returncode == 2
    assert wrong.stdout == ""
    assert "Traceback" not in wrong.stderr


def test_debug_lets_an_error_through_with_its_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NotACorpusError, match="absent"):
        run(capsys, "info", tmp_path / "absent", "--debug")


def test_an_error_that_is_not_ours_is_one_line_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file.txt"
    file.write_text("mine")
    corpus = make_corpus(tmp_path, make_adata(samples=(20,)))
    ran = run(capsys, "pretrain", corpus.path, "--out", file / "below", "--device", "cpu")
    ran.assert_error(file)


def test_an_error_of_several_lines_is_written_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "info", tmp_path / "two\nlines").assert_error("two lines")


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    shown = run(capsys)
    assert "ingest" in shown.out + shown.err
    assert shown.code in (0, 2)
