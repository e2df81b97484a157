"""`driftprobe cluster run`: every probe of a matrix recorded, each by a task of its own, into its own folder."""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from .._native import __version__
from ..errors import Error
from .child import program
from .fan import Interrupted, Lost, Resources, connected
from .matrix import Matrix, Probe, probes
from .progress import Progress

LIST_FILE = "probes.json"
"""In the folder of all runs: what was to be recorded, so that a run that is missing is missed."""

PARTS_DIR = ".partial"
"""Runs on their way; nobody looks for runs in a hidden folder."""

REFUSED = 2
"""The program's exit status where it could not run; another try would end alike."""


@dataclass
class Recorded:
    """What came of a matrix."""

    folder: Path
    """Where the runs lie."""
    recorded: int = 0
    """Runs recorded by this call."""
    known: int = 0
    """Runs that lay there already."""
    refused: dict[str, str] = field(default_factory=dict)
    """By probe: what the program could not do."""
    lost: dict[str, str] = field(default_factory=dict)
    """By probe: why its task died as often as it was tried."""
    seconds: float = 0.0
    """From the first task to the last."""
    busy_seconds: float = 0.0
    """In the program, all tasks together."""

    @property
    def complete(self) -> bool:
        """Whether every probe was recorded."""
        return not self.refused and not self.lost and self.recorded + self.known > 0


def run(
    matrix: Matrix,
    out: str | PathLike[str],
    address: str = "auto",
    *,
    args: Sequence[str] = (),
    prompts_per_task: int = 1,
    resources: Resources | None = None,
) -> Recorded:
    """Records every probe of a matrix into a folder of its own under `out`, which all nodes must see. What is recorded already
    stays; a killed task leaves nothing half. Relative paths in `args` count from this process's working directory.

    Args:
        matrix: the gate's matrix, or a list of `run` argument lists; see `driftprobe.cluster.probes`.
        out: the folder for all runs.
        address: the cluster: `host:port`, `auto`, or `local`.
        args: further arguments of `driftprobe run` for every probe.
        prompts_per_task: how many of the matrix's prompts one run holds.
        resources: what each task asks for, and how often it is tried.

    Raises:
        Error: if the matrix, the folder or the cluster cannot be used. What single probes met with is in the result.
    """
    wanted = probes(matrix, args, prompts_per_task)
    folder = Path(out).absolute()
    _claim(folder, wanted)
    done = Recorded(folder)
    missing = [probe for probe in wanted if not (folder / probe.name).exists()]
    done.known = len(wanted) - len(missing)
    if not missing:
        return done
    progress = Progress("recorded", len(missing))
    started = time.monotonic()
    resources = resources or Resources()
    with connected(address, resources) as cluster:
        jobs = {p.name: (str(folder), p.name, list(p.args), resources.threads(), os.getcwd()) for p in missing}
        for name, outcome in cluster.fan_out(record, jobs, progress.show):
            progress.done += 1
            _note(done, name, outcome)
    progress.finish()
    done.seconds = time.monotonic() - started
    # Left by tasks that were killed.
    shutil.rmtree(folder / PARTS_DIR, ignore_errors=True)
    return done


def _note(done: Recorded, name: str, outcome: Any) -> None:
    if isinstance(outcome, Lost):
        done.lost[name] = outcome.why
    elif outcome["refused"]:
        done.refused[name] = outcome["refused"]
    elif not (done.folder / name / "manifest.json").is_file():
        done.lost[name] = f"recorded on {outcome['node']}, but not to be seen here: is {done.folder} shared by all nodes?"
    else:
        done.recorded += 1
        done.busy_seconds += outcome["seconds"]


def _claim(folder: Path, wanted: Sequence[Probe]) -> None:
    """Writes down what is to be recorded, before any of it is."""
    listed = [{"name": p.name, "args": list(p.args), "prompts": list(p.prompts)} for p in wanted]
    listing = folder / LIST_FILE
    if (known := listing_of(folder)) is not None:
        if known != listed:
            raise Error(f"{folder} holds the runs of another matrix", "name a new folder, or delete that one")
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{LIST_FILE}.{uuid.uuid4().hex}"
        part.write_text(json.dumps({"generator": f"driftprobe {__version__}", "probes": listed}, indent=1) + "\n")
        part.replace(listing)
    except OSError as e:
        raise Error(f"{folder} cannot be written: {e}", "name a folder that this machine and all nodes can write") from e


def listing_of(folder: Path) -> list[dict[str, Any]] | None:
    """What was to be recorded into a folder; None if nobody said."""
    path = folder / LIST_FILE
    if not path.is_file():
        return None
    try:
        listed = json.loads(path.read_text())["probes"]
        if all(isinstance(p["name"], str) and isinstance(p["prompts"], list) for p in listed) and listed:
            return list(listed)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise Error(f"{path} does not say what was to be recorded", "record the matrix again, into a new folder")


def record(folder: str, name: str, args: list[str], threads: int, cwd: str) -> dict[str, Any]:
    """A task: records one probe under another name and then renames it."""
    import socket

    started = time.monotonic()
    outcome: dict[str, Any] = {"node": socket.gethostname(), "refused": None, "seconds": 0.0}
    final = Path(folder) / name
    for needed_there, why in ((Path(folder) / LIST_FILE, "--out"), (Path(cwd), "the working directory")):
        if not needed_there.exists():
            return {**outcome, "refused": f"node {outcome['node']} does not see {needed_there}: {why} must be shared"}
    part = Path(folder) / PARTS_DIR / f"{name}-{uuid.uuid4().hex}"
    words = ["run", *args, "--record-only", "--out", str(part)]
    if not any(word.split("=")[0] == "--threads" for word in args):
        words += ["--threads", str(threads)]
    try:
        if final.exists():
            return outcome
        part.parent.mkdir(exist_ok=True)
        done = program(words, {"RAYON_NUM_THREADS": str(threads)}, cwd)
        if done.status == REFUSED:
            return {**outcome, "refused": done.err.strip()}
        if done.status != 0:
            raise Interrupted(f"exit status {done.status}: {done.err.strip()[-500:]}")
        if not (part / "manifest.json").is_file():
            return {**outcome, "refused": "it recorded no run of its own: leave out --shard and --sweep"}
        _rename(part, final)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return {**outcome, "seconds": time.monotonic() - started}


def _rename(part: Path, final: Path) -> None:
    try:
        part.rename(final)
    except OSError:
        # Another try of the same task, thought dead, was there first: one whole run is as good as the other.
        if not (final / "manifest.json").is_file():
            raise
