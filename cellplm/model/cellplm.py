"""CellPLM: cells are tokens, a tissue window is a sentence.

embed -> + position -> encode -> latent -> decode, for the genes of a pack's own panel.
In training, everything random (latent noise, dropout, label dropout) is drawn from the key
of the pack, or from a generator that is given; in eval mode nothing is random.

C cells, G measured genes, D width, Z latent, B bottleneck.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cellplm.corpus.batch import TissueBatch
from cellplm.corpus.genes import GeneIndex
from cellplm.model.config import ModelConfig
from cellplm.model.decoder import Decoder
from cellplm.model.draws import generator_of, seed_of, seeded
from cellplm.model.embed import GeneEmbedder
from cellplm.model.encoder import Encoder
from cellplm.model.inputs import ModelInput, prepare
from cellplm.model.latent import LATENTS, soft_floor
from cellplm.model.loss import LossTerms, squared_error
from cellplm.model.mask import Mask, draw_mask
from cellplm.model.position import PositionEncoder
from cellplm.model.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """What a forward pass gives.

    Attributes:
        mean_CZ: the embedding.
        z_CZ: what was decoded: a sample in training, the mean otherwise.
        kl_C: (C,) KL estimate in nats; None in eval mode and without a prior.
        hidden_CB: the decoder's bottleneck, from which `predict` and `loss` make expression.
    """

    mean_CZ: Tensor
    z_CZ: Tensor
    kl_C: Tensor | None
    hidden_CB: Tensor


class CellPLM(nn.Module):
    """The model, its vocabulary and the batch labels it knows.

    Args:
        config: sizes and kinds; `config.seed` is what the parameters are drawn from.
        vocabulary: the genes it has rows for.
        labels: names of the batches it has rows for; label i of a TissueBatch is labels[i].
        index: the gene index its batches are numbered by; the bundled one if None.
    """

    def __init__(
        self,
        config: ModelConfig,
        vocabulary: Vocabulary,
        labels: tuple[str, ...] = (),
        index: GeneIndex | None = None,
    ) -> None:
        """Build all modules without touching the global generator."""
        super().__init__()
        self.config = config
        self.vocabulary = vocabulary
        self.labels = labels
        self.index = GeneIndex.bundled() if index is None else index
        with seeded(seed_of((config.seed, 0, 0), "parameters")):
            self.embedder = GeneEmbedder(config, len(vocabulary))
            self.position = PositionEncoder(config)
            self.encoder = Encoder(config)
            self.latent = LATENTS[config.latent](config)
            self.decoder = Decoder(config, len(vocabulary), len(labels))

    @staticmethod
    def from_pretrained(folder: Path | str) -> CellPLM:
        """Load a run folder or a checkpoint folder, in eval mode on the CPU.

        Raises:
            CheckpointError: it is neither, or its files do not fit together.
        """
        # Down here because `pretrained` builds a CellPLM.
        from cellplm.model.pretrained import load_model

        return load_model(Path(folder))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.embedder.table.device

    def n_parameters(self, *, with_batch_table: bool = False) -> int:
        """Parameters; the rows of batch labels only if asked for."""
        n = sum(p.numel() for p in self.parameters())
        return n if with_batch_table else n - self.decoder.batches.rows.weight.numel()

    def prepare(self, batch: TissueBatch, index: GeneIndex | None = None) -> ModelInput:
        """Make a batch of the stream ready for this model, on its device.

        Args:
            batch: on any device, narrow or widened.
            index: the gene index of `batch.gene_ids`; the model's own if None.

        Raises:
            GenesError: no measured gene is in the vocabulary.
        """
        table = self.embedder.table
        index = self.index if index is None else index
        return prepare(batch, self.vocabulary, index, device=table.device, dtype=table.dtype)

    def draw_mask(self, inputs: ModelInput) -> Mask:
        """The mask of a pack by the config's rates and the pack's key."""
        return draw_mask(inputs.n_cells, inputs.n_genes, self.config, inputs.key, self.device)

    def forward(
        self,
        inputs: ModelInput,
        mask: Mask | None = None,
        generator: torch.Generator | None = None,
    ) -> Output:
        """Encode and decode a pack up to the bottleneck.

        Args:
            inputs: from `prepare`.
            mask: entries to hide from the model.
            generator: on the CPU, for everything random in training; from the pack's key if
                None, which makes this a function of parameters, inputs and mask alone.
        """
        if generator is None:
            generator = generator_of(inputs.key, "forward")
        if not self.training:
            return self._forward(inputs, mask, generator)
        dropout_seed = int(torch.randint(2**62, (), generator=generator))
        with seeded(dropout_seed, self.device):
            return self._forward(inputs, mask, generator)

    def loss(self, inputs: ModelInput, mask: Mask, output: Output) -> LossTerms:
        """The terms of the loss of one pack; sums and counts, see `loss`."""
        weight_GB, bias_G = self.decoder.output_rows(inputs.gene_rows_G)
        if self.config.recon_on == "masked":
            x_MG, counted_MG = inputs.x_CG.take_rows(mask.cells_M), mask.hidden_MG
            hidden_MB = output.hidden_CB.index_select(0, mask.cells_M)
            n_entries = mask.n_hidden()
        else:
            x_MG, counted_MG, hidden_MB = inputs.x_CG, None, output.hidden_CB
            n_entries = inputs.n_cells * inputs.n_genes
        if output.kl_C is None:
            kl = bias_G.new_zeros(())
        else:
            kl = soft_floor(output.kl_C, self.config.free_bits).sum()
        return LossTerms(
            squared_error=squared_error(hidden_MB, weight_GB, bias_G, x_MG, counted_MG),
            n_entries=n_entries,
            kl_per_gene=kl / inputs.n_genes,
            n_cells=inputs.n_cells,
        )

    @torch.no_grad()
    def predict(
        self, inputs: ModelInput, gene_rows_G: Tensor | None = None, mask: Mask | None = None
    ) -> Tensor:
        """Expression of every cell, in eval mode, on the scale of the transform.

        Args:
            inputs: from `prepare`.
            gene_rows_G: vocabulary rows of the genes wanted, measured or not; those of the pack
                if None.
            mask: entries to hide from the model.

        Returns:
            (C, G), not clipped at 0.
        """
        with self._in_eval_mode():
            hidden_CB = self(inputs, mask).hidden_CB
        rows_G = inputs.gene_rows_G if gene_rows_G is None else gene_rows_G
        weight_GB, bias_G = self.decoder.output_rows(rows_G)
        return torch.addmm(bias_G, hidden_CB.to(bias_G.dtype), weight_GB.T)

    @torch.no_grad()
    def embed(self, batch: TissueBatch, index: GeneIndex | None = None) -> Tensor:
        """Embeddings of a batch's cells, (C, Z), in eval mode: no seed has a say.

        Args:
            batch: on any device, narrow or widened.
            index: the gene index of `batch.gene_ids`; the model's own if None.
        """
        with self._in_eval_mode():
            mean_CZ: Tensor = self(self.prepare(batch, index)).mean_CZ
        return mean_CZ

    def _forward(self, inputs: ModelInput, mask: Mask | None, generator: torch.Generator) -> Output:
        x_CG = inputs.x_CG
        if mask is not None:
            hidden = mask.hides(x_CG.rows, x_CG.columns, x_CG.n_rows)
            x_CG = x_CG.with_values(x_CG.values.masked_fill(hidden, 0))
        h_CD = self.embedder(x_CG, inputs.gene_rows_G) + self.position(inputs)
        latent = self.latent(self.encoder(h_CD, inputs.blocks), generator)
        hidden_CB = self.decoder(latent.z_CZ, inputs.batch_label_S, inputs.segment_C, generator)
        return Output(
            mean_CZ=latent.mean_CZ, z_CZ=latent.z_CZ, kl_C=latent.kl_C, hidden_CB=hidden_CB
        )

    @contextmanager
    def _in_eval_mode(self) -> Iterator[None]:
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)
