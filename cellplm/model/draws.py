"""Where random numbers come from: a key, never the process.

A pack's mask, latent noise and dropout are drawn from (seed, epoch, pack) and a purpose.
So a resumed run, and any dealing of packs to ranks, draws the same numbers. The hash is
BLAKE2, since Python's own differs from one process to the next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

Key = tuple[int, int, int]


def seed_of(key: Key, purpose: str) -> int:
    """A seed below 2**63 that depends on nothing but its arguments."""
    text = "/".join((*map(str, key), purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def generator_of(key: Key, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one purpose of one pack.

    CPU and CUDA generators give different numbers for the same seed.
    """
    return torch.Generator(device).manual_seed(seed_of(key, purpose))


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed the global generators of the CPU and of `device` inside, and put them back after.

    For code that takes no generator: `nn.Dropout`, `nn.init`, performer-pytorch.
    """
    device = torch.device(device)
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        # Not torch.manual_seed: that would seed the generators of all devices.
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
