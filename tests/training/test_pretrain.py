import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cellplm.corpus.reader import Corpus
from cellplm.errors import CellplmError, CheckpointError, ConfigError
from cellplm.logs import Progress
from cellplm.model.cellplm import CellPLM
from cellplm.training.config import RunConfig, read_run_config, write_run_config
from cellplm.training.pretrain import pretrain
from tests.training.make import MODEL, add_part, losses, make_config, make_corpus, read_metrics


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("data") / "corpus")


@pytest.fixture(scope="module")
def unbroken(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of eight steps, over more than one epoch."""
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    pretrain(corpus, make_config(), run)
    return run


class Stop(Exception):
    pass


def stop_after(step: int) -> object:
    def on_progress(progress: Progress) -> None:
        if progress.done == step:
            raise Stop

    return on_progress


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return dict(CellPLM.from_pretrained(run).state_dict())


def assert_same_run(run: Path, other: Path) -> None:
    assert losses(run) == losses(other)
    found, expected = tensors(run), tensors(other)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_run_folder_holds_what_the_command_line_promises(corpus: Corpus, unbroken: Path) -> None:
    lines = read_metrics(unbroken)
    assert [line["step"] for line in lines] == list(range(1, 9))
    promised = "step epoch loss reconstruction kl cells cells_per_s data_wait_fraction lr"
    assert set(lines[0]) >= {*promised.split(), "grad_norm", "memory"}
    assert lines[-1]["epoch"] >= 1
    assert 0 <= lines[0]["data_wait_fraction"] <= 1
    assert read_run_config(unbroken / "config.toml") == make_config()
    folders = sorted(path.name for path in (unbroken / "checkpoints").iterdir())
    assert folders == ["latest", "step-3", "step-6", "step-8"]
    assert CellPLM.from_pretrained(unbroken).labels == (
        "blood/s0",
        "blood/s1",
        "slide/s/f0",
        "slide/s/f1",
    )


def test_each_cell_is_seen_once_an_epoch(corpus: Corpus, tmp_path: Path) -> None:
    result = pretrain(corpus, make_config(max_steps=None, epochs=2), tmp_path / "run")
    assert result.cells == 2 * 135
    assert not result.interrupted


@pytest.mark.parametrize("step", [3, 4, 7])
def test_a_broken_run_goes_on_as_if_unbroken(
    corpus: Corpus, unbroken: Path, tmp_path: Path, step: int
) -> None:
    run = tmp_path / "run"
    with pytest.raises(Stop):
        pretrain(corpus, make_config(), run, on_progress=stop_after(step))  # type: ignore[arg-type]
    torch.rand(3)
    result = pretrain(corpus, make_config(), run, resume=True)
    assert result.step == 8
    assert_same_run(run, unbroken)


def test_a_run_killed_before_its_first_checkpoint_starts_over(
    corpus: Corpus, unbroken: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(Stop):
        pretrain(corpus, make_config(), run, on_progress=stop_after(2))  # type: ignore[arg-type]
    pretrain(corpus, make_config(), run, resume=True)
    assert_same_run(run, unbroken)


SCRIPT = """
import sys, time
from pathlib import Path
from cellplm.corpus.reader import Corpus
from cellplm.training.config import read_run_config
from cellplm.training.pretrain import pretrain
corpus, config, run = map(Path, sys.argv[1:])
slowly = lambda progress: time.sleep(0.3)
result = pretrain(Corpus.open(corpus), read_run_config(config), run, on_progress=slowly)
sys.exit(3 if result.interrupted else 0)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_is_resumed_exactly(
    corpus: Corpus, unbroken: Path, tmp_path: Path, number: signal.Signals
) -> None:
    run, config = tmp_path / "run", tmp_path / "config.toml"
    write_run_config(make_config(), config)
    arguments = [sys.executable, "-W", "ignore", "-c", SCRIPT, corpus.path, config, run]
    process = subprocess.Popen([str(a) for a in arguments])
    deadline = time.monotonic() + 60
    while not (run / "checkpoints" / "latest").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, number)
    code = process.wait(timeout=60)
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 3)
    assert len(read_metrics(run)) < 8
    pretrain(corpus, make_config(), run, resume=True)
    assert_same_run(run, unbroken)


def test_a_finished_run_resumes_to_nothing(corpus: Corpus, unbroken: Path) -> None:
    before = losses(unbroken)
    result = pretrain(corpus, make_config(), unbroken, resume=True)
    assert (result.step, result.loss) == (8, None)
    assert losses(unbroken) == before


def test_a_run_stays_on_its_snapshot(tmp_path: Path) -> None:
    corpus, run = make_corpus(tmp_path / "corpus"), tmp_path / "run"
    with pytest.raises(Stop):
        pretrain(corpus, make_config(), run, on_progress=stop_after(4))  # type: ignore[arg-type]
    add_part(corpus.path, "more", [30], n_genes=10, seed=5)
    grown = Corpus.open(corpus.path)
    result = pretrain(grown, make_config(), run, resume=True)
    assert result.step == 8
    assert len(CellPLM.from_pretrained(run).labels) == 4


def test_another_corpus_or_model_is_refused(corpus: Corpus, unbroken: Path, tmp_path: Path) -> None:
    other = make_corpus(tmp_path / "other")
    with pytest.raises(CheckpointError, match="corpus_id"):
        pretrain(other, make_config(), unbroken, resume=True)
    model = dataclasses.replace(MODEL, attention="softmax")
    with pytest.raises(CheckpointError, match="performer -> softmax"):
        pretrain(corpus, make_config(model), unbroken, resume=True)
    data = dataclasses.replace(make_config().data, window=20)
    with pytest.raises(CheckpointError, match="plan"):
        pretrain(
            corpus,
            RunConfig(train=make_config().train, data=data, model=MODEL),
            unbroken,
            resume=True,
        )
    assert read_run_config(unbroken / "config.toml") == make_config()


def test_a_run_is_not_overwritten_and_nothing_is_not_resumed(
    corpus: Corpus, unbroken: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="--resume"):
        pretrain(corpus, make_config(), unbroken)
    with pytest.raises(CheckpointError, match="no run to resume"):
        pretrain(corpus, make_config(), tmp_path / "nothing", resume=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--device cpu"):
        pretrain(corpus, make_config(device="cuda"), tmp_path / "run")


def test_a_loss_that_is_not_finite_ends_the_run(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(CellplmError, match=r"(pack \d+ of epoch|gradient)"):
        pretrain(corpus, make_config(lr=1e30, clip=1e30, max_steps=30), tmp_path / "run")
