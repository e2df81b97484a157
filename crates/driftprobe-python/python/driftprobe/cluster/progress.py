"""How far work on a cluster is: one line on a terminal, nothing in a pipe."""

from __future__ import annotations

import os
import sys
import time

from .fan import Nodes

REST_SECONDS = 0.8
"""Between two lines for whoever follows from elsewhere."""


class Progress:
    """Counts pieces of work of one kind."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self.started = time.monotonic()
        self.lines = os.environ.get("DRIFTPROBE_PROGRESS") == "lines"
        self.told = self.started

    def show(self, running: int, nodes: Nodes) -> None:
        """Says it, where somebody listens."""
        if not (self.lines or sys.stderr.isatty()):
            return
        elapsed = time.monotonic() - self.started
        text = f"{self.what} {self.done} of {self.total} · {self.done / max(elapsed, 1e-9):.1f}/s · "
        text += f"{min(running, nodes.slots)} tasks on {nodes.alive} nodes"
        if nodes.dead:
            text += f", {nodes.dead} lost"
        if not self.lines:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self.told >= REST_SECONDS:
            self.told = time.monotonic()
            print(f"progress: {100 * self.done // max(self.total, 1)}% {text}", file=sys.stderr, flush=True)

    def finish(self) -> None:
        """Takes the line off the terminal."""
        if sys.stderr.isatty() and not self.lines:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
