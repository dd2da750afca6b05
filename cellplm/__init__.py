"""cellplm: single-cell and spatial files in, a corpus out, a trained CellPLM model at the end.

    cellplm.ingest_files(["raw"], "corpus.zarr")
    corpus = cellplm.open_corpus("corpus.zarr")
    cellplm.pretrain(corpus, cellplm.RunConfig(), "runs/first")
    cellplm.finetune_denoise("mine.h5ad", "out", checkpoint="runs/first")
    cellplm.embed(adata, "runs/first")          # writes adata.obsm["X_cellplm"]

Names are imported when they are first used (PEP 562), so `import cellplm` takes no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellplm.corpus.batch import TissueBatch as TissueBatch
    from cellplm.corpus.plan import PlanConfig as PlanConfig
    from cellplm.corpus.reader import Corpus as Corpus
    from cellplm.corpus.stream import TissueStream as TissueStream
    from cellplm.ingest.convert import ingest_files as ingest_files
    from cellplm.ingest.options import IngestOptions as IngestOptions
    from cellplm.model.cellplm import CellPLM as CellPLM
    from cellplm.model.config import ModelConfig as ModelConfig
    from cellplm.tasks.denoise import DenoiseConfig as DenoiseConfig
    from cellplm.tasks.embed import embed as embed
    from cellplm.training.config import RunConfig as RunConfig
    from cellplm.training.denoise import finetune_denoise as finetune_denoise
    from cellplm.training.finetune import FinetuneConfig as FinetuneConfig
    from cellplm.training.pretrain import pretrain as pretrain

_WHERE = {
    "CellPLM": "cellplm.model.cellplm",
    "Corpus": "cellplm.corpus.reader",
    "DenoiseConfig": "cellplm.tasks.denoise",
    "FinetuneConfig": "cellplm.training.finetune",
    "IngestOptions": "cellplm.ingest.options",
    "ModelConfig": "cellplm.model.config",
    "PlanConfig": "cellplm.corpus.plan",
    "RunConfig": "cellplm.training.config",
    "TissueBatch": "cellplm.corpus.batch",
    "TissueStream": "cellplm.corpus.stream",
    "finetune_denoise": "cellplm.training.denoise",
    "embed": "cellplm.tasks.embed",
    "ingest_files": "cellplm.ingest.convert",
    "pretrain": "cellplm.training.pretrain",
}

__all__ = [
    "CellPLM",
    "Corpus",
    "DenoiseConfig",
    "FinetuneConfig",
    "IngestOptions",
    "ModelConfig",
    "PlanConfig",
    "RunConfig",
    "TissueBatch",
    "TissueStream",
    "embed",
    "finetune_denoise",
    "ingest_files",
    "open_corpus",
    "pretrain",
]


def open_corpus(path: str, *, snapshot: int | None = None) -> Corpus:
    """Open a corpus at its newest snapshot, or at a given one; see `Corpus.open`."""
    from cellplm.corpus.reader import Corpus

    return Corpus.open(path, snapshot=snapshot)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'cellplm' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
