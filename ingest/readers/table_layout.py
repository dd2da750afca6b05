"""How a matrix lies in a text table: where the genes are, the names, the counts and the rest.

Genes are known by name (ingest/harmonise.py), so which axis they are on needs no convention. Beside
the counts, a table of cells x genes may have columns about the cells (positions, areas, clusters,
any text), and one of genes x cells columns about the genes (`gene_name`; `Chr`, `Start`, `End`,
`Strand`, `Length` of featureCounts). Of columns of numbers only those of known names are
taken for such: every other one is counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Literal, NoReturn

from cellplm.errors import InputError
from cellplm.ingest.coords import COLUMNS as COORD_COLUMNS
from cellplm.ingest.harmonise import known_fraction
from cellplm.ingest.readers.delimited import Delimited, is_number
from cellplm.ingest.readers.rows import MISSING, hint

# Fewer known names than this on an axis, and it is not the genes.
MIN_KNOWN = 0.2
LOOKED_UP = 2000
# Names stand in one of the first columns.
LEADING = 10

Orientation = Literal["cells x genes", "genes x cells"]

# Names of columns are compared in lower case, without anything but letters and digits.
INDEX_NAMES = frozenset(
    "cell cells cellid cellids cellname cellnames barcode barcodes cellbarcode spot spotid spots "
    "bead index rowname rownames entityid gene genes geneid geneids geneidentifier genename "
    "genesymbol genesymbols symbol symbols feature features featureid name names id ids ensembl "
    "ensemblid ensemblgeneid ensembleid ensg hgncsymbol mgisymbol genenames unnamed0".split()
)
CELL_COLUMNS = frozenset(
    "x y z xum yum zum xcoord ycoord zcoord xpos ypos pixelx pixely imagerow imagecol arrayrow "
    "arraycol intissue area cellarea nucleusarea volume cellvolume perimeter totalcounts ncounts "
    "ncount ngenes ngenesbycounts ncountrna nfeaturerna ncountspatial nfeaturespatial numi numis "
    "ntranscripts percentmt percentmito pctcountsmt percentribo mitopercent doubletscore fov fovid "
    "slice sliceid slide slideid section sample sampleid batch donor donorid patient patientid "
    "origident cluster clusters clusterid seuratclusters louvain leiden celltype celltypes label "
    "labels annotation region cellid umap1 umap2 tsne1 tsne2".split()
) | {re.sub(r"[\W_]+", "", name).lower() for x, y, _ in COORD_COLUMNS for name in (x, y)}
GENE_COLUMNS = frozenset(
    "chr chrom chromosome chromosomename seqname seqnames start end stop strand length width "
    "genelength effectivelength genesize txlength genechr genestart geneend genestrand "
    "startposition endposition entrez entrezid entrezgene entrezgeneid hgncid mgiid biotype "
    "genebiotype genetype type featuretype description genedescription genetitle ncbiid "
    "unigene refseq genename genesymbol symbol geneid".split()
)
STATISTICS = frozenset(
    "mean means average median variance var variancestandardized sd std cv dispersion logfc log2fc "
    "avglogfc avglog2fc log2foldchange foldchange fc pval pvalue pvaladj padj fdr qvalue basemean "
    "lfcse stat score scores rank pct1 pct2 weight weights tpm fpkm rpkm cpm ncells".split()
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How a matrix lies in its file.

    Attributes:
        table: the file.
        orientation: what rows and columns are.
        label_at: the field that names the rows; None where they have no names.
        at: the fields that are counts, ascending.
        aside: the fields about the rows.
    """

    table: Delimited
    orientation: Orientation
    label_at: int | None
    at: tuple[int, ...]
    aside: tuple[int, ...]


