import json
from pathlib import Path

import torch

from cellplm.training.metrics import MetricsFile, memory_mb


def test_lines_past_the_checkpoint_and_torn_ones_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3)) + '{"step": 2')
    metrics = MetricsFile(path, 2)
    metrics.write({"step": 3, "loss": 0.5})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]
    metrics.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_memory_is_in_megabytes() -> None:
    assert 50 < memory_mb(torch.device("cpu")) < 100_000
