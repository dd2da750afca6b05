"""Whatever is wrong with a source: one line that names it, exit code 1, the corpus unchanged."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.cli.make import run
from tests.ingest.make_malformed import CASES
from tests.make import make_adata, make_corpus


def objects_of(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One corpus for all: none of them may change it."""
    return make_corpus(tmp_path_factory.mktemp("corpus"), make_adata()).path


def test_there_are_sixty_of_them() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_one_line_and_changes_nothing(
    name: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = objects_of(corpus)
    source, words = CASES[name](tmp_path)
    ran = run(capsys, "ingest", source, "--out", corpus)
    ran.assert_error(*words)
    assert objects_of(corpus) == before
