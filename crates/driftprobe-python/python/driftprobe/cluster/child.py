"""The program as a child of the process that asks for it: it ends when that does, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

START = "from driftprobe.cluster.child import serve; serve()"
"""What the child's interpreter is told to do."""

KEPT_BYTES = 4000
"""Of what a task's program says, as much from the end is worth keeping."""


@dataclass(frozen=True)
class Done:
    """A program that has ended."""

    status: int
    """Its exit status; below zero: the signal that ended it."""
    out: str
    """What it printed, or the end of it."""
    err: str
    """What it had to say besides, or the end of it."""


def program(
    words: Sequence[str], environment: Mapping[str, str], folder: str | None = None, kept: int | None = KEPT_BYTES
) -> Done:
    """Runs the command line `driftprobe WORDS` in `folder`, with these variables on top of this process's. Of what it prints
    the last `kept` bytes are returned; None: all."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        command = [sys.executable, "-c", START, *words]
        env = {**os.environ, **environment}
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=err, cwd=folder, env=env) as child:
            try:
                # Not `communicate`, which would close the pipe whose end tells the child that nobody waits for it.
                status = child.wait()
            except BaseException:
                child.kill()
                raise
        texts = []
        for file in (out, err):
            size = file.seek(0, os.SEEK_END)
            file.seek(0 if kept is None else max(0, size - kept))
            texts.append(file.read().decode(errors="replace"))
    return Done(status, *texts)


def serve() -> None:
    """The child's half: runs the program, and dies where standard input ends first."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    from .._native import main

    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Without the interpreter's farewell, which would wait for the thread that still reads.
    os._exit(status)


def _die_with_parent() -> None:
    # Nothing is ever written into it: it ends when the parent has ended, by whatever signal.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGKILL)
