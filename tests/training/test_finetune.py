"""Fine-tuning is fair, repeatable, and chooses by validation alone."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from cellplm.corpus.reader import Corpus
from cellplm.errors import CellplmError, CheckpointError, ConfigError
from cellplm.logs import Progress
from cellplm.model.cellplm import CellPLM
from cellplm.model.config import ModelConfig
from cellplm.model.inputs import ModelInput
from cellplm.model.mask import Mask
from cellplm.model.pretrained import load_model, save_model
from cellplm.model.vocabulary import Vocabulary
from cellplm.tasks.data import in_order, opened
from cellplm.tasks.denoise import Denoise, DenoiseConfig, Predict
from cellplm.tasks.holdout import Scheme
from cellplm.training.denoise import denoise
from cellplm.training.finetune import FinetuneConfig, fit
from tests.make import make_adata, vocabulary_genes, write_h5ad

MODEL = ModelConfig(
    width=16, n_heads=2, n_layers=1, n_latent=6, n_components=3, n_bottleneck=5, dropout=0.1
)
BUDGET = FinetuneConfig(max_steps=6, eval_every=2, warmup_steps=1, lr=0.01)
KEYS = set(
    "task checkpoint seeds n_train n_valid n_test metrics baselines zero_shot seconds".split()
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    torch.set_num_threads(1)
    data = write_h5ad(tmp_path_factory.mktemp("finetune") / "a.h5ad", make_adata())
    with opened(data) as corpus:
        yield corpus


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(make_model(seed=7), folder)
    return folder


def make_model(seed: int = 0) -> CellPLM:
    vocabulary = Vocabulary(tuple(vocabulary_genes(50)))
    return CellPLM(replace(MODEL, seed=seed), vocabulary, ("a", "b"))


class Watched(Denoise):
    """The task, which also remembers what it was asked for and what it gave."""

    def __init__(self, corpus: Corpus, config: DenoiseConfig) -> None:
        super().__init__(corpus, Vocabulary(tuple(vocabulary_genes(50))), config)
        self.scores: list[float] = []
        self.splits: list[str] = []
        self.inputs: list[ModelInput] = []
        self.masks: list[Mask] = []

    def score(self, predict: Predict, split: str) -> dict[str, float]:
        result = super().score(predict, split)
        self.splits.append(split)
        if self.chosen_by is not None:
            self.scores.append(result[self.chosen_by])
        return result

    def mask(self, model: CellPLM, inputs: ModelInput) -> Mask:
        mask = super().mask(model, inputs)
        self.inputs.append(inputs)
        self.masks.append(mask)
        return mask


def make_task(corpus: Corpus, scheme: Scheme | None, seed: int = 0) -> Watched:
    return Watched(corpus, DenoiseConfig(scheme=scheme, window=40, seed=seed))


@pytest.mark.parametrize(("scheme", "lr"), [("hide", 0.01), ("hide", 3.0), ("thin", 0.3)])
def test_the_step_with_the_best_validation_score_is_kept(
    corpus: Corpus, scheme: Scheme, lr: float
) -> None:
    task, model = make_task(corpus, scheme), make_model()
    budget = replace(BUDGET, max_steps=7, eval_every=2, lr=lr)
    best = fit(model, task, budget)
    # Looked at before the first step, every second one and after the last, at validation only.
    assert set(task.splits) == {"valid"}
    assert len(task.scores) == 5
    assert best == [0, 2, 4, 6, 7][task.scores.index(min(task.scores))]
    kept = task.score(task.model_predict(model), "valid")
    assert kept[str(task.chosen_by)] == min(task.scores)
    assert not model.training


def test_a_budget_that_ruins_the_model_leaves_it_as_calibrated(corpus: Corpus) -> None:
    good = make_model()
    fit(good, make_task(corpus, "hide"), replace(BUDGET, max_steps=40, eval_every=5))
    calibrated = copy.deepcopy(good)
    make_task(corpus, "hide").calibrate(calibrated)
    assert fit(good, make_task(corpus, "hide"), replace(BUDGET, lr=5.0, max_steps=4)) == 0
    expected = calibrated.state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in good.state_dict().items())


def test_without_counts_set_aside_the_last_step_is_kept(corpus: Corpus) -> None:
    task = make_task(corpus, None)
    assert fit(make_model(), task, BUDGET) == 6
    assert task.splits == []


def test_training_lowers_the_error_on_test_counts(corpus: Corpus) -> None:
    task, model = make_task(corpus, "hide"), make_model()
    before = task.score(task.model_predict(model), "test")["rmse"]
    fit(model, task, replace(BUDGET, max_steps=60, eval_every=20))
    assert task.score(task.model_predict(model), "test")["rmse"] < 0.7 * before


@pytest.mark.parametrize("scheme", ["hide", "thin"])
def test_a_pretrained_model_and_one_from_scratch_get_the_same_batches_and_masks(
    corpus: Corpus, scheme: Scheme
) -> None:
    tasks = [make_task(corpus, scheme, seed=5) for _ in range(2)]
    pretrained, scratch = make_model(seed=1), make_model(seed=2)
    fit(scratch, tasks[0], BUDGET)
    torch.manual_seed(123)
    fit(pretrained, tasks[1], BUDGET)
    # Some more before the first step, to calibrate.
    assert len(tasks[0].inputs) == len(tasks[1].inputs) > BUDGET.max_steps
    for a, b in zip(tasks[0].inputs, tasks[1].inputs, strict=True):
        assert a.key == b.key
        assert torch.equal(a.x_CG.values, b.x_CG.values)
        assert torch.equal(a.x_CG.columns, b.x_CG.columns)
    for mine, other in zip(tasks[0].masks, tasks[1].masks, strict=True):
        assert torch.equal(mine.hidden_MG, other.hidden_MG)
        assert torch.equal(mine.cells_M, other.cells_M)
    assert not torch.equal(tasks[0].masks[0].hidden_MG, tasks[0].masks[1].hidden_MG)


def numbers(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != "seconds"}


@pytest.mark.parametrize("scheme", ["hide", "thin"])
def test_the_document_has_its_keys_and_the_same_seeds_give_the_same_numbers(
    corpus: Corpus, checkpoint: Path, scheme: Scheme
) -> None:
    task = DenoiseConfig(scheme=scheme, window=40)
    runs = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        runs.append(denoise(corpus, checkpoint, task=task, budget=BUDGET, seeds=(3, 4)).document)
    document = runs[0]
    assert numbers(runs[0]) == numbers(runs[1])
    assert set(document) >= KEYS
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    metrics = {"rmse", "mae"} if scheme == "hide" else {"molecule_nll"}
    assert set(document["metrics"]) == set(document["zero_shot"]) == metrics
    assert all(set(scores) == metrics for scores in document["baselines"].values())
    assert document["seeds"] == [3, 4]
    assert document["checkpoint"] == str(checkpoint)
    assert (document["n_train"], document["task"]) == (100, "denoise")
    assert document["n_test"] > 0
    assert document["n_valid"] > 0
    for spread in document["metrics"].values():
        low, high = sorted(spread["values"])
        assert low < high
        assert spread["mean"] == pytest.approx((low + high) / 2)
        assert spread["sd"] == pytest.approx((high - low) / 2**0.5)


def test_another_seed_sets_other_counts_aside(corpus: Corpus, checkpoint: Path) -> None:
    task = DenoiseConfig(scheme="hide", window=40)
    one, other = (
        denoise(corpus, checkpoint, task=task, budget=BUDGET, seeds=(seed,)).document
        for seed in (0, 1)
    )
    assert one["zero_shot"] != other["zero_shot"]
    assert one["baselines"] != other["baselines"]


def test_no_steps_is_zero_shot(corpus: Corpus, checkpoint: Path) -> None:
    task = DenoiseConfig(scheme="hide", window=40)
    budget = replace(BUDGET, max_steps=0)
    result = denoise(corpus, checkpoint, task=task, budget=budget, seeds=(0, 1))
    means = {name: spread["mean"] for name, spread in result.document["metrics"].items()}
    assert means == result.document["zero_shot"]
    assert result.document["best_steps"] == [0, 0]
    loaded = load_model(checkpoint, drop_labels=True).state_dict()
    assert all(torch.equal(loaded[name], t) for name, t in result.model.state_dict().items())


def test_from_scratch_has_no_zero_shot_but_the_same_baselines(
    corpus: Corpus, checkpoint: Path
) -> None:
    task = DenoiseConfig(scheme="hide", window=40)
    scratch = denoise(corpus, None, task=task, scratch=MODEL, budget=BUDGET).document
    tuned = denoise(corpus, checkpoint, task=task, budget=BUDGET).document
    assert scratch["zero_shot"] == {}
    assert scratch["checkpoint"] is None
    for key in ("baselines", "n_train", "n_valid", "n_test", "seeds"):
        assert scratch[key] == tuned[key]


def test_without_a_scheme_nothing_is_scored(corpus: Corpus, checkpoint: Path) -> None:
    document = denoise(corpus, checkpoint, task=DenoiseConfig(), budget=BUDGET).document
    assert set(document) >= KEYS
    assert document["metrics"] == document["baselines"] == document["zero_shot"] == {}
    assert (document["n_test"], document["n_valid"]) == (0, 0)


def test_a_saved_model_predicts_the_same(corpus: Corpus, checkpoint: Path, tmp_path: Path) -> None:
    task = DenoiseConfig(scheme="hide", window=40)
    result = denoise(corpus, checkpoint, task=task, budget=BUDGET)
    save_model(result.model, tmp_path)
    loaded = CellPLM.from_pretrained(tmp_path)
    for batch in islice(in_order(corpus, 40), 2):
        mine = result.task.model_predict(result.model)(batch)
        assert torch.equal(result.task.model_predict(loaded)(batch), mine)
    score = result.task.score(result.task.model_predict(loaded), "test")
    assert score["rmse"] == result.document["metrics"]["rmse"]["values"][0]


def test_progress_names_the_work_and_counts_the_steps(corpus: Corpus, checkpoint: Path) -> None:
    seen: list[Progress] = []
    task = DenoiseConfig(scheme="hide", window=40)
    denoise(corpus, checkpoint, task=task, budget=BUDGET, seeds=(9,), on_progress=seen.append)
    assert [each.done for each in seen] == list(range(1, 7))
    assert all("seed 9" in each.what and each.total == 6 for each in seen)


def test_wrong_options_are_refused(corpus: Corpus, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="-1"):
        FinetuneConfig(max_steps=-1)
    with pytest.raises(ConfigError, match="eval_every 0"):
        FinetuneConfig(eval_every=0)
    with pytest.raises(ConfigError, match="checkpoint"):
        denoise(corpus, None, task=DenoiseConfig())
    with pytest.raises(ConfigError, match="seed"):
        denoise(corpus, checkpoint, task=DenoiseConfig(), seeds=())
    with pytest.raises(CheckpointError, match="nowhere"):
        denoise(corpus, tmp_path / "nowhere", task=DenoiseConfig())


def test_a_loss_that_is_not_finite_is_an_error_that_says_what_to_lower(corpus: Corpus) -> None:
    model = make_model()
    with torch.no_grad():
        model.embedder.table.fill_(float("inf"))
    with pytest.raises(CellplmError, match="lower --lr"):
        fit(model, make_task(corpus, None), BUDGET)
