"""What tracing costs:  python crates/driftprobe-python/cost.py

Forward passes of a random llama (12 layers, hidden 1024, sdpa, float32, one thread) over 128 tokens and over one more, with and
without a tap in turn; medians of 9.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from driftprobe.huggingface import Tree
from driftprobe.plan import Plan
from driftprobe.record import Recorder
from driftprobe.tap import Tap
from transformers import AutoModelForCausalLM, LlamaConfig

ROUNDS = 9


def seconds(work: Callable[[], Any]) -> float:
    """Of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000, hidden_size=1024, intermediate_size=2816, num_hidden_layers=12, num_attention_heads=16,
        num_key_value_heads=8,
    )  # fmt: skip
    tree = Tree.of(AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval())
    recorder = Recorder(tree, Plan([], [], tree.points(), 1, 0, True, False), "as_designed", [None] * 12)
    ids = torch.randint(0, config.vocab_size, (128,)).tolist()
    for name, layers in (("layers 0,1,2,4,8", (0, 1, 2, 4, 8)), ("all layers", range(12))):
        for phase in ("prefill", "decode"):
            ratios = []
            for _ in range(ROUNDS):
                taken = []
                for tap in (Tap(frozenset(tree.points()), frozenset(layers)), None):
                    cache = recorder.new_cache()
                    fed, rows = (ids, range(127, 128)) if phase == "prefill" else (ids[:1], range(1))
                    if phase == "decode":
                        recorder.forward(ids[1:], cache, range(0))
                    taken.append(seconds(lambda: recorder.forward(fed, cache, rows, tap)))  # noqa: B023
                ratios.append(taken[0] / taken[1])
            print(f"{phase}, {name}: {statistics.median(ratios):.2f} times the untraced pass")


if __name__ == "__main__":
    main()
