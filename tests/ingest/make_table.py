"""Text tables as people, R packages and instruments write them."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.ingest.make import GENES, make_counts, write_text

CELLS = tuple(f"cell_{i}" for i in range(5))


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """How a table is spelled.

    Attributes:
        genes_down: genes x cells, else cells x genes.
        sep: the delimiter.
        corner: the name above the row names; None: R's header, one field short.
        quote: around names.
        quote_all: around numbers, too.
        end: of a line.
        before: text before the header.
        behind: text at the end.
        trailing: at the end of each line, the header's too.
    """

    genes_down: bool = True
    sep: str = ","
    corner: str | None = ""
    quote: str = ""
    quote_all: bool = False
    end: str = "\n"
    before: str = ""
    behind: str = ""
    trailing: str = ""


def write_matrix(
    path: Path,
    counts: NDArray[Any],
    style: Style,
    *,
    cells: Sequence[str] = CELLS,
    genes: Sequence[str] = GENES,
) -> Path:
    """A table of (cells, genes) counts, gzipped where the name says so."""
    across, down, values = (cells, genes, counts.T) if style.genes_down else (genes, cells, counts)

    def name(text: str) -> str:
        return f"{style.quote}{text}{style.quote}"

    def number(value: object) -> str:
        return f'"{value}"' if style.quote_all else str(value)

    head = [name(text) for text in across]
    if style.corner is not None:
        head = [name(style.corner), *head]
    lines = [head]
    lines += [
        [name(text), *map(number, row)] for text, row in zip(down, values.tolist(), strict=True)
    ]
    text = "".join(style.sep.join(line) + style.trailing + style.end for line in lines)
    return write_text(path, style.before + text + style.behind)


def write_rows(path: Path, rows: Sequence[Any], *, sep: str = ",") -> Path:
    """Lines of fields, as they are."""
    return write_text(path, "".join(sep.join(map(str, row)) + "\n" for row in rows))


def write_st(folder: Path, *, integers: bool = False) -> tuple[NDArray[np.int64], list[str]]:
    """A slice of Spatial Transcriptomics with the refined positions that PASTE keeps beside it.

    Returns:
        Counts (spots, genes), and the names of the spots.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places = [(x, y) for y in range(3, 6) for x in range(10, 14)]
    shift = 0.0 if integers else 0.064
    names = [f"{x}x{y}" if integers else f"{x + shift:.3f}x{y - shift:.3f}" for x, y in places]
    counts = make_counts(len(names), len(GENES), seed=2)
    style = Style(genes_down=False)
    write_matrix(folder / "slice1.csv.gz", counts, style, cells=names)
    exact = [(f"{x + 0.064:.18e}", f"{y - 0.064:.18e}") for x, y in places]
    write_rows(folder / "slice1_coor.csv.gz", exact)
    write_rows(folder / "slice1_uniform_weights.csv.gz", [[1 / len(names)]] * len(names))
    return counts, names


def write_giotto(folder: Path) -> tuple[NDArray[np.int64], list[str]]:
    """Two Visium samples put together by Giotto: header one short, spaces, three files."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    names = [
        f"{sample}-{''.join(rng.choice(list('ACGT'), 16))}-1"
        for sample in ("NP", "PP")
        for _ in range(20)
    ]
    counts = make_counts(40, len(GENES), seed=5)
    style = Style(sep=" ", corner=None, quote='"')
    write_matrix(folder / "expression_matrix.txt.gz", counts, style, cells=names)
    # A hexagonal lattice whose neighbours are 290 px apart.
    row, col = np.divmod(np.arange(40), 8)
    x = 1000 + 290.0 * col + 145.0 * (row % 2)
    y = -500 - 290.0 * np.sqrt(0.75) * row
    body = [[f"{x[i]:.3f}", f"{y[i]:.3f}", f'"{name}"'] for i, name in enumerate(names)]
    locs = [["sdimx", "sdimy", "cell_ID"], *body]
    write_rows(folder / "spatial_locs.txt", locs, sep=" ")
    meta: list[list[object]] = [["cell_ID", "in_tissue", "array_row", "array_col", "list_ID"]]
    meta += [
        [name, int(i != 3), int(row[i]), int(2 * col[i] + row[i] % 2), name[:2]]
        for i, name in reversed(list(enumerate(names)))
    ]
    write_rows(folder / "cell_metadata.txt", meta, sep=" ")
    write_rows(folder / "mouse_ligand_receptors.txt", [["ligand", "receptor"], ["A2m", "Lrp1"]])
    return counts, names


def write_rctd(folder: Path) -> NDArray[np.int64]:
    """Counts, positions, sums and types of cells, as spacexr's vignettes have them."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = make_counts(len(CELLS), len(GENES), seed=6)
    write_matrix(folder / "counts.csv", counts, Style(quote='"'))
    xy = [['""', '"x"', '"y"'], *([f'"{c}"', 10.5 * i, -3 * i] for i, c in enumerate(CELLS))]
    write_rows(folder / "coords.csv", xy)
    sums = [[f'"{c}"', n] for c, n in zip(CELLS, counts.sum(axis=1), strict=True)]
    write_rows(folder / "nUMI.csv", [['""', '"x"'], *reversed(sums)])
    types = [[f'"{c}"', f'"t{i % 2}"'] for i, c in enumerate(CELLS)]
    write_rows(folder / "cell_types.csv", [['""', '"x"'], *types])
    return counts


