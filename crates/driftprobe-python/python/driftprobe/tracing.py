"""`driftprobe.trace`: a Hugging Face model goes in, a run on disk comes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from .errors import Error, needed
from .plan import MODES, Plan, Prompts, check_eval, check_prompts, layers_of, points_of, prompts_of


def trace(
    model: Any,
    tokenizer: Any,
    prompts: Prompts,
    *,
    out: str | PathLike[str],
    layers: str | Iterable[int] | None = None,
    points: str | Iterable[str] = "all",
    steps: int = 1,
    mode: str = "as_designed",
    repeats: int = 1,
    payloads: bool = True,
    overwrite: bool = False,
    model_path: str | PathLike[str] | None = None,
    contract: Mapping[str, Any] | None = None,
    forced: bool = False,
    decoded: int = 0,
) -> Path:
    """Records prefill and decode of a Hugging Face causal LM through hooks, which are gone when this returns or raises.

    Every prompt of n tokens is computed twice: by one forward pass over all of it, and by a forward pass over n − 1 tokens into
    a fresh cache followed by one of the last token. Both are repeated `repeats` times, and once without hooks, to see whether
    tracing changes the logits.

    Args:
        model: llama, mistral, qwen2, qwen3 or gemma2, in eval mode, with eager or sdpa attention.
        tokenizer: its tokenizer; None if all prompts are token ids.
        prompts: a text, a list of token ids, a list of either, or a dictionary of them by id.
        out: the run's folder.
        layers: numbers, or a string of them, or `all`. By default 0, 1, 2, 4 and 8, as far as the model has them.
        points: names of points, or `all` that the model offers.
        steps: decode steps to trace; later ones feed the model's own greedy tokens to both phases.
        mode: `as_designed` (decode reads the cache that it built), `kv_aligned` (it reads prefill's rows), or `both`.
        repeats: how often each phase is run again, to see whether it repeats itself bit for bit.
        payloads: whether whole rows are kept; without them no model can judge the run.
        overwrite: replace the run that lies in `out`.
        model_path: where the model's files are, if the model does not know it. The weights' fingerprint is recorded.
        forced: whether the prompts hold the tokens of further steps already, so that the model chooses none.
        decoded: how many of the tokens before the traced ones decode feeds one by one, as where it has generated them; those
            before these it takes by one forward pass.
        contract: the arithmetic that the engine claims, as `manifest.contract`; by default what transformers' source says.

    Returns:
        The run's folder, for `driftprobe.analyze`.

    Raises:
        Error: if something that was asked for does not fit the model, or the run cannot be written.
    """
    for module in ("torch", "transformers"):
        needed(module, "driftprobe.trace")
    from . import provenance
    from .huggingface import Tree
    from .record import Recorder

    if mode not in MODES:
        raise Error(f"there is no mode {mode!r}", f"one of {', '.join(MODES)}")
    tree = Tree.of(model)
    check_eval(model)
    plan = Plan(
        prompts=prompts_of(prompts, tokenizer),
        layers=layers_of(layers, len(tree.layers)),
        points=points_of(points, tree.points()),
        steps=steps,
        repeats=repeats,
        payloads=payloads,
        overwrite=overwrite,
        forced=forced,
        decoded=decoded,
    )
    check_prompts(plan.prompts, steps, model.config, forced)
    base = provenance.describe(tree, model_path)
    if contract is not None:
        base["contract"] = dict(contract)
    windows = provenance.windows_of(model.config)
    Recorder(tree, plan, "as_designed", windows).extend()
    base.update(prompts=[prompt.described(decoded) for prompt in plan.prompts], layers=plan.layers, points=plan.points, steps=steps)
    first, *others = MODES[mode]

    def inside() -> None:
        for other in others:
            Recorder(tree, plan, other, windows).run(Path(out) / other, {**base, "mode": other})

    # The outer run says what lies inside, so that it is missed where it is gone.
    together = {"modes": [first, *others]} if others else {}
    Recorder(tree, plan, first, windows).run(out, {**base, "mode": first, **together}, inside)
    return Path(out)
