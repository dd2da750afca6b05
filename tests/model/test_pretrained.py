import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cellplm.errors import CheckpointError
from cellplm.model.cellplm import CellPLM
from cellplm.model.pretrained import load_model, save_model
from tests.model.make import make_batch, make_counts, make_model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    save_model(make_model(), folder)
    return folder


def test_a_loaded_model_equals_the_saved_one(saved: Path) -> None:
    model, loaded = make_model(), CellPLM.from_pretrained(saved)
    assert loaded.config == model.config
    assert loaded.labels == model.labels
    assert loaded.vocabulary.ensembl_ids == model.vocabulary.ensembl_ids
    assert loaded.index.raw_bytes == model.index.raw_bytes
    assert not loaded.training
    state = loaded.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    batch = make_batch([make_counts(4, 6)])
    assert torch.equal(loaded.embed(batch), model.embed(batch))


def test_a_run_folder_gives_its_latest_checkpoint(saved: Path) -> None:
    checkpoints = saved.parent / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    saved.rename(checkpoints / "step-7")
    (checkpoints / "latest").write_text("step-7\n")
    assert load_model(checkpoints.parent).labels == ("a", "b")
    (checkpoints / "latest").write_text("step-8")
    with pytest.raises(CheckpointError, match="step-8"):
        load_model(checkpoints.parent)


def test_batch_labels_can_be_left_behind(saved: Path) -> None:
    loaded = load_model(saved, drop_labels=True)
    assert loaded.labels == ()
    assert loaded.decoder.batches.rows.weight.shape[0] == 0
    batch = make_batch([make_counts(4, 6)], labels=[-1])
    assert torch.equal(loaded.embed(batch), make_model().embed(batch))


@pytest.mark.parametrize("name", ["model.safetensors", "genes.parquet"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=name) as error:
        load_model(saved)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["model.safetensors", "genes.parquet", "config.json"])
def test_a_broken_file_is_named(saved: Path, name: str) -> None:
    (saved / name).write_bytes((saved / name).read_bytes()[:20])
    with pytest.raises(CheckpointError, match=name) as error:
        load_model(saved)
    assert "\n" not in str(error.value)


def test_every_wrong_tensor_is_listed(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    del tensors["position.nowhere"]
    tensors["extra"] = torch.zeros(2)
    tensors["decoder.output_bias"] = torch.zeros(3)
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(CheckpointError) as error:
        load_model(saved)
    for words in ("missing position.nowhere", "unexpected extra", "decoder.output_bias is (3,)"):
        assert words in str(error.value)


def test_a_config_of_a_later_format_or_with_unknown_keys_is_refused(saved: Path) -> None:
    document = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**document, "format_version": 2}))
    with pytest.raises(CheckpointError, match="format_version 2"):
        load_model(saved)
    document["model"]["widht"] = 3
    (saved / "config.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="widht"):
        load_model(saved)


def test_a_folder_that_is_neither_run_nor_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither"):
        load_model(tmp_path)
