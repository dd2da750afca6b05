"""Raw files into a corpus: bring every data set, then commit them in the order they were found.

Data sets are brought side by side on the workers of a pool (ingest/pool.py); this module hands
out the tasks, decides in order what is a duplicate, and commits. A part is complete and
synced before the snapshot that names it; whatever stops the work before that leaves the corpus
as it was. With on_error "fail" nothing is committed before every data set was brought.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cellplm.corpus import manifest
from cellplm.corpus.genes import GeneIndex
from cellplm.corpus.manifest import PartEntry, Snapshot, SourceFile
from cellplm.corpus.reader import Corpus
from cellplm.errors import CellplmError, ConflictError, InputError
from cellplm.ingest import bring as tasks
from cellplm.ingest.bring import Brought, Job, Shards
from cellplm.ingest.fetch.fetch import Fetched, display, fetch
from cellplm.ingest.find import find, why_not
from cellplm.ingest.lease import Lease
from cellplm.ingest.options import IngestOptions
from cellplm.ingest.overlap import Prints, overlaps
from cellplm.ingest.pool import Here, pool, workers_for
from cellplm.ingest.report import Ingested, IngestReport, Left
from cellplm.ingest.source import Found
from cellplm.logs import OnProgress, Progress, ignore

CLUSTER_AT_WORK = 64
"""Data sets that a Dask cluster has at a time."""

SOURCES = "sources"
"""Folder of the workplace for what is downloaded and unpacked."""


def ingest_files(
    paths: Sequence[str | Path],
    out: str | Path,
    options: IngestOptions | None = None,
    *,
    dry_run: bool = False,
    on_progress: OnProgress = ignore,
) -> IngestReport:
    """Find data sets under `paths` and bring them into the corpus at `out`.

    Args:
        paths: files, folders, archives and addresses.
        out: a corpus, or a path where none is yet.
        options: how to read and sort them.
        dry_run: only plan; nothing is written.
        on_progress: called now and then, from one thread at a time.

    Returns:
        What came in, what was skipped as already there, what was refused and why.

    Raises:
        InputError: a data set is refused and on_error is "fail"; nothing was committed.
        NotACorpusError: `out` is something else.
    """
    options = options or IngestOptions()
    root = Path(out)
    corpus = Corpus.open(root) if root.exists() else None
    genes = corpus.genes if corpus else GeneIndex.bundled()
    with _workplace(None if dry_run else root, genes) as workplace:
        refused: list[Left] = []

        def refuse(shown: str, error: InputError) -> None:
            if options.on_error == "fail":
                raise error
            refused.append(Left(name=Path(shown).name, source=shown, reason=str(error)))

        places = fetch(paths, workplace / SOURCES, on_progress=on_progress, on_error=refuse)
        with _named_as_given(places):
            found, others = find([place.local for place in places])
            if not found and not refused:
                listed = ", ".join(str(path) for path in paths)
                first = f" The first: {why_not(others[0])}" if others else ""
                raise InputError(f"{listed}: no data set found in {len(others)} files.{first}")
            n_bytes = sum(_size(path) for each in found for path in each.files)
            workers = workers_for(options.workers, n_bytes)
            with pool(workers, options.scheduler) as executor:
                run = _Run(
                    root=root,
                    options=options,
                    dry_run=dry_run,
                    workplace=workplace,
                    places=tuple(places),
                    genes=corpus.genes_path if corpus else None,
                    executor=executor,
                    on_progress=on_progress,
                    lock=threading.Lock(),
                )
                ledger = _Ledger(run, corpus)
                for each, outcome in _side_by_side(run, ledger, found, workers):
                    ledger.enter(each, outcome)
                ledger.close()
            left = [Left(name=p.name, source=run.show(p), reason=why_not(p)) for p in others]
    return IngestReport(
        snapshot=ledger.snapshot.snapshot if ledger.snapshot else None,
        ingested=tuple(ledger.ingested),
        skipped=tuple(ledger.skipped),
        refused=(*refused, *ledger.refused),
        other_files=tuple(replace(each, reason=run.show(each.reason)) for each in left),
    )


@contextmanager
def _named_as_given(places: Sequence[Fetched]) -> Iterator[None]:
    """Put the names that the user gave into messages that name temporary files."""
    try:
        yield
    except InputError as error:
        raise type(error)(display(str(error), places)) from error


class _Skipped(Exception):
    """The data set is in the corpus already."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """What stays the same for every data set of a call."""

    root: Path
    options: IngestOptions
    dry_run: bool
    workplace: Path
    places: tuple[Fetched, ...]
    genes: Path | None
    executor: Executor
    on_progress: OnProgress
    lock: threading.Lock

    def show(self, text: str | Path) -> str:
        """A path or message with the names that the user gave."""
        return display(str(text), self.places)

    def say(self, what: str, done: int = 0, total: int = 0) -> None:
        with self.lock:
            self.on_progress(Progress(what=what, done=done, total=total))


class _Ledger:
    """Decides, in order, what becomes of each data set, and commits."""

    def __init__(self, run: _Run, corpus: Corpus | None) -> None:
        self.run = run
        self.corpus = corpus
        self.snapshot = corpus.snapshot if corpus else None
        self.ingested: list[Ingested] = []
        self.skipped: list[Left] = []
        self.refused: list[Left] = []
        self.waiting: list[tuple[Ingested, PartEntry]] = []
        self._prints: list[Prints] = []
        parts = self.snapshot.parts if self.snapshot else ()
        self._sources = {frozenset(s.sha256 for s in part.sources): part.name for part in parts}
        self._content = {part.content: part.name for part in parts}
        self._names = {part.name for part in parts}

    def check_sources(self, found: Found, sources: Sequence[SourceFile]) -> None:
        """Raise _Skipped for files that a part was made of."""
        if found.path not in found.files:  # one of several data sets in a file
            return
        name = self._sources.get(frozenset(source.sha256 for source in sources))
        if name and not self.run.options.allow_duplicate:
            raise _Skipped(f"already in as {name!r}: the same files")

    def enter(self, found: Found, outcome: Future[tuple[tuple[SourceFile, ...], Brought]]) -> None:
        """Take in what became of the next data set."""
        left = Left(name=found.name, source=self.run.show(found.path), reason="")
        try:
            sources, brought = outcome.result()
            self.check_sources(found, sources)
            self._check_content(sources, brought)
        except _Skipped as skip:
            self.skipped.append(replace(left, reason=str(skip)))
            return
        except InputError as error:
            if self.run.options.on_error == "fail":
                raise
            self.refused.append(replace(left, reason=self.run.show(str(error))))
            return
        name = _unique(brought.told.name, self._names)
        self._prints.append(replace(brought.prints, data_set=name))
        if brought.entry is None:
            self.ingested.append(replace(brought.told, name=name))
            return
        self.waiting.append((brought.told, brought.entry))
        if self.run.options.on_error == "skip" and not self.run.options.atomic:
            self._commit()

    def close(self) -> None:
        """Commit what was waiting for all others, and say which cells stood elsewhere before."""
        self._commit()
        found = overlaps(self.corpus, self._prints)
        self.ingested = [
            replace(told, warnings=(*told.warnings, *(each.sentence() for each in mine)))
            for told, mine in zip(self.ingested, found, strict=True)
        ]

    def _check_content(self, sources: Sequence[SourceFile], brought: Brought) -> None:
        name = self._content.get(brought.content)
        if name and not self.run.options.allow_duplicate:
            # Its part, if it has one, is cleared when the lease ends.
            raise _Skipped(f"already in as {name!r}: the same counts in every cell")
        self._content[brought.content] = brought.told.name
        self._sources[frozenset(source.sha256 for source in sources)] = brought.told.name

    def _commit(self) -> None:
        groups = [self.waiting] if self.run.options.atomic else [[each] for each in self.waiting]
        self.waiting = []
        for group in groups if groups != [[]] else []:
            entries = [entry for _, entry in group]
            change = _add(entries, allow_duplicate=self.run.options.allow_duplicate)
            self.snapshot = manifest.commit(
                self.run.root, change, operation="ingest", writer=self.run.workplace.name
            )
            names = [part.name for part in self.snapshot.parts[-len(group) :]]
            self.ingested += [
                replace(told, name=name) for (told, _), name in zip(group, names, strict=True)
            ]


@contextmanager
def _workplace(root: Path | None, genes: GeneIndex) -> Iterator[Path]:
    """A folder for temporary files: in the corpus, or (to plan only) the system's."""
    if root is None:
        with tempfile.TemporaryDirectory(prefix="cellplm-") as folder:
            yield Path(folder)
    else:
        with Lease(root, genes) as lease:
            yield lease.workplace