def lay_out(table: Delimited) -> Layout:
    """Find out how the matrix lies.

    Raises:
        InputError: there is no matrix with genes on an axis, or what the columns are is not clear.
    """
    _refuse_numbers_as_names(table)
    texts = _text_columns(table)
    across = _counted_names(table)
    in_columns = known_fraction(across[:: 1 + len(across) // LOOKED_UP])
    in_rows, names_at = max(
        ((known_fraction(_column(table, i)), -i) for i in texts if i < LEADING), default=(0.0, 0)
    )
    if max(in_columns, in_rows) < MIN_KNOWN:
        _refuse_without_genes(table)
    if in_columns >= in_rows:
        return _cells_by_genes(table, texts)
    return _genes_by_cells(table, texts, -names_at)


def plain(name: str) -> str:
    """A column's name as it is compared here."""
    return (name if name.isalnum() else re.sub(r"[\W_]+", "", name)).lower()


def counter_from(texts: Sequence[str]) -> int | None:
    """0 or 1 where texts do nothing but count the rows from there; else None."""
    if not texts or texts[0].strip() not in ("0", "1"):
        return None
    first = int(texts[0])
    counts = all(text.strip() == str(i) for i, text in enumerate(texts, first))
    return first if counts else None


def _cells_by_genes(table: Delimited, texts: frozenset[int]) -> Layout:
    label_at = _cell_names_at(table, texts)
    at: list[int] = []
    aside: list[int] = []
    for i, name in enumerate(table.columns):
        if i == label_at or (i == 0 and name == "" and counter_from(_column(table, 0)) is not None):
            continue
        about = plain(name) in CELL_COLUMNS or (i in texts and known_fraction([name]) == 0)
        (aside if about else at).append(i)
    return _checked(table, "cells x genes", label_at, at, aside)


def _genes_by_cells(table: Delimited, texts: frozenset[int], label_at: int) -> Layout:
    first = table.columns[label_at]
    if plain(first) not in INDEX_NAMES and known_fraction([first] if first else []) == 1:
        raise InputError(
            f"{table.path}: the first line is a row (it begins with the gene {first!r}); a line "
            f"with the names of the cells was expected before it"
        )
    at: list[int] = []
    aside: list[int] = []
    for i, name in enumerate(table.columns):
        if i == label_at or (i < label_at and counter_from(_column(table, i)) is not None):
            continue
        (aside if i in texts or plain(name) in GENE_COLUMNS else at).append(i)
    if at and all(plain(table.columns[i]) in STATISTICS for i in at):
        raise InputError(
            f"{table.path}: no matrix of counts but statistics of genes: the columns are "
            f"{', '.join(table.columns[i] for i in at[:5])}"
        )
    return _checked(table, "genes x cells", label_at, at, aside)


def _cell_names_at(table: Delimited, texts: frozenset[int]) -> int | None:
    """The column with the names of the cells."""
    columns = [plain(name) for name in table.columns[:LEADING]]
    ids = [i for i, name in enumerate(columns) if name in INDEX_NAMES]
    first = _column(table, 0)
    # R calls a column without a name X.
    unnamed = table.columns[0] in ("", "X", "V1") and columns[1:2] != ["y"]
    if unnamed and not (ids and counter_from(first) is not None):
        return 0
    if ids:
        return ids[0]
    if 0 in texts:
        return 0
    name = table.columns[0]
    if columns[0] in CELL_COLUMNS or known_fraction([name]) == 1:
        return None
    if len(set(first)) < len(first):
        raise InputError(
            f"{table.path}: no names of cells: numbers in the first column, {name!r}, stand more "
            f"than once. Name the column of the cells 'cell'"
        )
    return 0


def _checked(
    table: Delimited,
    orientation: Orientation,
    label_at: int | None,
    at: Sequence[int],
    aside: Sequence[int],
) -> Layout:
    if not at:
        raise InputError(
            f"{table.path}: no matrix of counts: no column of numbers beside the names"
        )
    for i in at:
        if table.columns[i] == "":
            raise InputError(
                f"{table.path}: column {i + 1} of {len(table.columns)} has no name; the header may "
                f"be shifted against the rows"
            )
    pick = itemgetter(*at, at[0])  # of one index, it would give no tuple
    # Most fields are the same few numbers.
    strange = {field for row in table.head for field in set(pick(row)) if not is_number(field)}
    if strange:
        row, i = next((row, i) for row in table.head for i in at if row[i] in strange)
        _refuse_field(table, row, i)
    return Layout(
        table=table,
        orientation=orientation,
        label_at=label_at,
        at=tuple(at),
        aside=tuple(aside),
    )


def _column(table: Delimited, i: int) -> list[str]:
    return [row[i] for row in table.head]


def _text_columns(table: Delimited) -> frozenset[int]:
    """The columns in which no field that is there is a number, in the first rows."""
    texts = []
    for i, field in enumerate(table.head[0]):
        if not is_number(field):
            given = [field for field in _column(table, i) if field.strip() not in MISSING]
            if given and not any(map(is_number, given)):
                texts.append(i)
    return frozenset(texts)


def _counted_names(table: Delimited) -> list[str]:
    return [name for i, name in enumerate(table.columns) if i and plain(name) not in CELL_COLUMNS]


def _refuse_numbers_as_names(table: Delimited) -> None:
    """A first line of numbers is a header only if it names cells by different whole numbers."""
    names = table.columns[1:]
    if not all(map(is_number, names)):
        return
    whole = all(re.fullmatch(r"\d+", name, re.A) for name in names)
    if not whole or len(set(names)) < len(names) or is_number(table.columns[0]):
        raise InputError(
            f"{table.path}: the first line holds numbers; a line of names was expected"
        )


def _refuse_without_genes(table: Delimited) -> NoReturn:
    """Say what is there in place of genes, or of numbers."""
    fields = ((row, i) for row in table.head for i in range(1, len(row)))
    bad = next(((row, i) for row, i in fields if not is_number(row[i])), None)
    if bad is not None:
        _refuse_field(table, *bad)
    rows = [row[0] for row in table.head]
    raise InputError(
        f"{table.path}: no matrix of counts: genes are on neither axis; the columns start with "
        f"{', '.join(table.columns[1:4])} and the rows with {', '.join(rows[:3])}"
    )


def _refuse_field(table: Delimited, row: Sequence[str], i: int) -> NoReturn:
    raise InputError(
        f"{table.path}: no matrix of counts: row {row[0]!r}, column {table.columns[i]!r} holds "
        f"{row[i]!r}; numbers were expected everywhere but in the first column{hint(row[i])}"
    )
