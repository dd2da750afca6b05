import math

import pytest
import torch
from safetensors.torch import load, save

from cellplm.errors import CheckpointError
from cellplm.model.cellplm import CellPLM
from cellplm.training.config import TrainConfig
from cellplm.training.optim import Optimizer, learning_rate
from tests.model.make import make_batch, make_counts, make_model

CONFIG = TrainConfig(lr=0.01, warmup_steps=2, clip=0.5)


def backward(model: CellPLM, label: int = 0) -> None:
    inputs = model.prepare(make_batch([make_counts(8, 6)], labels=[label]))
    mask = model.draw_mask(inputs)
    terms = model.loss(inputs, mask, model(inputs, mask))
    share = terms.share(n_entries=terms.n_entries, n_cells=terms.n_cells, beta=1.0)
    share.backward()  # type: ignore[no-untyped-call]


def test_the_rate_warms_up_and_falls_to_its_floor() -> None:
    config = TrainConfig(lr=1.0, lr_floor=0.2, warmup_steps=4)
    rates = [learning_rate(step, config, 14) for step in range(16)]
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rates[9] == pytest.approx(0.2 + 0.8 * 0.5)
    assert rates[14:] == pytest.approx([0.2, 0.2])
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_a_run_shorter_than_its_warm_up_has_a_rate() -> None:
    config = TrainConfig(lr=1.0, warmup_steps=4)
    assert learning_rate(1, config, 2) == 0.5


def test_only_labels_of_the_step_move() -> None:
    model = make_model(labels=("a", "b", "c"))
    optimizer = Optimizer(model, CONFIG, 10)
    backward(model, label=0)
    optimizer.step(0)
    before = model.decoder.batches.rows.weight.detach().clone()
    backward(model, label=2)
    optimizer.step(1)
    moved = (model.decoder.batches.rows.weight != before).any(1)
    assert moved.tolist() == [False, False, True]


def test_the_norm_is_that_before_clipping() -> None:
    model = make_model()
    optimizer = Optimizer(model, CONFIG, 10)
    backward(model)
    table = model.decoder.batches.rows.weight
    grads = [p.grad for p in model.parameters() if p.grad is not None and p is not table]
    norm = math.sqrt(sum(float(grad.square().sum()) for grad in grads))
    assert optimizer.step(0) == pytest.approx((0.005, norm), rel=1e-5)


def test_nothing_moves_by_a_gradient_that_is_not_finite() -> None:
    model = make_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = Optimizer(model, CONFIG, 10)
    backward(model)
    assert model.embedder.table.grad is not None
    model.embedder.table.grad[0, 0] = torch.nan
    _, norm = optimizer.step(0)
    assert not math.isfinite(norm)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_restored_state_makes_the_same_next_step() -> None:
    straight, broken = make_model(), make_model()
    first, second = (Optimizer(model, CONFIG, 10) for model in (straight, broken))
    for step in range(2):
        for model, optimizer in ((straight, first), (broken, second)):
            backward(model)
            optimizer.step(step)
    again = Optimizer(broken, CONFIG, 10)
    again.load_tensors(load(save(second.tensors())))
    for model, optimizer in ((straight, first), (broken, again)):
        backward(model)
        optimizer.step(2)
    state = broken.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in straight.state_dict().items())


def test_state_of_another_model_is_refused() -> None:
    model = make_model()
    optimizer = Optimizer(model, CONFIG, 10)
    backward(model)
    optimizer.step(0)
    tensors = optimizer.tensors()
    with pytest.raises(CheckpointError, match="unknown"):
        Optimizer(model, CONFIG, 10).load_tensors({**tensors, "other/step": torch.tensor(1.0)})
    tensors["embedder.table/exp_avg"] = torch.zeros(2)
    with pytest.raises(CheckpointError, match=r"embedder\.table/exp_avg"):
        Optimizer(model, CONFIG, 10).load_tensors(tensors)
