"""The optimisers as one: AdamW for the model, SparseAdam for the table of batch labels.

A step moves only the rows of labels that were in it: with millions of labels a dense
optimiser would spend its time on rows at rest. State goes to and from flat tensors, so a
checkpoint needs no pickle.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from cellplm.errors import CheckpointError
from cellplm.model.cellplm import CellPLM
from cellplm.training.config import TrainConfig

_MOMENTS = ("exp_avg", "exp_avg_sq")


class Optimizer:
    """Steps all parameters of a model.

    Args:
        model: on its device already.
        config: rate, decay, clip.
        n_steps: of the whole run, where the cosine reaches its floor.
    """

    def __init__(self, model: CellPLM, config: TrainConfig, n_steps: int) -> None:
        """Take the parameters; no state is made before the first step."""
        self._config = config
        self._n_steps = n_steps
        table = model.decoder.batches.rows.weight
        self._names = {id(p): name for name, p in model.named_parameters()}
        self._dense = [p for p in model.parameters() if p is not table]
        adamw = torch.optim.AdamW(self._dense, lr=config.lr, weight_decay=config.weight_decay)
        sparse = torch.optim.SparseAdam([table], lr=config.lr)
        self._parts: tuple[torch.optim.Optimizer, ...] = (adamw, sparse)

    def step(self, step: int) -> tuple[float, float]:
        """Clip, move and forget the gradients.

        Args:
            step: how many steps were made before.

        Returns:
            The learning rate, and the norm of the dense gradients before clipping. Nothing moves
            if the norm is not finite.
        """
        norm = float(clip_grad_norm_(self._dense, self._config.clip))
        lr = learning_rate(step, self._config, self._n_steps)
        for part in self._parts:
            part.param_groups[0]["lr"] = lr
            if math.isfinite(norm):
                part.step()
            part.zero_grad()
        return lr, norm

    def tensors(self) -> dict[str, Tensor]:
        """State as `<parameter>/<moment>` and `<parameter>/step`."""
        out = {}
        for part in self._parts:
            for parameter, state in part.state.items():
                name = self._names[id(parameter)]
                out.update({f"{name}/{moment}": state[moment] for moment in _MOMENTS})
                out[f"{name}/step"] = torch.as_tensor(state["step"], dtype=torch.float32).clone()
        return out

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take state back.

        Raises:
            CheckpointError: a tensor belongs to no parameter, or has another shape.
        """
        left = dict(tensors)
        for part in self._parts:
            for parameter in part.param_groups[0]["params"]:
                name = self._names[id(parameter)]
                if f"{name}/step" not in left:
                    continue  # A parameter that has had no gradient has no state.
                state = {moment: left.pop(f"{name}/{moment}", None) for moment in _MOMENTS}
                for moment, tensor in state.items():
                    if tensor is None or tensor.shape != parameter.shape:
                        raise CheckpointError(
                            f"optimiser state {name}/{moment}: missing, or not of shape "
                            f"{tuple(parameter.shape)}."
                        )
                step = left.pop(f"{name}/step")
                moments = {m: t.to(parameter.device) for m, t in state.items() if t is not None}
                is_sparse = isinstance(part, torch.optim.SparseAdam)
                part.state[parameter] = {"step": int(step) if is_sparse else step, **moments}
        if left:
            raise CheckpointError(f"optimiser state of unknown parameters: {', '.join(left)}.")


def learning_rate(step: int, config: TrainConfig, n_steps: int) -> float:
    """Linear warm-up, then a cosine down to the floor at the last step.

    Args:
        step: how many steps were made before.
        config: rate, floor and warm-up.
        n_steps: of the whole run.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    span = max(1, n_steps - config.warmup_steps)
    done = min(1.0, (step - config.warmup_steps) / span)
    share = config.lr_floor + (1 - config.lr_floor) * 0.5 * (1 + math.cos(math.pi * done))
    return config.lr * share
