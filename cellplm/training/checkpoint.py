"""Checkpoints of a run: whole or not there.

checkpoints/step-N/ holds the model's three files (see `cellplm.model.pretrained`) and
trainer/: optimizer.safetensors and state.json. It is written under another name, synced and
renamed; then `checkpoints/latest`, a text file with its name, is replaced. A kill at any
moment leaves `latest` at a whole checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from cellplm.config import to_dict
from cellplm.corpus.manifest import sync_folder
from cellplm.errors import CheckpointError
from cellplm.model.cellplm import CellPLM
from cellplm.model.pretrained import compare_tensors, find_checkpoint, load_model, read_tensors
from cellplm.model.pretrained import save_model as save_model_files


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerState:
    """What a run needs, besides tensors, to go on exactly.

    Attributes:
        step: steps made.
        cells: cells trained on, each time counted.
        stream: `TissueStream.state_dict()`.
    """

    step: int
    cells: int
    stream: dict[str, Any]


def save_checkpoint(
    run: Path, model: CellPLM, optimizer: dict[str, Tensor], state: TrainerState, *, keep: int
) -> Path:
    """Write a checkpoint, point `latest` at it and delete the oldest beyond `keep`.

    Returns:
        Its folder.
    """
    folder = run / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".step-*"):
        shutil.rmtree(stale)
    name = f"step-{state.step}"
    temporary, target = folder / f".{name}", folder / name
    (temporary / "trainer").mkdir(parents=True)
    save_model_files(model, temporary)
    save_file(
        {key: tensor.contiguous() for key, tensor in optimizer.items()},
        temporary / "trainer" / "optimizer.safetensors",
    )
    (temporary / "trainer" / "state.json").write_text(json.dumps(asdict(state), indent=1))
    _sync_tree(temporary)
    # One of this step that `latest` does not name: a run killed before it said so.
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    sync_folder(folder)
    _replace_text(folder / "latest", name)
    for old in _steps(folder)[:-keep]:
        if old != state.step:
            shutil.rmtree(folder / f"step-{old}")
    return target


def read_state(run: Path) -> TrainerState | None:
    """State of the latest checkpoint; None if there is no checkpoint yet.

    Raises:
        CheckpointError: `latest` names no checkpoint, or the state cannot be read.
    """
    if not (run / "checkpoints" / "latest").exists():
        return None
    path = find_checkpoint(run) / "trainer" / "state.json"
    try:
        return TrainerState(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; the checkpoint cannot be resumed.") from None
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: not the state of a run ({error}).") from None


def restore(run: Path, model: CellPLM) -> dict[str, Tensor]:
    """Load the latest checkpoint into a model built as the run was.

    Returns:
        The optimiser's tensors.

    Raises:
        CheckpointError: the checkpoint is of another model; every difference is listed.
    """
    folder = find_checkpoint(run)
    saved = load_model(folder)
    differences = []
    before, now = to_dict(saved.config), to_dict(model.config)
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            differences.append(f"model.{key}: {before.get(key)} -> {now.get(key)}")
    if saved.index.sha256 != model.index.sha256:
        hashes = saved.index.sha256[:12], model.index.sha256[:12]
        differences.append(f"gene index: {hashes[0]} -> {hashes[1]}")
    if saved.vocabulary.ensembl_ids != model.vocabulary.ensembl_ids:
        differences.append(f"vocabulary: {len(saved.vocabulary)} -> {len(model.vocabulary)} genes")
    if saved.labels != model.labels:
        differences.append(f"batch labels: {len(saved.labels)} -> {len(model.labels)}, or renamed")
    tensors = saved.state_dict()
    if shapes := compare_tensors(tensors, model.state_dict()):
        differences.append(shapes)
    if differences:
        raise CheckpointError(
            f"{folder}: this is another model ({'; '.join(differences)}). Resume with the run's "
            "own config.toml, or start anew with another --out."
        )
    model.load_state_dict(tensors)
    return read_tensors(folder / "trainer" / "optimizer.safetensors")


def _steps(folder: Path) -> list[int]:
    names = [path.name.removeprefix("step-") for path in folder.glob("step-*")]
    return sorted(int(name) for name in names if name.isdigit())


def _replace_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            sync_folder(path)
    sync_folder(folder)
