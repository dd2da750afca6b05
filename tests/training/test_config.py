from pathlib import Path

import pytest

from cellplm.errors import ConfigError
from cellplm.training.config import RunConfig, TrainConfig, read_run_config, write_run_config
from tests.training.make import make_config


def test_a_run_config_survives_toml(tmp_path: Path) -> None:
    for config in (RunConfig(), make_config(epochs=3)):
        write_run_config(config, tmp_path / "config.toml")
        assert read_run_config(tmp_path / "config.toml") == config


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[train]\nwarm_steps = 3\n")
    with pytest.raises(ConfigError, match=r"train\.warmup_steps"):
        read_run_config(tmp_path / "config.toml")


def test_the_first_limit_ends_a_run() -> None:
    assert TrainConfig().n_steps(7) == 7
    assert TrainConfig(epochs=3).n_steps(7) == 21
    assert TrainConfig(max_steps=5).n_steps(7) == 5
    assert TrainConfig(max_steps=50).n_steps(7) == 50
    assert TrainConfig(max_steps=50, epochs=3).n_steps(7) == 21


def test_values_out_of_range_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"train\.keep"):
        TrainConfig(keep=0)
    with pytest.raises(ConfigError, match=r"train\.lr "):
        TrainConfig(lr=0.0)
    with pytest.raises(ConfigError, match=r"train\.lr_floor"):
        TrainConfig(lr_floor=2.0)
    with pytest.raises(ConfigError, match=r"train\.seed"):
        TrainConfig(seed=-1)
