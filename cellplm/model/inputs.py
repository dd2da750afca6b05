"""ModelInput: a pack as the model reads it.

The columns of the part become local columns 0..G-1: the measured genes of the vocabulary.
Counts become transformed values here, once; what is hidden by a mask is hidden later, so
the library size is always that of the pack as given.

C cells, G measured genes of the vocabulary, S windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cellplm.corpus.batch import TissueBatch
from cellplm.corpus.genes import GeneIndex
from cellplm.errors import GenesError
from cellplm.model.csr import Csr
from cellplm.model.draws import Key
from cellplm.model.segments import Blocks, blocks_of
from cellplm.model.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInput:
    """One pack, on the model's device.

    Attributes:
        x_CG: transformed values of the non-zeros.
        gene_rows_G: (G,) int64, the vocabulary row of each local column.
        library_size_C: (C,) floating, as the batch gives it.
        segment_C: (C,) int64, the window of each cell.
        blocks: the windows, laid out for attention.
        batch_label_S: (S,) int64, -1 for a batch the model does not know.
        coords_um_C2: (C, 2) floating, from the FOV's origin; None for scRNA.
        extent_um_S: (S,) floating, the longer side of the FOV; None for scRNA.
        key: what masks, noise and dropout are drawn from.
        name: of the pack, for messages.
    """

    x_CG: Csr
    gene_rows_G: Tensor
    library_size_C: Tensor
    segment_C: Tensor
    blocks: Blocks
    batch_label_S: Tensor
    coords_um_C2: Tensor | None
    extent_um_S: Tensor | None
    key: Key
    name: str

    @property
    def n_cells(self) -> int:
        """C."""
        return self.x_CG.n_rows

    @property
    def n_genes(self) -> int:
        """G."""
        return self.x_CG.n_columns


def prepare(
    batch: TissueBatch,
    vocabulary: Vocabulary,
    index: GeneIndex,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ModelInput:
    """Move a pack to the device, keep the genes of the vocabulary and transform the counts.

    Args:
        batch: as the stream yields it, or already widened.
        vocabulary: the model's.
        index: the gene index of `batch.gene_ids`.
        device: the model's.
        dtype: of the values: the model's.

    Raises:
        GenesError: no measured gene is in the vocabulary.
    """
    rows_V = vocabulary.rows_of(batch.gene_ids, index).to(device)
    kept_V = rows_V >= 0
    gene_rows_G = rows_V[kept_V]
    if gene_rows_G.numel() == 0:
        raise GenesError(
            f"{describe(batch)}: none of its {batch.gene_ids.numel():,} columns is a gene of the "
            f"model's vocabulary ({len(vocabulary):,} genes). Check the species and gene names."
        )
    batch = batch.to(device)
    local_V = torch.cumsum(kept_V, 0) - 1
    kept = kept_V[batch.indices]
    before = torch.zeros(kept.numel() + 1, dtype=torch.int64, device=kept.device)
    torch.cumsum(kept, 0, out=before[1:])
    counts_CG = Csr.of(
        before[batch.indptr],
        local_V[batch.indices[kept]],
        batch.counts[kept].to(dtype),
        gene_rows_G.numel(),
    )
    library_size_C = batch.library_size.to(dtype)
    segments = [int(row) for row in batch.segments.tolist()]
    windows = torch.arange(batch.n_segments, device=batch.segments.device)
    return ModelInput(
        x_CG=counts_CG.with_values(_log1p_cp10k(counts_CG, library_size_C)),
        gene_rows_G=gene_rows_G,
        library_size_C=library_size_C,
        segment_C=windows.repeat_interleave(batch.segments.diff(), output_size=batch.n_cells),
        blocks=blocks_of(segments, batch.n_cells, device),
        batch_label_S=batch.batch_label,
        coords_um_C2=None if batch.coords_um is None else batch.coords_um.to(dtype),
        extent_um_S=None if batch.extent_um is None else batch.extent_um.to(dtype),
        key=batch.key,
        name=describe(batch),
    )


def describe(batch: TissueBatch) -> str:
    """The pack in a few words, for messages."""
    seed, epoch, pack = batch.key
    return f"pack {pack} of epoch {epoch} (seed {seed}, part {batch.part})"


def _log1p_cp10k(counts_CG: Csr, library_size_C: Tensor) -> Tensor:
    # An empty cell has no counts to scale; a size of 1 there only keeps the division finite.
    size = torch.where(library_size_C > 0, library_size_C, 1.0)
    return torch.log1p(counts_CG.values * (1e4 / size)[counts_CG.rows])
