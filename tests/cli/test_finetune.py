"""`cellplm finetune denoise`: results, model and predictions of a file."""

from __future__ import annotations

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from cellplm.model.cellplm import CellPLM
from tests.cli.make import make_run, run
from tests.make import make_adata, make_corpus, write_h5ad

KEYS = set(
    "task checkpoint seeds n_train n_valid n_test metrics baselines zero_shot seconds".split()
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file, and a run that knows its genes."""
    folder = tmp_path_factory.mktemp("finetune")
    corpus = make_corpus(folder, make_adata(seed=8))
    make_run(corpus.path, folder / "run")
    write_h5ad(folder / "mine.h5ad", make_adata(samples=(30, 20)))
    return folder


@pytest.mark.parametrize("scheme", ["hide", "thin"])
def test_results_model_and_predictions_are_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], scheme: str
) -> None:
    out, run_folder = tmp_path / "new" / "out", folder / "run"
    words = ["--max-steps", 3, "--repeats", 2, "--seed", 4, "--json"]
    done = run(
        capsys, "finetune", "denoise", "--checkpoint", run_folder, "--data", folder / "mine.h5ad",
        "--out", out, f"--{scheme}", 0.1, *words,
    )  # fmt: skip
    assert done.code == 0, done.err
    document = done.document
    assert json.loads((out / "results.json").read_text()) == document
    assert set(document) >= KEYS
    assert document["task"] == "denoise"
    assert document["seeds"] == [4, 5]
    metric = "rmse" if scheme == "hide" else "molecule_nll"
    assert set(document["metrics"][metric]) == {"mean", "sd", "values"}
    assert len(document["metrics"][metric]["values"]) == 2
    assert metric in document["zero_shot"]
    assert document["baselines"]
    assert all(metric in scores for scores in document["baselines"].values())
    assert CellPLM.from_pretrained(out / "model").config.width == 16
    predicted = ad.read_h5ad(out / "predictions.h5ad")
    assert predicted.shape == (50, 50)
    assert list(predicted.obs_names) == [f"cell{i}" for i in range(50)]
    assert np.isfinite(predicted.layers["predicted"]).all()


def test_a_person_sees_a_table_of_methods(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(
        capsys, "finetune", "denoise", "--checkpoint", folder / "run", "--data",
        folder / "mine.h5ad", "--out", tmp_path, "--hide", 0.1, "--max-steps", 1,
    )  # fmt: skip
    assert done.code == 0
    for word in ("gene mean", "zero-shot", "fine-tuned", "rmse", "mae", str(tmp_path)):
        assert word in done.out


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--checkpoint", "RUN", "--from-scratch"],
        ["--checkpoint", "RUN", "--hide", "0.1", "--thin", "0.1"],
        ["--checkpoint", "RUN", "--hide", "0.5"],
        ["--checkpoint", "RUN", "--thin", "0"],
        ["--checkpoint", "RUN", "--repeats", "0"],
        ["--checkpoint", "RUN", "--max-steps", "-1"],
        ["--checkpoint", "RUN", "--window", "0"],
        ["--checkpoint", "RUN", "--nonsense"],
    ],
)
def test_wrong_usage_is_code_2(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    words = [str(folder / "run") if word == "RUN" else word for word in words]
    common = ["--data", folder / "mine.h5ad", "--out", tmp_path / "out"]
    done = run(capsys, "finetune", "denoise", *common, *words)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()
    assert run(capsys, "finetune", "astrology").code == 2


def test_what_is_missing_or_unknown_is_named_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, absent, out = folder / "mine.h5ad", tmp_path / "absent", tmp_path / "out"
    start = ["finetune", "denoise", "--out", out]
    run(capsys, *start, "--data", data, "--checkpoint", absent).assert_error(absent)
    run(capsys, *start, "--data", absent, "--checkpoint", folder / "run").assert_error(absent)
    scratch = ["--from-scratch", "--preset", "3M"]
    run(capsys, *start, "--data", data, *scratch).assert_error("--preset 3M", "2M, 5M", code=2)
    known = [*start, "--data", data, "--checkpoint", folder / "run"]
    run(capsys, *known, "--lr", "0").assert_error("lr", code=2)
    run(capsys, *known, "--context", "nope").assert_error(data, "nope")
    assert not out.exists()


def test_an_out_that_is_a_file_is_refused_before_the_work(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file.txt"
    file.write_text("mine")
    done = run(
        capsys, "finetune", "denoise", "--checkpoint", folder / "run", "--data",
        folder / "mine.h5ad", "--out", file, "--max-steps", 1,
    )  # fmt: skip
    done.assert_error(file, code=2)
    assert file.read_text() == "mine"
