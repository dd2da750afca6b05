"""Which device a model runs on."""

from __future__ import annotations

from typing import Literal

import torch

from cellplm.errors import ConfigError

DeviceName = Literal["auto", "cpu", "cuda"]


def device_of(name: DeviceName) -> torch.device:
    """The device of a name; "auto" takes a GPU if there is one.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise ConfigError("device cuda: there is no GPU here. To use the CPU, pass --device cpu.")
    return torch.device("cuda" if has_gpu and name != "cpu" else "cpu")
