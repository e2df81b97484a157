"""Models and faults that the tests share: those of the repository's fixtures, which are written by transformers itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[3] / "fixtures"))

import pytest
import torch
from tracing import models
from tracing.record import Gate
from transformers import AutoModelForCausalLM, MistralConfig
from transformers.utils import logging

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
PROMPTS = {"short": [1, 17, 99, 4, 62], "long": [1, *range(20, 59)]}
"""The long one is longer than gemma's and mistral's sliding window of 16."""
logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(1)


class Models:
    """Folders of small models with weights like trained ones, and the models in them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        models.write(root)
        self._mistral()

    def _mistral(self) -> None:
        """llama's weights under mistral's name, with a sliding window."""
        llama = AutoModelForCausalLM.from_pretrained(self.root / "llama")
        config = MistralConfig(**models.BASE, head_dim=16, sliding_window=16, tie_word_embeddings=False)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.load_state_dict(llama.state_dict())
        model.save_pretrained(self.root / "mistral")

    def load(self, family: str, dtype: str = "bf16", attention: str = "eager") -> Any:
        """A model as a user loads it."""
        folder = self.root / family
        return AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype], attn_implementation=attention).eval()


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The models."""
    return Models(tmp_path_factory.mktemp("models"))


@contextmanager
def gated(model: Any, gate: Gate) -> Iterator[None]:
    """Lets a fault's gate know in which layer, and in how many tokens, the computation is."""

    def fed(_: Any, args: Any, kwargs: Any) -> None:
        gate.tokens, gate.layer = kwargs["input_ids"].shape[1], -1

    def entered(number: int) -> Any:
        return lambda _, __: setattr(gate, "layer", number)

    with ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(fed, with_kwargs=True).remove)
        for number, layer in enumerate(model.model.layers):
            stack.callback(layer.register_forward_pre_hook(entered(number)).remove)
            stack.callback(layer.register_forward_hook(lambda *_: setattr(gate, "layer", -1)).remove)
        yield
