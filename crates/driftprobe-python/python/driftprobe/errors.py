"""What is raised when something cannot be done."""

from __future__ import annotations

import importlib
from typing import Any


class Error(Exception):
    """What was the matter, and what may help."""

    def __init__(self, what: str, hint: str | None = None) -> None:
        super().__init__(what if hint is None else f"{what}\nhint: {hint}")
        self.what = what
        self.hint = hint


def needed(module: str, why: str) -> Any:
    """Imports a package that only some functions need.

    Raises:
        Error: if it is not installed, with what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise Error(f"{why} needs {module}, which cannot be imported: {e}", f"pip install {module}") from e
