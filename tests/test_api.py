"""The public names are there, and cost nothing until they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import cellplm


@pytest.mark.parametrize("name", cellplm.__all__)
def test_every_public_name_resolves(name: str) -> None:
    thing = getattr(cellplm, name)
    assert thing.__doc__
    # The name is the thing's own: nothing is public under two.
    assert thing.__name__ == name
    assert name in dir(cellplm)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'nothing'"):
        cellplm.nothing  # noqa: B018


def test_importing_cellplm_or_its_command_line_or_ingest_takes_no_torch() -> None:
    modules = "cellplm, cellplm.cli.main, cellplm.ingest.convert, cellplm.config"
    script = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=120).returncode == 0