def _side_by_side(
    run: _Run, ledger: _Ledger, found: Sequence[Found], workers: int
) -> Iterator[tuple[Found, Future[tuple[tuple[SourceFile, ...], Brought]]]]:
    """Every data set with what became of it, in order, while others are at work."""
    if isinstance(run.executor, Here):
        for each in found:
            yield each, run.executor.submit(_one, run, ledger, each)
        return
    # A thread a data set hands out its tasks and waits for them; the work is in the pool.
    n_threads = workers if run.options.scheduler is None else CLUSTER_AT_WORK
    with ThreadPoolExecutor(max_workers=n_threads) as threads:
        outcomes = [(each, threads.submit(_one, run, ledger, each)) for each in found]
        try:
            yield from outcomes
        finally:
            for _, outcome in outcomes:
                outcome.cancel()


def _one(run: _Run, ledger: _Ledger, found: Found) -> tuple[tuple[SourceFile, ...], Brought]:
    """Bring one data set, all its tasks one after the other."""
    try:
        shown = run.show(found.path)
        found, options = run.options.of(found, Path(shown))
        sources = run.executor.submit(tasks.hash_sources, found).result()
        ledger.check_sources(found, sources)
        what = f"check {found.name}" if run.dry_run else f"read {found.name}"
        run.say(what)
        job = Job(
            found=found,
            shown=shown,
            sources=sources,
            options=options,
            genes=run.genes,
            root=None if run.dry_run else run.root,
            workplace=run.workplace,
            stash_values=run.options.stash_values,
        )
        here = isinstance(run.executor, Here)
        on_rows = _counter(run, what) if here else None
        brought: Brought = run.executor.submit(tasks.bring, job, on_rows).result()
        if brought.shards is not None:
            brought = _with_shards(run, brought, brought.shards)
        return sources, brought
    except BrokenProcessPool:
        raise CellplmError(
            f"{run.show(found.path)}: a worker process died, perhaps for lack of memory; use fewer "
            "--workers."
        ) from None


