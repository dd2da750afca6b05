"""Configurations survive a file, and mistakes in them are named."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from cellplm.config import build, merge, override, read_toml, to_dict
from cellplm.corpus.plan import PlanConfig
from cellplm.errors import ConfigError
from cellplm.model.config import PRESETS
from cellplm.training.config import RunConfig, TrainConfig, read_run_config, write_run_config


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    rate: float = 0.5
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    n: int = 1
    name: str = "x"
    on: bool = False
    limit: int | None = None
    sizes: tuple[int, ...] = ()
    inner: Inner = field(default_factory=Inner)


@given(
    values=st.builds(
        Outer,
        n=st.integers(-(2**62), 2**62),
        name=st.text(st.characters(codec="utf-8", exclude_characters="\r")),
        on=st.booleans(),
        limit=st.none() | st.integers(0, 9),
        sizes=st.lists(st.integers(0, 9)).map(tuple),
        inner=st.builds(
            Inner,
            rate=st.floats(allow_nan=False, allow_infinity=False),
            kind=st.sampled_from(["a", "b"]),
        ),
    )
)
def test_a_dataclass_survives_toml(values: Outer) -> None:
    import tomllib

    text = tomli_w.dumps(to_dict(values))
    assert build(Outer, tomllib.loads(text)) == values


@pytest.mark.parametrize("preset", list(PRESETS))
def test_a_run_configuration_survives_its_file(tmp_path: Path, preset: str) -> None:
    config = RunConfig(
        train=TrainConfig(lr=3e-4, max_steps=7, seed=2),
        data=PlanConfig(window=11, modality="srt"),
        model=PRESETS[preset],
    )
    write_run_config(config, tmp_path / "config.toml")
    assert read_run_config(tmp_path / "config.toml") == config
    document = read_toml(tmp_path / "config.toml")
    assert set(document) == {"train", "data", "model"}
    assert "epochs" not in document["train"]


def test_what_is_not_said_has_its_default() -> None:
    assert build(Outer, {}) == Outer()
    assert build(Outer, {"inner": {"kind": "b"}}) == Outer(inner=Inner(kind="b"))
    assert build(RunConfig, {}).model == PRESETS["10M"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nmae": "y"}, r"^nmae: unknown key\. Did you mean name\?"),
        ({"inner": {"rat": 1.0}}, r"^inner\.rat: unknown key\. Did you mean inner\.rate\?"),
        ({"inner": {"zzz": 1.0}}, r"Known: inner\.rate, inner\.kind\."),
        ({"n": "3"}, r"^n = '3': expected int"),
        ({"n": 3.0}, r"^n = 3\.0: expected int"),
        ({"n": True}, r"^n = True: expected int"),
        ({"on": 1}, r"^on = 1: expected bool"),
        ({"name": 4}, r"^name = 4: expected str"),
        ({"limit": "many"}, r"^limit = 'many': expected int"),
        ({"sizes": 3}, r"^sizes = 3: expected a list"),
        ({"sizes": [1, "two"]}, r"^sizes = 'two': expected int"),
        ({"inner": 3}, r"^inner = 3: expected a table"),
        ({"inner": {"rate": "high"}}, r"^inner\.rate = 'high': expected float"),
        ({"inner": {"rate": True}}, r"^inner\.rate = True: expected float"),
        ({"inner": {"kind": "c"}}, r"^inner\.kind = 'c': expected one of a, b"),
    ],
)
def test_a_mistake_is_named_with_its_place(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(Outer, values)


def test_a_whole_number_will_do_for_a_float() -> None:
    rate = build(Outer, {"inner": {"rate": 2}}).inner.rate
    assert rate == 2.0
    assert isinstance(rate, float)


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("n=3", {"n": 3}),
        ("inner.rate=3e-4", {"inner": {"rate": 3e-4}}),
        ("on=true", {"on": True}),
        ("name=performer", {"name": "performer"}),
        ('name="3"', {"name": "3"}),
        ("name=a=b", {"name": "a=b"}),
        ("sizes=[1, 2]", {"sizes": [1, 2]}),
        (" n = 3 ", {"n": 3}),
        ("name=", {"name": ""}),
    ],
)
def test_an_assignment_is_toml_or_plain_text(assignment: str, expected: dict[str, Any]) -> None:
    assert override({}, [assignment]) == expected


@pytest.mark.parametrize("assignment", ["n", "=3", " =3"])
def test_an_assignment_without_key_or_value_is_refused(assignment: str) -> None:
    with pytest.raises(ConfigError, match="key=value"):
        override({}, [assignment])


def test_an_assignment_below_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="n is a value"):
        override({"n": 3}, ["n.deep=1"])


def test_the_last_assignment_wins_and_the_given_values_stay() -> None:
    base = {"inner": {"rate": 0.1, "kind": "b"}}
    assert override(base, ["inner.rate=0.2", "inner.rate=0.3"]) == {
        "inner": {"rate": 0.3, "kind": "b"}
    }
    assert base == {"inner": {"rate": 0.1, "kind": "b"}}


def test_merging_goes_into_tables_and_the_second_wins() -> None:
    base = {"n": 1, "inner": {"rate": 0.1, "kind": "b"}}
    over = {"n": 2, "inner": {"rate": 0.2}}
    assert merge(base, over) == {"n": 2, "inner": {"rate": 0.2, "kind": "b"}}
    assert base["inner"] == {"rate": 0.1, "kind": "b"}


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    with pytest.raises(ConfigError, match=r"config\.toml: no such"):
        read_toml(path)
    path.write_text("train = [")
    with pytest.raises(ConfigError, match=r"config\.toml: not valid TOML"):
        read_toml(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"config\.toml: not valid TOML"):
        read_toml(path)
    with pytest.raises(ConfigError, match=tmp_path.name):
        read_toml(tmp_path)
