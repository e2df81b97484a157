"""`driftprobe.logprobs`: whole generations, scored by decode as they come and by prefill afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

from . import _native, kv
from .errors import Error, needed
from .mismatch import Mismatch, Token
from .plan import Prompts, Tokens, check_eval, check_prompts, prompts_of
from .record import logits_of, rows_of
from .tracing import trace

PRESETS = ("sglang-kl", "sglang-kl-invariant")


def logprobs(
    model: Any,
    tokenizer: Any,
    prompts: Prompts,
    tokens: int = 64,
    *,
    out: str | PathLike[str],
    temperature: float = 0.0,
    seed: int = 1,
    max_mean_abs: float | None = None,
    max_ratio: float | None = None,
    max_k3: float | None = None,
    preset: str | Iterable[str] = (),
    trace_worst: int = 0,
    layers: str | Iterable[int] = "all",
    overwrite: bool = False,
    model_path: str | PathLike[str] | None = None,
) -> Mismatch:
    """Generates by decode, scores each token as it comes, and scores all of them again by one forward pass.

    Writes prefill.jsonl and decode.jsonl into `out`, a token a line, and the report into report/ there. Decode feeds the
    prompt's last token too, so that every score is decode's.

    Args:
        model: a Hugging Face causal LM in eval mode; those that `trace` takes, if tokens are to be traced.
        tokenizer: its tokenizer; None if all prompts are token ids.
        prompts: a text, a list of token ids, a list of either, or a dictionary of them by id.
        tokens: how many to generate behind each prompt; a token that ends a text does not end them.
        out: the folder.
        temperature: 0 for the likeliest token each time; otherwise tokens are drawn. Scores are those at temperature 1.
        seed: of the draws.
        max_mean_abs: FAIL if the mean of abs(Δ) is larger.
        max_ratio: FAIL if a token's e^Δ is above it or below its inverse.
        max_k3: FAIL if the mean of e^Δ − 1 − Δ is larger.
        preset: limits that others use: `sglang-kl`, `sglang-kl-invariant`.
        trace_worst: how many of the worst tokens to trace and judge, as `trace` and `analyze` do.
        layers: of the traces, as for `trace`.
        overwrite: replace what lies in `out`.
        model_path: as for `trace`.

    Raises:
        Error: if something that was asked for does not fit the model, or nothing can be written.
    """
    for module in ("torch", "transformers"):
        needed(module, "driftprobe.logprobs")
    check_eval(model)
    named = prompts_of(prompts, tokenizer)
    if tokens < 1 or not temperature >= 0:
        raise Error(f"{tokens} tokens at temperature {temperature} cannot be generated", "at least one token, from temperature 0 on")
    check_prompts(named, tokens, model.config)
    presets = [preset] if isinstance(preset, str) else list(preset)
    if wrong := [name for name in presets if name not in PRESETS]:
        raise Error(f"there is no preset {wrong[0]!r} of log-probabilities", f"one of {', '.join(PRESETS)}")
    folder = Path(out)
    files = {phase: folder / f"{phase}.jsonl" for phase in ("prefill", "decode")}
    if files["prefill"].exists() and not overwrite:
        raise Error(f"{files['prefill']} lies there already", "name another folder, or overwrite=True")
    lengths = {prompt.id: len(prompt.tokens) for prompt in named}
    lines: dict[str, list[str]] = {"prefill": [], "decode": []}
    draw = _Draw(temperature, seed)
    for prompt in named:
        of_decode = _generate(model, prompt, tokens, draw)
        scores = {"decode": of_decode, "prefill": _score(model, prompt.tokens, lengths[prompt.id])}
        for phase, values in scores.items():
            lines[phase] += _lines(prompt, lengths[prompt.id], values, phase)
    # Written when all is there: a file that was cut short would look whole.
    folder.mkdir(parents=True, exist_ok=True)
    for phase, file in files.items():
        file.write_text("".join(lines[phase]), encoding="utf-8")
    limits = (max_mean_abs, max_ratio, max_k3, presets)
    engine = f"transformers {needed('transformers', 'driftprobe.logprobs').__version__}, {type(model).__name__}, {model.dtype}"

    def judged(traced: list[tuple[str, int, Path]], report: Path | None) -> Mismatch:
        known = (engine, draw.says(tokens), traced)
        texts = _native.logprobs(files["prefill"], files["decode"], limits, known, report)
        return Mismatch.parse(json.loads(texts[0]), texts, folder)

    by_id = {prompt.id: prompt.tokens[:-1] for prompt in named}
    traced: list[tuple[str, int, Path]] = []

    def recorded(worst: Token, fed: int, run: Path) -> bool:
        """Records the first `fed` tokens, with a step for each from the one before the worst on; whether that shows its Δ."""
        trace(
            model, None, {worst.sequence: by_id[worst.sequence][:fed]}, out=run, layers=layers, repeats=0, overwrite=overwrite,
            model_path=model_path, steps=fed + 1 - worst.index, forced=True, decoded=worst.index - lengths[worst.sequence],
        )  # fmt: skip
        return _native.shows_delta(run, worst.token_id, worst.delta)

    for number, worst in enumerate(judged([], None).worst[:trace_worst], start=1):
        run, whole, scored = folder / f"worst-{number}", folder / f"worst-{number}-whole", len(by_id[worst.sequence])
        shown = recorded(worst, worst.index, run)
        # Kernels may treat a row otherwise where more tokens follow it.
        if not shown and worst.index < scored and recorded(worst, scored, whole):
            run = whole
        traced.append((worst.sequence, worst.index, run))
    return judged(traced, folder / "report")


class _Draw:
    """How tokens are chosen."""

    def __init__(self, temperature: float, seed: int) -> None:
        import torch

        self.temperature, self.seed = temperature, seed
        self.generator = torch.Generator().manual_seed(seed)

    def says(self, tokens: int) -> str:
        """In words."""
        if self.temperature == 0:
            return f"{tokens} behind each prompt, the likeliest each time"
        drawn = f"drawn at temperature {self.temperature:g} with seed {self.seed}"
        return f"{tokens} behind each prompt, {drawn}; log-probabilities are those at temperature 1"

    def __call__(self, logits: Any) -> int:
        import torch

        if self.temperature == 0 or not bool(torch.isfinite(logits).any()):
            return int(logits.float().argmax())
        weights = torch.softmax(logits.double() / self.temperature, dim=-1)
        # What is no number chooses nothing, and shows in the scores.
        if not bool(torch.isfinite(weights).all()):
            return int(logits.float().argmax())
        return int(torch.multinomial(weights, 1, generator=self.generator))


def _generate(model: Any, prompt: Tokens, count: int, draw: _Draw) -> list[float]:
    """Appends tokens to the prompt; decode's scores of them."""
    cache, before = kv.new_cache(), prompt.tokens[:-1]
    if before:
        logits_of(model, before, cache)
    scores = []
    for _ in range(count):
        logits = rows_of(logits_of(model, prompt.tokens[-1:], cache), range(1))[0]
        token = draw(logits)
        scores.append(float(logits.double().log_softmax(-1)[token]))
        prompt.tokens = [*prompt.tokens, token]
    return scores


def _score(model: Any, tokens: list[int], first: int) -> list[float]:
    """Prefill's scores of the tokens from `first` on, by one forward pass."""
    fed = tokens[:-1]
    rows = rows_of(logits_of(model, fed, kv.new_cache()), range(first - 1, len(fed)))
    return [float(row.double().log_softmax(-1)[token]) for row, token in zip(rows, tokens[first:])]


def _lines(prompt: Tokens, first: int, scores: list[float], phase: str) -> list[str]:
    def line(index: int, score: float) -> str:
        entry = {"sequence": prompt.id, "index": index, "token_id": prompt.tokens[index], "logprob": score, "phase": phase}
        return json.dumps(entry) + "\n"

    return [line(index, score) for index, score in enumerate(scores, start=first)]