def _with_shards(run: _Run, brought: Brought, shards: Shards) -> Brought:
    """Write the shards of a large part, as tasks, and finish it."""
    writer, entry = brought.writer, brought.entry
    assert writer is not None
    assert entry is not None
    what = f"write {brought.told.name}"
    submit = run.executor.submit
    futures = [
        submit(tasks.write_from_files, number, files, shards.layout, writer)
        for number, files in enumerate(shards.files)
    ]
    for number, future in enumerate(futures):
        future.result()
        run.say(what, number + 1, len(futures))
    shutil.rmtree(shards.layout.parent, ignore_errors=True)
    objects = submit(tasks.finish, writer).result()
    return replace(brought, entry=replace(entry, objects=objects), shards=None)


def _counter(run: _Run, what: str) -> Callable[[int], None]:
    def on_rows(done: int) -> None:
        run.say(what, done)

    return on_rows


def _add(entries: Sequence[PartEntry], *, allow_duplicate: bool) -> manifest.Change:
    def change(parent: Snapshot) -> Snapshot:
        for entry in entries:
            for part in parent.parts:
                if part.content == entry.content and not allow_duplicate:
                    raise ConflictError(
                        f"{entry.name}: another writer has just committed the same data as "
                        f"{part.name!r}."
                    )
        names = {part.name for part in parent.parts}
        named = [replace(entry, name=_unique(entry.name, names)) for entry in entries]
        return replace(parent, parts=(*parent.parts, *named))

    return change


def _unique(name: str, names: set[str]) -> str:
    """The name, numbered if it is among `names`, which get it."""
    out, number = name, 2
    while out in names:
        out, number = f"{name}-{number}", number + 1
    names.add(out)
    return out


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
