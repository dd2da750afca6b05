"""A model as a folder: model.safetensors, config.json, genes.parquet.

config.json holds the configuration, the vocabulary and the batch labels; genes.parquet is
the gene index, byte for byte. Nothing in it is pickled, so a folder from anywhere can be
looked at safely.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cellplm.config import build, to_dict
from cellplm.corpus.genes import GeneIndex
from cellplm.errors import CellplmError, CheckpointError
from cellplm.model.cellplm import CellPLM
from cellplm.model.config import ModelConfig
from cellplm.model.vocabulary import Vocabulary

FORMAT_VERSION = 1
_BATCH_TABLE = "decoder.batches.rows.weight"


def save_model(model: CellPLM, folder: Path) -> None:
    """Write a model's three files into an existing folder."""
    document = {
        "format_version": FORMAT_VERSION,
        "model": to_dict(model.config),
        "vocabulary": list(model.vocabulary.ensembl_ids),
        "labels": list(model.labels),
        "gene_index_sha256": model.index.sha256,
    }
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    (folder / "genes.parquet").write_bytes(model.index.raw_bytes)


def load_model(folder: Path, *, drop_labels: bool = False) -> CellPLM:
    """Load a model, in eval mode on the CPU.

    Args:
        folder: a run folder (its latest checkpoint is taken) or a checkpoint folder.
        drop_labels: leave the rows of batch labels behind; every batch is then unknown.

    Raises:
        CheckpointError: a file is missing or broken, or the tensors do not fit the config.
    """
    folder = find_checkpoint(folder)
    document = _read_config(folder)
    try:
        config = build(ModelConfig, document["model"])
        index = GeneIndex.from_path(folder / "genes.parquet")
        labels = () if drop_labels else tuple(document["labels"])
        vocabulary = Vocabulary(tuple(document["vocabulary"]))
    except KeyError as error:
        raise CheckpointError(f"{folder}/config.json: no {error} in it.") from None
    except CellplmError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    model = CellPLM(config, vocabulary, labels, index)
    tensors = read_tensors(folder / "model.safetensors")
    if drop_labels:
        tensors.pop(_BATCH_TABLE, None)
        tensors[_BATCH_TABLE] = model.decoder.batches.rows.weight.detach()
    differences = compare_tensors(tensors, model.state_dict())
    if differences:
        raise CheckpointError(f"{folder}/model.safetensors: {differences}")
    model.load_state_dict(tensors)
    return model.eval()


def find_checkpoint(folder: Path) -> Path:
    """The checkpoint folder that is meant by a run or checkpoint folder.

    Raises:
        CheckpointError: neither, or `checkpoints/latest` names nothing.
    """
    if (folder / "config.json").is_file():
        return folder
    latest = folder / "checkpoints" / "latest"
    if not latest.is_file():
        raise CheckpointError(
            f"{folder}: neither a checkpoint (config.json, model.safetensors, genes.parquet) nor a "
            "run with checkpoints/latest. Give the folder that pretrain --out wrote."
        )
    name = latest.read_text(encoding="utf-8").strip()
    found = folder / "checkpoints" / Path(name).name
    if not (found / "config.json").is_file():
        raise CheckpointError(f"{latest}: names {name!r}, and {found} is no checkpoint.")
    return found


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file, on the CPU.

    Raises:
        CheckpointError: not there, or not whole.
    """
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; the checkpoint is not whole.") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error}).") from None
    return tensors


def compare_tensors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> str:
    """What is missing, unexpected or of another shape, in one line; empty if nothing is."""
    parts = []
    if missing := sorted(expected.keys() - found.keys()):
        parts.append(f"missing {', '.join(missing)}")
    if unexpected := sorted(found.keys() - expected.keys()):
        parts.append(f"unexpected {', '.join(unexpected)}")
    for name in sorted(found.keys() & expected.keys()):
        if found[name].shape != expected[name].shape:
            shapes = tuple(found[name].shape), tuple(expected[name].shape)
            parts.append(f"{name} is {shapes[0]}, the config says {shapes[1]}")
    return "; ".join(parts)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    for name in ("model.safetensors", "genes.parquet"):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name}: no such file; the checkpoint is not whole.")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error}).") from None
    version = document.get("format_version") if isinstance(document, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format_version {version}, and this cellplm reads {FORMAT_VERSION}."
        )
    return dict(document)
