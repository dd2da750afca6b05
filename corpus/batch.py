"""TissueBatch: what the stream yields, and all that a model gets to see of a pack.

Counts stay in the narrow dtypes of the disk until `to` widens them on the device:
copying and casting is what bounds a fast loader. There is no padding: the windows
of a pack stand one after the other and `segments` says where each begins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class TissueBatch:
    """One pack: S tissue windows of one part, C cells in all, V columns of the part.

    Attributes:
        indptr: (C + 1,) int64, CSR row starts, from 0.
        indices: (nnz,) uint16 or uint32, int64 after `to`: columns local to the part,
            ascending within a row.
        counts: (nnz,) uint8, uint16 or uint32, float32 after `to`: raw counts, all > 0.
        gene_ids: (V,) int32, the gene-index number of each column, -1 where it is no gene
            (control, duplicate, unmapped, protein). Which columns were measured: all of these.
        library_size: (C,) float32, counts of a cell summed over the columns that are genes.
        segments: (S + 1,) int64, rows where the windows begin, 0 first and C last. Cells
            attend to each other only within a window.
        batch_label: (S,) int64, the label (sample, or FOV) of each window in the plan's list.
        tissue: (S,) int64, the tissue's number in the snapshot.
        coords_um: (C, 2) float32, micrometres from the origin of the cell's FOV; None for
            scRNA.
        extent_um: (S,) float32, the longer side of the window's FOV; None for scRNA.
        row: (C,) int64, the cell's row in the part.
        part: id of the part.
        modality: "scrna" or "srt".
        key: (seed, epoch, pack): what masks, latent noise and dropout are drawn from.
    """

    indptr: Tensor
    indices: Tensor
    counts: Tensor
    gene_ids: Tensor
    library_size: Tensor
    segments: Tensor
    batch_label: Tensor
    tissue: Tensor
    coords_um: Tensor | None
    extent_um: Tensor | None
    row: Tensor
    part: str
    modality: str
    key: tuple[int, int, int]

    @property
    def n_cells(self) -> int:
        """Cells in the pack."""
        return self.indptr.numel() - 1

    @property
    def nnz(self) -> int:
        """Stored counts in the pack."""
        return self.counts.numel()

    @property
    def n_segments(self) -> int:
        """Tissue windows in the pack."""
        return self.segments.numel() - 1

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> TissueBatch:
        """Copy to a device in the narrow dtypes, and widen there.

        Returns:
            The same pack with `indices` int64 and `counts` float32.
        """

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return replace(
            self,
            indptr=move(self.indptr),
            indices=move(self.indices).to(torch.int64),
            counts=move(self.counts).to(torch.float32),
            gene_ids=move(self.gene_ids),
            library_size=move(self.library_size),
            segments=move(self.segments),
            batch_label=move(self.batch_label),
            tissue=move(self.tissue),
            coords_um=None if self.coords_um is None else move(self.coords_um),
            extent_um=None if self.extent_um is None else move(self.extent_um),
            row=move(self.row),
        )

    def __repr__(self) -> str:
        """What is in it, on one line."""
        return (
            f"TissueBatch({self.n_cells:,} cells in {self.n_segments} windows, {self.nnz:,} "
            f"counts ({str(self.counts.dtype).removeprefix('torch.')}), "
            f"{self.gene_ids.numel():,} columns, {self.modality}, part {self.part}, key {self.key})"
        )
