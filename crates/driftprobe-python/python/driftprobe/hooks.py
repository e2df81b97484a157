"""Hooks and wrappers that are there while a forward pass is traced, and gone afterwards, whatever happens."""

from __future__ import annotations

import functools
from collections.abc import Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any, Callable

from .tap import Tap


def first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a module is fed."""
    if args:
        return args[0]
    return kwargs["hidden_states"] if "hidden_states" in kwargs else next(iter(kwargs.values()))


def first(out: Any) -> Any:
    """What a module gives, without what it gives besides."""
    return out[0] if isinstance(out, tuple) else out


def before(module: Any, tap: Tap, point: str) -> Any:
    """Takes what enters a module, and returns the hook's handle. So too below."""
    return module.register_forward_pre_hook(
        lambda _, args, kwargs: tap.take(point, first_input(args, kwargs)), with_kwargs=True
    )


def after(module: Any, tap: Tap, point: str, shape: Callable[[Any], Any] = first) -> Any:
    """Takes what leaves a module, as `shape` makes it a tensor [batch, tokens, …]."""
    return module.register_forward_hook(lambda _, __, out: tap.take(point, shape(out)))


@contextmanager
def hooked(handles: Iterator[Any]) -> Iterator[None]:
    """Hooks for a while. Those that are there already when another cannot be made are removed too."""
    with ExitStack() as stack:
        for handle in handles:
            stack.callback(handle.remove)
        yield


@contextmanager
def replaced(names: MutableMapping[str, Any], name: str, wrapper: Callable[[Any], Any]) -> Iterator[None]:
    """Another value under a name, for a while: what `wrapper` makes of the one that is there."""
    original = names[name]
    names[name] = functools.wraps(original)(wrapper(original))
    try:
        yield
    finally:
        names[name] = original


@contextmanager
def overridden(functions: Any, name: str, wrapper: Callable[[Any], Any]) -> Iterator[None]:
    """The same for transformers' table of attention functions, whose own entries come before those of its class."""
    own = functions._local_mapping
    had = name in own
    original = functions[name]
    own[name] = functools.wraps(original)(wrapper(original))
    try:
        yield
    finally:
        if had:
            own[name] = original
        else:
            del own[name]
