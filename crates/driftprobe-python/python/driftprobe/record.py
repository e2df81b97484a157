"""Records both phases of every prompt, with repeats, and what tracing does to the logits."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import Any, Callable

from . import kv
from ._native import Writer
from .errors import Error
from .huggingface import Tree
from .plan import Plan, Tokens
from .tap import LAYERED, Tap

DTYPES = {"float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def dtype_of(dtype: Any) -> str:
    """A torch dtype as an event spells it.

    Raises:
        Error: if rows of it cannot be held.
    """
    name = str(dtype).split(".")[-1]
    if name not in DTYPES:
        raise Error(f"values of {dtype} cannot be recorded", f"one of {', '.join(DTYPES)}")
    return DTYPES[name]


def logits_of(model: Any, tokens: list[int], cache: Any) -> Any:
    """One forward pass over tokens behind what the cache holds: logits [1, tokens, vocab]."""
    import torch

    ids = torch.tensor([tokens], device=model.device)
    with torch.no_grad():
        return model(input_ids=ids, past_key_values=cache, use_cache=True).logits


def rows_of(logits: Any, rows: range) -> Any:
    """Some rows of logits, copied to the CPU."""
    return logits[0, rows.start : rows.stop].detach().to(device="cpu", copy=True)


@dataclass
class Compared:
    """Logits of a phase that was traced against those of the same phase untraced."""

    rows: int = 0
    equal: int = 0
    max_abs: float | None = 0.0

    def add(self, traced: Any, untraced: Any) -> None:
        """Adds rows [rows, vocab]. Rows that one side lacks count, and are not equal."""
        import torch

        count = max(len(traced), len(untraced))
        both = min(len(traced), len(untraced))
        self.rows += count
        for a, b in zip(traced[:both], untraced[:both]):
            self.equal += int(torch.equal(a.view(torch.uint8), b.view(torch.uint8)))
        same = traced[:both].view(torch.uint8).equal(untraced[:both].view(torch.uint8))
        largest = 0.0 if same else float((traced[:both].double() - untraced[:both].double()).abs().max())
        finite = math.isfinite(largest)
        # What was not finite stays so.
        self.max_abs = max(self.max_abs, largest) if finite and self.max_abs is not None else None

    def described(self) -> dict[str, Any]:
        """As the manifest has it."""
        return {"rows": self.rows, "equal": self.equal, "max_abs": self.max_abs}


@dataclass
class Recorder:
    """Runs a model by its own code; `plan` and `windows` say what is recorded of it."""

    tree: Tree
    plan: Plan
    mode: str
    windows: list[int | None]
    """Each layer's sliding window."""
    new_cache: Callable[[], Any] = kv.new_cache
    observer: dict[str, Compared] = field(default_factory=lambda: {"prefill": Compared(), "decode": Compared()})

    def forward(self, tokens: list[int], cache: Any, rows: range, tap: Tap | None = None) -> Any:
        """One forward pass: the logits of these rows. With a tap, what it sees of them too."""
        if tap is None:
            return rows_of(logits_of(self.tree.model, tokens, cache), rows)
        tap.open(rows)
        with self.tree.tapped(tap):
            logits = logits_of(self.tree.model, tokens, cache)
        tap.take("logits", logits)
        return rows_of(logits, rows)

    def extend(self) -> None:
        """Appends to each prompt the tokens of the further steps, which the model itself chooses, unless they are given."""
        if self.plan.forced:
            return
        for prompt in self.plan.prompts:
            cache, fed = self.new_cache(), prompt.tokens
            for _ in range(1, self.plan.steps):
                logits = self.forward(fed, cache, range(len(fed) - 1, len(fed)))
                fed = [int(logits[-1].float().argmax())]
                prompt.tokens = prompt.tokens + fed

    def run(self, out: str | PathLike[str], manifest: dict[str, Any], inside: Callable[[], None] = lambda: None) -> None:
        """Records the run in `out`, and its repeats in there; `inside` records what else lies in there. `complete` is written
        last, when all of that has ended too.

        Raises:
            Error: if the run cannot be written, or the model does not work as its family does. What was written is marked
                incomplete then, whatever it was that was raised.
        """
        folder = fspath(out)
        manifest = {**manifest, "repeats": self.plan.repeats or None}
        writer = Writer(folder, json.dumps(manifest), self.plan.overwrite)
        try:
            self._once(writer, repeat=0)
            observer = {phase: compared.described() for phase, compared in self.observer.items()}
            writer.describe(json.dumps({**manifest, "observer": observer}))
            for repeat in range(1, self.plan.repeats + 1):
                # A repeat has no other modes inside, and no repeats.
                described = {**manifest, "modes": None, "repeat": repeat, "repeats": None}
                self._repeat(f"{folder}/repeat-{repeat}", described, repeat)
            inside()
        except BaseException:
            writer.finish(False)
            raise
        writer.finish(True)

    def _repeat(self, folder: str, manifest: dict[str, Any], repeat: int) -> None:
        writer = Writer(folder, json.dumps(manifest), True)
        try:
            self._once(writer, repeat)
        except BaseException:
            writer.finish(False)
            raise
        writer.finish(True)

    def _once(self, writer: Writer, repeat: int) -> None:
        for prompt in self.plan.prompts:
            first = len(prompt.tokens) - self.plan.steps
            tap = Tap(frozenset(self.plan.points), frozenset(self.plan.layers))
            prefilled = self.new_cache()
            rows = range(first, len(prompt.tokens))
            writer.begin(prompt.id, "prefill")
            of_prefill = self.forward(prompt.tokens, prefilled, rows, tap)
            for at, pos in enumerate(rows):
                self._write(writer, tap, (prompt, 0, len(prompt.tokens)), (at, pos))
            writer.begin(prompt.id, "decode")
            of_decode = self.decode(prompt, prefilled, tap, writer)
            if repeat == 0:
                self.observer["prefill"].add(of_prefill, self.forward(prompt.tokens, self.new_cache(), rows))
                self.observer["decode"].add(of_decode, self.decode(prompt, prefilled, None, None))

    def decode(self, prompt: Tokens, prefilled: Any, tap: Tap | None, writer: Writer | None) -> Any:
        """Decode's steps, and their logits [steps, vocab]. Its cache is filled untraced: by a prefill, and by decode itself as far
        as the plan says so."""
        import torch

        first = len(prompt.tokens) - self.plan.steps
        whole, cache = max(0, first - self.plan.decoded), self.new_cache()
        if whole > 0:
            self.forward(prompt.tokens[:whole], cache, range(0))
        for token in prompt.tokens[whole:first]:
            self.forward([token], cache, range(0))
        own, logits = 0, []
        for pos in range(first, len(prompt.tokens)):
            if self.mode == "kv_aligned":
                kv.align(cache, prefilled, range(own, pos))
                own = pos
            logits.append(self.forward(prompt.tokens[pos : pos + 1], cache, range(1), tap))
            if tap is not None and writer is not None:
                self._write(writer, tap, (prompt, pos - first + 1, 1), (0, pos))
        return torch.cat(logits)

    def _write(self, writer: Writer, tap: Tap, of: tuple[Tokens, int, int], row: tuple[int, int]) -> None:
        import torch

        (prompt, step, seq_len), (at, pos) = of, row
        for layer, point in tap.seen:
            value = tap.row(layer, point, at, pos)
            window = self.windows[layer] if LAYERED[point] else None
            keys = min(pos + 1, window or pos + 1)
            place = (step, pos, prompt.tokens[pos], seq_len, keys)
            data = value.reshape(-1).view(torch.uint8).numpy().tobytes()
            writer.row((point, layer), place, (dtype_of(value.dtype), list(value.shape), data), self.plan.payloads)
