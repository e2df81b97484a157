"""What is to be recorded: prompts, layers, points, steps; refused where it does not fit the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

from .errors import Error

DEFAULT_LAYERS = (0, 1, 2, 4, 8)
"""As the program's, where none are named."""
MODES = {"as_designed": ("as_designed",), "kv_aligned": ("kv_aligned",), "both": ("as_designed", "kv_aligned")}
"""What is recorded: the run itself, and what lies inside it in a folder of its mode's name."""
Prompt = Union[str, Sequence[int]]
Prompts = Union[Prompt, Sequence[Prompt], Mapping[str, Prompt]]


@dataclass
class Tokens:
    """One prompt."""

    id: str
    tokens: list[int]
    text: str | None = None

    def described(self, decoded: int = 0) -> dict[str, Any]:
        """As the manifest has it."""
        text = {} if self.text is None else {"text": self.text}
        fed = {"decoded": decoded} if decoded else {}
        return {"id": self.id, **text, "tokens": self.tokens, **fed}


@dataclass
class Plan:
    """What is recorded, of which engine."""

    prompts: list[Tokens]
    layers: list[int]
    points: list[str]
    steps: int
    repeats: int
    payloads: bool
    overwrite: bool
    forced: bool = False
    """Whether the prompts hold the tokens of further steps already."""
    decoded: int = 0
    """How many of the tokens before the traced ones decode feeds one by one, untraced, as where it has generated them."""


def layers_of(asked: str | Iterable[int] | None, count: int) -> list[int]:
    """The layers that were asked for: `all`, numbers separated by commas, or numbers. None: the default ones, as far as the
    model has them.

    Raises:
        Error: if one that was named does not exist.
    """
    hint = f"numbers from 0 to {count - 1} separated by commas, or all"
    if asked is None:
        chosen = [layer for layer in DEFAULT_LAYERS if layer < count]
    elif isinstance(asked, str):
        if asked.strip() == "all":
            return list(range(count))
        try:
            chosen = [int(word) for word in asked.split(",")]
        except ValueError:
            raise Error(f"layers {asked!r} are no numbers", hint) from None
    else:
        chosen = list(asked)
    wrong = [layer for layer in chosen if not 0 <= layer < count]
    if wrong or not chosen:
        raise Error(f"layer {wrong[0]} does not exist" if wrong else "no layer is selected", hint)
    return sorted(set(chosen))


def points_of(asked: str | Iterable[str], offered: list[str]) -> list[str]:
    """The points that were asked for, of those that the model offers.

    Raises:
        Error: if the model does not offer one.
    """
    if asked == "all":
        return offered
    chosen = asked.split(",") if isinstance(asked, str) else list(asked)
    for point in chosen:
        if point not in offered:
            raise Error(f"this model has no point {point!r}", f"all, or some of {', '.join(offered)}")
    if not chosen:
        raise Error("no point is selected", "for instance points='all'")
    return chosen


def prompts_of(prompts: Prompts, tokenizer: Any) -> list[Tokens]:
    """Every prompt with an id of its own and its tokens.

    Raises:
        Error: if there is none, one is empty, or a text comes without a tokenizer.
    """
    if isinstance(prompts, Mapping):
        named = dict(prompts)
    else:
        alone = isinstance(prompts, str) or (len(prompts) > 0 and all(isinstance(token, int) for token in prompts))
        each: Any = [prompts] if alone else prompts
        named = {f"p{number}": prompt for number, prompt in enumerate(each)}
    if not named:
        raise Error("there is no prompt", "give a text, token ids, a list or a dictionary of these")
    return [_tokens(name, prompt, tokenizer) for name, prompt in named.items()]


def _tokens(name: str, prompt: Prompt, tokenizer: Any) -> Tokens:
    if isinstance(prompt, str):
        if tokenizer is None:
            raise Error(f"prompt {name} is a text, and there is no tokenizer", "pass the model's tokenizer, or token ids")
        made = Tokens(name, [int(token) for token in tokenizer(prompt)["input_ids"]], prompt)
    else:
        made = Tokens(name, [int(token) for token in prompt])
    if not made.tokens:
        raise Error(f"prompt {name} has no tokens", "give a prompt of at least one token")
    return made


def check_eval(model: Any) -> None:
    """Refuses a model that draws random numbers.

    Raises:
        Error: if it is in training mode.
    """
    if model.training:
        raise Error("the model is in training mode, in which dropout draws random numbers", "call model.eval()")


def check_prompts(prompts: list[Tokens], steps: int, config: Any, forced: bool = False) -> None:
    """Refuses what the model cannot take.

    Raises:
        Error: for a token outside of the vocabulary, or a sequence longer than the context.
    """
    if steps < 1:
        raise Error(f"{steps} decode steps are to be traced", "trace at least one decode step, for instance steps=1")
    context = getattr(config, "max_position_embeddings", None)
    for prompt in prompts:
        for token in prompt.tokens:
            if not 0 <= token < config.vocab_size:
                what = f"prompt {prompt.id}: token {token} is not in the vocabulary of {config.vocab_size}"
                raise Error(what, "tokenise the prompt with the model's own tokenizer")
        if forced and len(prompt.tokens) < steps:
            what = f"prompt {prompt.id} is to hold {steps} steps and has {len(prompt.tokens)} tokens"
            raise Error(what, "give a token for each step, and trace no more steps than that")
        length = len(prompt.tokens) + (0 if forced else steps - 1)
        if context is not None and length > context:
            what = f"prompt {prompt.id} and its steps take {length} tokens; the model's context is {context}"
            raise Error(what, "take a shorter prompt or fewer steps")
