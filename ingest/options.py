"""What a user may say about an ingest: of every data set, of single ones, and of the run."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from cellplm.corpus.schema import Modality, Profile
from cellplm.errors import ConfigError, MissingFileError
from cellplm.ingest.source import Found, ReadOptions

STASH_VALUES = 64 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSetOptions:
    """How one data set is read and sorted; see `cellplm ingest --help`.

    Attributes:
        tissue_key: obs column whose values are the samples (scrna) or fields of view (srt).
        species: "human" or "mouse".
        modality: "scrna" or "srt".
        counts: where the raw counts are: a layer's name, "X" or "raw".
        coords: where positions are: two obs columns, or one key of obsm.
        um_per_unit: micrometres a unit of the positions.
        profile: compression of the counts.
        min_counts: cells with fewer counts belong to no tissue.
        min_cells: tissues with fewer cells are none.
        allow_spots: take in rows that hold several cells each.
        map_orthologs: give mouse genes the numbers of their one-to-one human orthologs.
    """

    tissue_key: str | None = None
    species: str | None = None
    modality: Modality | None = None
    counts: str | None = None
    coords: tuple[str, ...] | None = None
    um_per_unit: float | None = None
    profile: Profile = "balanced"
    min_counts: int = 5
    min_cells: int = 1
    allow_spots: bool = False
    map_orthologs: bool = False

    def __post_init__(self) -> None:
        """Check what a type cannot."""
        if self.min_counts < 0:
            raise ConfigError(f"--min-counts {self.min_counts}: must not be negative.")
        if self.min_cells < 1:
            raise ConfigError(f"--min-cells {self.min_cells}: must be at least 1.")
        if self.um_per_unit is not None and not 0 < self.um_per_unit < float("inf"):
            raise ConfigError(f"--um-per-unit {self.um_per_unit}: must be above 0.")
        if self.coords is not None and len(self.coords) not in (1, 2):
            raise ConfigError(
                f"--coords {','.join(self.coords)}: give the x and the y column of obs, as in "
                "X,Y, or one key of obsm."
            )

    @property
    def read(self) -> ReadOptions:
        """What of it the readers need."""
        return ReadOptions(
            counts=self.counts,
            species=self.species,
            modality=self.modality,
            coords=self.coords,
            um_per_unit=self.um_per_unit,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """What a datasets.toml says of the data sets at or below one path."""

    path: Path
    name: str | None
    said: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestOptions(DataSetOptions):
    """Options of a run; those of `DataSetOptions` hold where no rule says otherwise.

    Attributes:
        allow_duplicate: take a data set in that is there already.
        on_error: "fail": one refused data set, and nothing is committed; "skip": commit the
            others, each as soon as it is done.
        atomic: one snapshot for all data sets, at the end.
        workers: processes; None: as many as cores, up to 8, where there is enough to do. More than
            one are spawned, so a script that asks for them needs `if __name__ == "__main__":`.
        scheduler: address of a Dask scheduler whose workers do the work.
        rules: of a datasets.toml; later ones win.
        stash_values: counts that a worker holds in memory, 4 bytes each (8 with more than 65,536
            features); those of a data set with more go through the disk.
    """

    allow_duplicate: bool = False
    on_error: Literal["fail", "skip"] = "fail"
    atomic: bool = False
    workers: int | None = 1
    scheduler: str | None = None
    rules: tuple[Rule, ...] = ()
    stash_values: int = STASH_VALUES

    def __post_init__(self) -> None:
        """Check what a type cannot."""
        # slots=True makes another class of this one, which a bare super() does not know.
        DataSetOptions.__post_init__(self)
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"--workers {self.workers}: must be at least 1.")

    def of(self, found: Found, shown: Path) -> tuple[Found, DataSetOptions]:
        """A data set under the name that a rule gives it, and the options that hold for it.

        Args:
            found: what was seen on disk.
            shown: what the user calls its path.
        """
        names = [field.name for field in fields(DataSetOptions)]
        options = DataSetOptions(**{name: getattr(self, name) for name in names})
        path = shown.resolve()
        for rule in self.rules:
            if rule.path == path or rule.path in path.parents:
                options = replace(options, **rule.said)
                found = replace(found, name=rule.name or found.name)
        return found, options


def read_rules(path: Path) -> tuple[Rule, ...]:
    """The rules of a datasets.toml.

    It holds tables `[[dataset]]` with a `path` (relative to the file), perhaps a `name`, and
    keys of `DataSetOptions`.

    Raises:
        MissingFileError: there is no such file.
        ConfigError: it is no TOML, a key is not known, or a value has the wrong type.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MissingFileError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML ({error})") from None
    tables = document.pop("dataset", None)
    if document or not isinstance(tables, list) or not tables:
        raise ConfigError(f"{path}: expected tables [[dataset]] and nothing else.")
    return tuple(_rule(path, table) for table in tables)


def _rule(path: Path, table: dict[str, Any]) -> Rule:
    said = dict(table)
    where = said.pop("path", None)
    name = said.pop("name", None)
    if not isinstance(where, str) or not (name is None or isinstance(name, str)):
        raise ConfigError(f"{path}: each [[dataset]] needs a path (a string): {table}.")
    known = {field.name: field.default for field in fields(DataSetOptions)}
    for key, value in said.items():
        if key not in known:
            raise ConfigError(f"{path}: no option {key!r}; known are {', '.join(known)}.")
        if not _fits(key, value):
            raise ConfigError(f"{path}: {key} = {value!r} has the wrong type.")
    if "coords" in said:
        said["coords"] = tuple(said["coords"])
    resolved = (path.parent / where).resolve()
    if not resolved.exists():
        raise MissingFileError(f"{path}: {where}: no such file or folder")
    DataSetOptions(**said)
    return Rule(path=resolved, name=name, said=said)


_CHOICES = {
    "species": ("human", "mouse"),
    "modality": ("scrna", "srt"),
    "profile": ("balanced", "fast"),
}


def _fits(key: str, value: Any) -> bool:
    if key in _CHOICES:
        return value in _CHOICES[key]
    if key == "coords":
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    if key == "um_per_unit":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if key in ("min_counts", "min_cells"):
        return isinstance(value, int) and not isinstance(value, bool)
    if key in ("allow_spots", "map_orthologs"):
        return isinstance(value, bool)
    return isinstance(value, str)
