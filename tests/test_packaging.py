"""The build's package list and the committed links agree with the tree."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAPPED = {"corpus", "ingest", "cli"}


def test_every_package_is_listed_for_the_build() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join((["cellplm"] if top in MAPPED else []) + list(init.parent.relative_to(ROOT).parts))
        for top in (*MAPPED, "cellplm")
        for init in (ROOT / top).rglob("__init__.py")
        if not any(p.is_symlink() for p in init.parents)
    }
    assert found == set(listed)


def test_the_links_show_the_installed_shape() -> None:
    for name in MAPPED:
        link = ROOT / "cellplm" / name
        assert link.is_symlink()
        assert link.readlink() == Path("..") / name


def test_help_and_ingest_start_without_torch() -> None:
    code = (
        "import sys, cellplm, cellplm.cli.main, cellplm.ingest.convert; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0
