"""What Cell Ranger, Space Ranger and STARsolo put beside each other, and how it is called.

One run writes its counts up to four times: raw (every barcode) and filtered (cells), each as an
HDF5 file and as a MatrixMarket folder:

    outs/filtered_feature_bc_matrix.h5          outs/filtered_gene_bc_matrices_h5.h5
    outs/filtered_feature_bc_matrix/            outs/filtered_gene_bc_matrices/GENOME/
    outs/raw_feature_bc_matrix.h5, ...          Solo.out/Gene/filtered/, Solo.out/Gene/raw/

Names may have a prefix ("sample_", GEO's "GSM1234_"). `cellranger multi` has the raw matrix of
all samples in multi/count and the cells of each in per_sample_outs/SAMPLE/count.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["raw", "filtered"]

RUN = re.compile(
    r"(?P<prefix>.*?)(?P<kind>raw|filtered)_(?:feature|gene|probe)_(?:bc|cell)_matri(?:x|ces)"
    r"(?:_h5)?(?:\.h5)?",
    re.I,
)
H5_NAMES = ("feature_bc_matrix.h5", "gene_bc_matrices_h5.h5", "feature_cell_matrix.h5")
MTX_NAMES = ("feature_bc_matrix", "feature_cell_matrix")
MATRICES = ("matrix.mtx.gz", "matrix.mtx")

# Folders that say nothing about the sample, and those that are worth a word behind it.
PLAIN_FOLDER = re.compile(
    r"outs?|count|multi|gex|mtx|matrix|matrices|spatial|gene|filtered|binned_outputs|solo\.out"
    r"|per_sample_outs|segmented_outputs|.*filtered_(?:feature|gene)_(?:bc|cell)_matri(?:x|ces)",
    re.I,
)
RAW_FOLDER = re.compile(r"raw|.*raw_(?:feature|gene|probe)_(?:bc|cell)_matri(?:x|ces)", re.I)
TELLING_FOLDER = re.compile(r"square_\d+um|genefull\w*", re.I)
SEPARATORS = "-_. "


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Where a matrix stands among those of its run.

    Attributes:
        folder: that holds all of them.
        prefix: of their names.
        kind: of this one.
        genome: whose folder it is, in runs that have one for each.
        solo: whether STARsolo wrote it.
    """

    folder: Path
    prefix: str
    kind: Kind
    genome: str | None = None
    solo: bool = False


def run_of(path: Path) -> Run | None:
    """The run that an HDF5 file or a MatrixMarket folder belongs to by its name, if any."""
    kinds: dict[str, Kind] = {"raw": "raw", "filtered": "filtered"}
    if not path.name:  # "."
        path = path.absolute()
    if match := RUN.fullmatch(path.name):
        kind = kinds[match["kind"].lower()]
        return Run(folder=path.parent, prefix=match["prefix"], kind=kind)
    if match := RUN.fullmatch(path.parent.name):
        kind = kinds[match["kind"].lower()]
        folder, genome = path.parent.parent, path.name
        return Run(folder=folder, prefix=match["prefix"], kind=kind, genome=genome)
    if path.name in kinds:
        return Run(folder=path.parent, prefix="", kind=kinds[path.name], solo=True)
    return None


def h5_files(run: Run, kind: Kind) -> list[Path]:
    """The HDF5 files with the matrices of a run that are of a kind."""
    names = [f"{run.prefix}{kind}_{name}" for name in H5_NAMES]
    return [run.folder / name for name in names if (run.folder / name).is_file()]


def mtx_folders(run: Run, kind: Kind) -> list[Path]:
    """The MatrixMarket folders likewise; only that of the same genome where there is one."""
    if run.solo:
        folders = [run.folder / kind]
    else:
        by_genome = run.folder / f"{run.prefix}{kind}_gene_bc_matrices"
        folders = [run.folder / f"{run.prefix}{kind}_{name}" for name in MTX_NAMES]
        folders += sorted(by_genome.iterdir()) if _is_folder(by_genome) else []
    if run.genome is not None:
        folders = [folder for folder in folders if folder.name == run.genome]
    return [
        folder
        for folder in folders
        if _is_folder(folder) and any((folder / name).is_file() for name in MATRICES)
    ]


def filtered_beside(path: Path) -> Path | None:
    """The matrix that stands for a raw one, or for one of probes, or the folder that holds it."""
    run = run_of(path)
    if run is None or run.kind == "filtered":
        return None
    if (samples := pooled(path)) is not None:
        return samples
    better = h5_files(run, "filtered") + mtx_folders(run, "filtered")
    if "probe" in path.name.lower():
        better += h5_files(run, "raw") + mtx_folders(run, "raw")
    return better[0] if better else None


def pooled(path: Path) -> Path | None:
    """Where the samples are, for the raw matrix of all samples of `cellranger multi`."""
    run = run_of(path)
    if run is None or run.kind == "filtered":
        return None
    names = (run.folder.parent.name, run.folder.name)
    samples = run.folder.parent.parent / "per_sample_outs"
    return samples if names == ("multi", "count") and samples.is_dir() else None


def twins(path: Path) -> list[Path]:
    """The files of the MatrixMarket folders that hold the same as an HDF5 file."""
    run = run_of(path)
    folders = mtx_folders(run, run.kind) if run else []
    return [file for folder in folders for file in visible_files(folder)]


def raw_names(path: Path) -> list[Path]:
    """The files with names in the raw MatrixMarket folders beside a filtered matrix.

    Whoever claims them leaves folders that hold no whole matrix any more when all of a run is
    looked through, and that still do when they are named themselves.
    """
    run = run_of(path)
    folders = mtx_folders(run, "raw") if run and run.kind == "filtered" else []
    return [
        file
        for folder in folders
        for file in visible_files(folder)
        if not file.name.endswith((".mtx", ".mtx.gz"))
    ]


def visible_files(folder: Path) -> list[Path]:
    """Files in a folder, sorted; none where it is a link to one elsewhere, or no folder."""
    if not _is_folder(folder):
        return []
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))


def data_set_name(folder: Path, prefix: str = "", *, tags: tuple[str, ...] = ()) -> str:
    """What to call a data set: by its prefix, or by the first folder above with a name of its own.

    Args:
        folder: that holds its matrix.
        prefix: of the names of its files.
        tags: words to put behind the name.
    """
    if own := clean_prefix(prefix):
        return "-".join([own, *tags])
    said: list[str] = []
    below = folder.absolute()
    for here in (below, *below.parents):
        part = here.name
        if not part or part.startswith((".", "tmp")):
            break  # the root, or a place for a while, such as that of an unpacked archive
        if TELLING_FOLDER.fullmatch(part):
            said.insert(0, part)
        elif RAW_FOLDER.fullmatch(part):
            said.append("raw")
        elif not (PLAIN_FOLDER.fullmatch(part) or RUN.fullmatch(here.parent.name)):
            part = re.sub(r"[-_.]?solo\.out$", "", part, flags=re.I)
            return "-".join([part, *said, *tags])
    return "-".join([below.name or "10x", *tags])


def clean_prefix(prefix: str) -> str:
    """A prefix without the words and separators that stand between it and a matrix's own name."""
    return re.sub(r"(^|[-_. ])sample$", "", prefix.strip(SEPARATORS), flags=re.I)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
