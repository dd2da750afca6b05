import dataclasses

import pytest

from cellplm.config import build, to_dict
from cellplm.corpus.genes import GeneIndex
from cellplm.errors import ConfigError
from cellplm.model.cellplm import CellPLM
from cellplm.model.config import PRESETS, ModelConfig
from cellplm.model.vocabulary import Vocabulary


@pytest.mark.parametrize(
    ("name", "millions"),
    [("2M", 2.03), ("5M", 5.59), ("10M", 9.84), ("40M", 38.47), ("85M", 59.77)],
)
def test_a_preset_has_the_stated_number_of_parameters(name: str, millions: float) -> None:
    vocabulary = Vocabulary(GeneIndex.bundled().vocabulary_ids())
    assert len(vocabulary) == 19_374
    model = CellPLM(PRESETS[name], vocabulary, labels=("a",) * 1000)
    assert round(model.n_parameters() / 1e6, 1) == round(millions, 1)
    table = 1000 * PRESETS[name].n_latent
    assert model.n_parameters(with_batch_table=True) == model.n_parameters() + table


def test_a_config_survives_plain_values() -> None:
    config = ModelConfig(width=128, n_heads=2, attention="softmax", n_features=32)
    assert build(ModelConfig, to_dict(config)) == config


def test_a_head_of_64_has_266_features() -> None:
    assert ModelConfig().head_features == 266


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 18, "n_heads": 2},
        {"width": 64, "n_heads": 3},
        {"n_latent": 0},
        {"dropout": 1.0},
        {"mask_cells": 0.0},
        {"mask_genes": 1.0},
        {"beta": -1.0},
        {"n_features": 0},
    ],
)
def test_an_impossible_value_is_refused_by_name(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"model.{next(iter(wrong))}"):
        ModelConfig(**wrong)  # type: ignore[arg-type]


def test_beta_rises_linearly_to_its_value() -> None:
    config = ModelConfig(beta=2.0, beta_warmup_steps=10)
    assert [config.beta_at(step) for step in (0, 5, 10, 99)] == [0.0, 1.0, 2.0, 2.0]
    assert dataclasses.replace(config, beta_warmup_steps=0).beta_at(0) == 2.0
