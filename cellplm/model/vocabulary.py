"""Vocabulary: which genes the model has a row for, and which row that is.

Three numberings meet here: a part's columns, the gene index (stable numbers, `gene_ids`
of a batch), and the rows of the model's tables. A gene outside the vocabulary has row -1
and weighs nothing.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from torch import Tensor

from cellplm.corpus.genes import GeneIndex
from cellplm.errors import GenesError


class Vocabulary:
    """The genes of a model, by Ensembl id; row j of its tables is `ensembl_ids[j]`.

    Args:
        ensembl_ids: no id twice.

    Raises:
        GenesError: an id stands twice.
    """

    def __init__(self, ensembl_ids: tuple[str, ...]) -> None:
        """Take the list; nothing is looked up yet."""
        if len(set(ensembl_ids)) != len(ensembl_ids):
            twice = next(name for name, n in Counter(ensembl_ids).items() if n > 1)
            raise GenesError(f"vocabulary: {twice} stands twice; give each gene one row.")
        self.ensembl_ids = ensembl_ids
        self._tables: dict[str, Tensor] = {}

    def __len__(self) -> int:
        """K."""
        return len(self.ensembl_ids)

    def rows_of(self, gene_numbers: Tensor, index: GeneIndex) -> Tensor:
        """Rows of genes given by their numbers in the gene index.

        Args:
            gene_numbers: any shape, integer; -1 for what is no gene.
            index: the gene index that the numbers are of.

        Returns:
            int64, the shape and device of `gene_numbers`; -1 for a gene outside the vocabulary.

        Raises:
            GenesError: a number beyond the index.
        """
        table = self._table(index)
        numbers = gene_numbers.to(device="cpu", dtype=torch.int64)
        if numbers.numel() and int(numbers.max()) >= table.numel() - 1:
            raise GenesError(
                f"gene number {int(numbers.max())}: the gene index has {index.n} genes; the data "
                "were written with a newer one. Load the model with that version of cellplm."
            )
        # The last entry of the table is -1, so a number of -1 finds it.
        return table[numbers].to(gene_numbers.device)

    def _table(self, index: GeneIndex) -> Tensor:
        if index.sha256 not in self._tables:
            numbers = np.asarray(index.numbers_of(self.ensembl_ids), dtype=np.int64)
            table = np.full(index.n + 1, -1, dtype=np.int64)
            known = numbers >= 0
            table[numbers[known]] = np.flatnonzero(known)
            self._tables[index.sha256] = torch.from_numpy(table)
        return self._tables[index.sha256]
