"""Denoise: predict the expression behind noisy counts, and score it honestly.

Two ways to score, with counts that training never sees (see holdout.py): hidden non-zeros,
as the CellPLM preprint does it, which rewards guessing high; and set-aside molecules, a
proper score. The objective of fine-tuning follows the score: masked non-zeros for the
first, masked entries of any value for the second and for use without a score.

C cells, G measured genes of the vocabulary, V columns of the part, E entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from cellplm.corpus.batch import TissueBatch
from cellplm.corpus.plan import PlanConfig
from cellplm.corpus.reader import Corpus
from cellplm.corpus.stream import TissueStream
from cellplm.model.cellplm import CellPLM
from cellplm.model.draws import generator_of
from cellplm.model.inputs import ModelInput
from cellplm.model.mask import Mask
from cellplm.model.vocabulary import Vocabulary
from cellplm.tasks.data import as_anndata, in_order, panel, unknown_batch
from cellplm.tasks.holdout import Entries, Scheme, hold_out
from cellplm.tasks.metrics import HiddenError, MoleculeLoss, log1p_cp10k, shares

SHIFT_PRIOR = 5.0

Predict = Callable[[TissueBatch], Tensor]
"""From a visible batch to (C, G) predicted log1p-CP10k."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoiseConfig:
    """What is set aside, and how cells are seen together.

    Attributes:
        scheme: how counts are set aside for scoring; None: not at all.
        fraction: of non-zeros ("hide") or of molecules ("thin"), for test and again for
            validation.
        window: most cells seen together, in training and prediction.
        mask_rate: share of a cell's non-zeros masked in training for "hide".
        seed: of what is set aside and of the order in training.
    """

    scheme: Scheme | None = None
    fraction: float = 0.1
    window: int = 2000
    mask_rate: float = 0.25
    seed: int = 0