def write_starmap(folder: Path) -> NDArray[np.int64]:
    """STARmap PLUS as the single cell portal keeps it: a second line says what columns are."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = make_counts(len(CELLS), len(GENES), seed=7)
    style = Style(corner="GENE", quote='"')
    write_matrix(folder / "well05raw_expression_pd.csv", counts, style)
    rows: list[list[object]] = [["NAME", "X", "Y", "Z", "type"]]
    rows += [["TYPE", "numeric", "numeric", "numeric", "group"]]
    rows += [[c, 1.5 * i, 2.5 * i, i, f"t{i}"] for i, c in enumerate(CELLS)]
    write_rows(folder / "well05_spatial.csv", [[f'"{field}"' for field in row] for row in rows])
    return counts


def write_feature_counts(path: Path, counts: NDArray[np.int64]) -> Path:
    """What featureCounts writes: a comment, five columns about the gene, BAM files as cells."""
    rows: list[list[object]] = [
        ["Geneid", "Chr", "Start", "End", "Strand", "Length", *(f"/bam/{c}.bam" for c in CELLS)]
    ]
    for i, gene in enumerate(GENES):
        chromosome = ["1", "X", "chr1;chr1"][i % 3]
        rows.append([gene, chromosome, 100 * i, 100 * i + 50, "+", 51, *counts[:, i]])
    text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
    head = '# Program:featureCounts v2.0.1; Command:"featureCounts" "-a" "genes.gtf"\n'
    return write_text(path, head + text)


GEM = (
    # gene, x, y, MIDCounts, cell
    ("CD3E", 10, 20, 1, 7),
    ("CD3E", 12, 24, 2, 7),
    ("CD3E", 90, 90, 3, 0),
    ("CD3E", 50, 51, 4, 300),
    ("LYZ", 50, 53, 1, 300),
    ("LYZ", 11, 22, 5, 7),
    ("NKG7", 91, 90, 1, 0),
    ("MS4A1", 30, 31, 1, 12),
)
GEM_CELLS = ["7", "12", "300"]
GEM_GENES = ["CD3E", "LYZ", "NKG7", "MS4A1"]
GEM_COUNTS = np.array([[3, 5, 0, 0], [0, 0, 0, 1], [4, 1, 0, 0]])
GEM_XY_UM = np.array([[11, 22], [30, 31], [50, 52]]) * 0.5


def write_gem(
    path: Path,
    rows: Sequence[tuple[str, int, int, int, int]] = GEM,
    *,
    cell: str | None = "CellID",
    names: bool = False,
) -> Path:
    """A file of Stereo-seq; the third CD3E row and the only NKG7 row lie outside of cells."""
    head = ["geneID", *(["geneName"] if names else []), "x", "y", "MIDCounts", "ExonCount"]
    lines = ["\t".join([*head, *([cell] if cell else [])])]
    for gene, x, y, n, label in rows:
        fields = [f"id_{gene}", gene] if names else [gene]
        fields += [str(value) for value in (x, y, n, n)]
        lines.append("\t".join([*fields, *([str(label)] if cell else [])]))
    comments = "#FileFormat=GEMv0.1\n#SortedBy=None\n#BinType=CellBin\n#BinSize=1\n"
    return write_text(path, comments + "\n".join(lines) + "\n")


def damaged_gzip(text: bytes, at: int, to: int) -> bytes:
    """A gzip file with one byte changed."""
    data = bytearray(gzip.compress(text, mtime=0))
    data[at % len(data)] ^= to
    return bytes(data)


def check_message(error: Exception, path: Path) -> None:
    """One line that names the file."""
    assert str(path) in str(error)
    assert "\n" not in str(error)
