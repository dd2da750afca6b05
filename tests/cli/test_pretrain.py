"""`cellplm pretrain`: the run, the document, and what is refused before it starts."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch

from cellplm.corpus.genes import GeneIndex
from cellplm.corpus.reader import Corpus
from cellplm.model.cellplm import CellPLM
from cellplm.training.config import read_run_config
from tests.cli.make import run, tiny
from tests.make import make_adata, make_corpus
from tests.training.make import read_metrics


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("pretrain"))


def test_a_run_a_second_one_in_its_place_and_its_resume(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs" / "first"
    words = ["pretrain", corpus.path, "--out", out, "--gpus", 0]
    done = run(capsys, *words, "--max-steps", 3, "--seed", 5, *tiny(), "--json")
    assert done.code == 0
    assert set(done.document) >= {"run", "checkpoint", "step", "cells", "loss", "interrupted"}
    assert (done.document["step"], done.document["interrupted"]) == (3, False)
    assert done.document["run"] == str(out)
    assert Path(done.document["checkpoint"]).is_dir()
    config = read_run_config(out / "config.toml")
    assert (config.train.max_steps, config.train.seed, config.model.width) == (3, 5, 16)
    assert config.train.device == "cpu"
    assert [line["step"] for line in read_metrics(out)] == [1, 2, 3]
    assert CellPLM.from_pretrained(out).config.width == 16

    run(capsys, *words, "--max-steps", 3, *tiny()).assert_error(out, "--resume")
    # The model is that of the run, though nobody repeats how it was made.
    more = run(capsys, *words, "--max-steps", 5, "--resume")
    assert more.code == 0
    assert f"finetune denoise --checkpoint {out}" in more.out
    assert [line["step"] for line in read_metrics(out)] == [1, 2, 3, 4, 5]
    wider = run(capsys, *words, "--max-steps", 6, "--resume", "--set", "model.width=32")
    wider.assert_error("16", "32")


def test_a_configuration_file_is_taken_and_set_wins_over_it(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "mine.toml", tmp_path / "run"
    file.write_text("[train]\nlr = 0.5\nmax_steps = 2\n[data]\nglobal_batch_packs = 3\n")
    words = ["--config", file, *tiny("train.lr=0.001"), "--preset", "2M", "-q"]
    done = run(capsys, "pretrain", corpus.path, "--out", out, "--gpus", 0, *words)
    assert (done.code, done.out, done.err) == (0, "", "")
    config = read_run_config(out / "config.toml")
    assert (config.train.lr, config.train.max_steps) == (0.001, 2)
    assert config.data.global_batch_packs == 3
    assert config.model.n_decoder_layers == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--preset", "7M"], ["--preset 7M", "2M, 5M, 10M, 40M, 85M"]),
        (["--gpus", "2"], ["--gpus 2", "one process", "--device cpu"]),
        (["--set", "train.lrr=1"], ["train.lrr", "Did you mean train.lr?"]),
        (["--set", "model.widht=64"], ["model.widht", "Did you mean model.width?"]),
        (["--set", "trian.lr=1"], ["trian", "Did you mean train?"]),
        (["--set", "train.lr"], ["--set train.lr", "key=value"]),
        (["--set", "train.lr=fast"], ["train.lr", "'fast'", "float"]),
        (["--set", "model.attention=flash"], ["model.attention", "performer, softmax"]),
        (["--set", "model.width=30"], ["model.width = 30"]),
        (["--set", "data.modality=srna"], ["data.modality", "scrna"]),
        (["--max-steps", "0"], ["max_steps"]),
        (["--config", "absent.toml"], ["absent.toml"]),
    ],
)
def test_a_wrong_option_is_one_line_and_leaves_no_run(
    corpus: Corpus,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    expected: list[str],
) -> None:
    out = tmp_path / "run"
    ran = run(capsys, "pretrain", corpus.path, "--out", out, *words)
    ran.assert_error(*expected, code=2)
    assert not out.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named_with_the_way_out(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = run(capsys, "pretrain", corpus.path, "--out", tmp_path / "run", "--gpus", 1)
    ran.assert_error("no GPU", "--device cpu", code=2)
    words = ["--set", "train.device=cuda"]
    ran = run(capsys, "pretrain", corpus.path, "--out", tmp_path / "run", *words)
    ran.assert_error("no GPU", "--device cpu", code=2)


def test_a_corpus_or_run_folder_that_cannot_be_is_refused(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = run(capsys, "pretrain", tmp_path / "absent", "--out", tmp_path / "run")
    ran.assert_error(tmp_path / "absent", "cellplm ingest")
    ran = run(capsys, "pretrain", corpus.path, "--out", tmp_path / "run", "--resume")
    ran.assert_error(tmp_path / "run", "no run to resume")
    file = tmp_path / "file.txt"
    file.write_text("mine")
    run(capsys, "pretrain", corpus.path, "--out", file, *tiny()).assert_error(file)
    assert file.read_text() == "mine"


def mouse_adata() -> ad.AnnData:
    adata = make_adata(samples=(40,), seed=3)
    genes = GeneIndex.bundled()
    adata.var_names = list(genes.ensembl_id[genes.species == "mouse"][: adata.n_vars])
    return adata


def test_a_mouse_part_is_left_out_and_the_human_one_is_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = make_corpus(tmp_path, make_adata(), mouse_adata())
    assert [part.entry.species for part in mixed.parts] == ["human", "mouse"]
    out = tmp_path / "run"
    words = ["--out", out, "--gpus", 0, "--epochs", 2, *tiny(), "--json"]
    done = run(capsys, "pretrain", mixed.path, *words)
    assert done.code == 0
    assert done.document["cells"] == 2 * 100
    assert np.isfinite(done.document["loss"])


def test_a_corpus_of_mice_alone_has_nothing_to_train_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mice = make_corpus(tmp_path, mouse_adata())
    ran = run(capsys, "pretrain", mice.path, "--out", tmp_path / "run", "--gpus", 0, *tiny())
    ran.assert_error(mice.path, "no cells", "genes of the model", code=2)
