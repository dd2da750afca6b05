import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from cellplm.errors import CheckpointError
from cellplm.training import checkpoint
from cellplm.training.checkpoint import TrainerState, read_state, restore, save_checkpoint
from tests.model.make import SMALL, make_model


def save(run: Path, step: int, keep: int = 2) -> Path:
    state = TrainerState(step=step, cells=10 * step, stream={"epoch": 1})
    return save_checkpoint(run, make_model(), {"a/step": torch.ones(())}, state, keep=keep)


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    folder = save(tmp_path, 5)
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert files == [
        "config.json",
        "genes.parquet",
        "model.safetensors",
        "trainer/optimizer.safetensors",
        "trainer/state.json",
    ]
    assert read_state(tmp_path) == TrainerState(step=5, cells=50, stream={"epoch": 1})
    model = make_model()
    with torch.no_grad():
        model.embedder.table.zero_()
    assert restore(tmp_path, model) == {"a/step": torch.ones(())}
    assert torch.equal(model.embedder.table, make_model().embedder.table)


def test_only_the_latest_are_kept(tmp_path: Path) -> None:
    for step in (9, 10, 11):
        save(tmp_path, step)
    assert names(tmp_path) == ["latest", "step-10", "step-11"]
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step-11\n"


def test_a_kill_before_the_rename_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)

    def die(_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "_sync_tree", die)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 2)
    state = read_state(tmp_path)
    assert state is not None
    assert state.step == 1
    save(tmp_path, 2)
    assert names(tmp_path) == ["latest", "step-1", "step-2"]


def test_a_kill_before_latest_is_replaced_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "_replace_text", die)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 2)
    state = read_state(tmp_path)
    assert state is not None
    assert state.step == 1
    save(tmp_path, 2)
    assert read_state(tmp_path) == TrainerState(step=2, cells=20, stream={"epoch": 1})


def test_another_model_is_refused_with_every_difference(tmp_path: Path) -> None:
    save(tmp_path, 1)
    config = dataclasses.replace(SMALL, n_latent=7, attention="softmax")
    with pytest.raises(CheckpointError) as error:
        restore(tmp_path, make_model(config, labels=("a",)))
    for words in (
        "model.n_latent: 6 -> 7",
        "model.attention: performer -> softmax",
        "batch labels: 2 -> 1",
        "latent.mean.weight is (6, 16), the config says (7, 16)",
    ):
        assert words in str(error.value)


def test_a_run_without_a_checkpoint_has_no_state(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None


def test_a_broken_state_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    (folder / "trainer" / "state.json").write_text('{"step": 1}')
    with pytest.raises(CheckpointError, match=r"state\.json"):
        read_state(tmp_path)
    (folder / "trainer" / "state.json").unlink()
    with pytest.raises(CheckpointError, match="cannot be resumed"):
        read_state(tmp_path)