class Denoise:
    """The task on one data set."""

    name = "denoise"

    def __init__(self, corpus: Corpus, vocabulary: Vocabulary, config: DenoiseConfig) -> None:
        """Take a corpus of one part; nothing is read yet.

        Args:
            corpus: see tasks/data.py.
            vocabulary: of the model; only its genes are predicted and scored, by every method.
            config: what is set aside.
        """
        self.corpus = corpus
        self.vocabulary = vocabulary
        self.config = config
        (self.part,) = corpus.parts
        self._in_panel = panel(corpus, vocabulary)
        self._local = torch.cumsum(self._in_panel, 0) - 1

    @property
    def chosen_by(self) -> str | None:
        """The metric that picks the best step on the validation counts; None without any."""
        return {None: None, "hide": "rmse", "thin": "molecule_nll"}[self.config.scheme]

    def training_batches(self) -> Iterator[TissueBatch]:
        """Visible batches, epoch after epoch, without end."""
        stream = TissueStream(
            self.corpus,
            PlanConfig(window=self.config.window, global_batch_packs=1),
            seed=self.config.seed,
        )
        while True:
            for batch in stream:
                yield unknown_batch(self._visible(batch))

    def mask(self, model: CellPLM, inputs: ModelInput) -> Mask:
        """What training hides of a visible batch and is scored on."""
        if self.config.scheme != "hide":
            return model.draw_mask(inputs)
        x_CG = inputs.x_CG
        generator = generator_of(inputs.key, "mask", x_CG.columns.device)
        drawn = torch.rand(x_CG.columns.numel(), generator=generator, device=x_CG.columns.device)
        chosen = drawn < self.config.mask_rate
        hidden_CG = torch.zeros(
            inputs.n_cells, inputs.n_genes, dtype=torch.bool, device=x_CG.columns.device
        )
        hidden_CG[x_CG.rows[chosen], x_CG.columns[chosen]] = True
        return Mask(
            cells_M=torch.arange(inputs.n_cells, device=hidden_CG.device), hidden_MG=hidden_CG
        )

    @torch.no_grad()
    def calibrate(self, model: CellPLM) -> None:
        """Shift the output biases so that each gene's mean error on masked entries is 0.

        The first steps of fine-tuning would spend themselves on this: a new model knows no gene's
        level, and a pre-trained one knows those of other data sets and of another objective (the
        mean over all cells, where "hide" asks for the mean over the cells that have the gene). A
        gene with `SHIFT_PRIOR` masked entries is shifted half by its own mean error, half by that
        of all genes.
        """
        n_genes = int(self._in_panel.sum())
        n_G, error_G = (torch.zeros(n_genes, dtype=torch.float64) for _ in range(2))
        rows_G = self.vocabulary.rows_of(
            torch.from_numpy(self.part.index.gene_number), self.corpus.genes
        )[self._in_panel]
        for batch in in_order(self.corpus, self.config.window):
            inputs = model.prepare(self._visible(batch), self.corpus.genes)
            mask = self.mask(model, inputs)
            predicted_MG = model.predict(inputs, mask=mask)[mask.cells_M]
            x_MG = inputs.x_CG.take_rows(mask.cells_M).dense(0, mask.cells_M.numel())
            error_G += ((x_MG - predicted_MG) * mask.hidden_MG).sum(0).cpu()
            n_G += mask.hidden_MG.sum(0).cpu()
        usual = error_G.sum() / n_G.sum().clamp(min=1)
        bias_K = model.decoder.output_bias
        bias_K[rows_G] += ((error_G + SHIFT_PRIOR * usual) / (n_G + SHIFT_PRIOR)).to(bias_K)

    def model_predict(self, model: CellPLM) -> Predict:
        """A model as a way to predict."""
        return lambda batch: model.predict(model.prepare(batch, self.corpus.genes)).float().cpu()

    def baselines(self) -> dict[str, Predict]:
        """Ways to predict that know no cells, from the visible counts.

        For "hide": each gene's mean log1p-CP10k over all cells, and over the cells that have it,
        which is what scoring only hidden non-zeros asks for. For "thin": the pooled counts, the
        best that can be said of a molecule without looking at its cell.
        """
        n_genes = int(self._in_panel.sum())
        logs, positive, counts = (torch.zeros(n_genes, dtype=torch.float64) for _ in range(3))
        library, n_cells = 0.0, 0
        for batch in in_order(self.corpus, self.config.window):
            visible = self._visible(batch).to("cpu")
            cell = torch.arange(visible.n_cells).repeat_interleave(visible.indptr.diff())
            keep = self._in_panel[visible.indices]
            column, count = self._local[visible.indices[keep]], visible.counts[keep]
            value = log1p_cp10k(count, visible.library_size[cell[keep]])
            logs.index_add_(0, column, value.double())
            positive.index_add_(0, column, torch.ones_like(value).double())
            counts.index_add_(0, column, count.double())
            library += float(visible.library_size.sum())
            n_cells += visible.n_cells
        if self.config.scheme == "thin":
            return {"gene mean": _constant(log1p_cp10k(counts, torch.tensor(library)))}
        return {
            "gene mean": _constant(logs / max(1, n_cells)),
            "gene mean of non-zeros": _constant(logs / positive.clamp(min=1)),
        }

    def score(self, predict: Predict, split: str) -> dict[str, float]:
        """Metrics of a way to predict, on what was set aside.

        Args:
            predict: sees the visible counts only.
            split: "test" or "valid".

        Returns:
            {"rmse", "mae"} for "hide", {"molecule_nll"} for "thin", {} without a scheme.
        """
        scheme = self.config.scheme
        if scheme is None:
            return {}
        error, loss = HiddenError(), MoleculeLoss()
        for batch in in_order(self.corpus, self.config.window):
            held = hold_out(batch, scheme, self.config.fraction, self.config.seed)
            entries = self._in_vocabulary(held.test if split == "test" else held.valid)
            predicted_CG = predict(held.visible)
            column = self._local[entries.column]
            if scheme == "hide":
                truth = log1p_cp10k(entries.count, entries.library_size)
                error.add(predicted_CG[entries.cell, column], truth)
            else:
                loss.add(shares(predicted_CG)[entries.cell, column], entries.count)
        return error.result() if scheme == "hide" else loss.result()

    def n_set_aside(self) -> dict[str, int]:
        """Entries set aside, of the genes that are scored: {"test", "valid"}."""
        n = {"test": 0, "valid": 0}
        if self.config.scheme is not None:
            for batch in in_order(self.corpus, self.config.window):
                held = hold_out(batch, self.config.scheme, self.config.fraction, self.config.seed)
                n["test"] += len(self._in_vocabulary(held.test))
                n["valid"] += len(self._in_vocabulary(held.valid))
        return n

    def write_predictions(self, model: CellPLM, data: Path, out: Path) -> None:
        """Write the data set as h5ad with layer "predicted" on the scale of counts.

        A cell's predicted shares (expm1 of the predicted log1p-CP10k, so nearer to a geometric
        than to an arithmetic mean) are spread over as many counts as it has in the predicted
        genes. NaN where the model has no gene, and for cells without counts.
        """
        adata = as_anndata(data, self.corpus)
        adata.layers.pop("predicted", None)
        adata.write_h5ad(out)
        rows = self.part.source_rows
        columns = self.part.source_columns[self._in_panel.numpy()]
        with h5py.File(out, "a") as file:
            layer = file.require_group("layers").create_dataset(
                "predicted",
                shape=adata.shape,
                dtype="f4",
                chunks=(1, adata.n_vars),
                compression="lzf",
                fillvalue=np.nan,
            )
            layer.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
            predict = self.model_predict(model)
            for batch in in_order(self.corpus, self.config.window):
                visible = self._visible(batch)
                expected = torch.expm1(predict(visible).clamp(min=0.0))
                total = self._panel_counts(visible) / expected.sum(1).clamp(min=1e-12)
                expected *= total[:, None]
                for row, values in zip(rows[batch.row.numpy()], expected.numpy(), strict=True):
                    line = np.full(adata.n_vars, np.nan, dtype=np.float32)
                    line[columns] = values
                    layer[row] = line

    def _visible(self, batch: TissueBatch) -> TissueBatch:
        if self.config.scheme is None:
            return batch
        return hold_out(batch, self.config.scheme, self.config.fraction, self.config.seed).visible

    def _panel_counts(self, batch: TissueBatch) -> Tensor:
        """(C,) counts of each cell in the predicted genes."""
        wide = batch.to("cpu")
        cell = torch.arange(wide.n_cells).repeat_interleave(wide.indptr.diff())
        counted = wide.counts * self._in_panel[wide.indices]
        return torch.zeros(wide.n_cells).index_add_(0, cell, counted)

    def _in_vocabulary(self, entries: Entries) -> Entries:
        keep = self._in_panel[entries.column]
        return Entries(
            cell=entries.cell[keep],
            column=entries.column[keep],
            count=entries.count[keep],
            library_size=entries.library_size[keep],
        )


def _constant(mean_G: Tensor) -> Predict:
    """The same for every cell."""
    return lambda batch: mean_G.float().expand(batch.n_cells, -1)
