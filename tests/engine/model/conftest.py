"""Checkpoints of every kind, made once."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.model.tiny import BLOCK_TOKENS, KV_BLOCKS, load, oracle


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    """By kind: a directory, and the model in it as transformers computes it."""
    made: dict[str, tuple[Path, Any]] = {}

    def make(kind: str) -> tuple[Path, Any]:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind) / kind
            model = oracle(kind)
            model.save_pretrained(folder)
            made[kind] = folder, model
        return made[kind]

    return make


@pytest.fixture(scope="module")
def computes(tiny):
    """The engine by kind and options, loaded once; its cache is shared by all that ask."""

    @cache
    def make(kind: str, **changes):
        folder, model = tiny(kind)
        return load(folder, block_tokens=BLOCK_TOKENS, kv_blocks=KV_BLOCKS, **changes), model

    return make
