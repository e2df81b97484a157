"""`driftprobe cluster run`: every probe of a matrix recorded, each by a task of its own, into its own folder."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._native import __version__
from ..errors import Error
from .child import program
from .fan import Interrupted, Lost, Resources, connected
from .matrix import Matrix, Probe, probes
from .progress import Progress
from .s3 import Unavailable
from .storage import MANIFEST_FILE, PROBES_FILE, S3, Address, Place, Where, listing_of

REFUSED = 2
"""The program's exit status where it could not run; another try would end alike."""


@dataclass
class Recorded:
    """What came of a matrix."""

    folder: Path | str
    """Where the runs lie; a place that is no folder as text."""
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
    out: Address,
    address: str = "auto",
    *,
    args: Sequence[str] = (),
    prompts_per_task: int = 1,
    resources: Resources | None = None,
    s3: S3 | None = None,
) -> Recorded:
    """Records every probe of a matrix into a folder of its own under `out`. What is recorded already stays; what a killed task
    leaves is no run. Relative paths in `args` count from this process's working directory.

    Args:
        matrix: the gate's matrix, or a list of `run` argument lists; see `driftprobe.cluster.probes`.
        out: the folder for all runs, which all nodes must see; or s3://bucket/prefix.
        address: the cluster: `host:port`, `auto`, or `local`.
        args: further arguments of `driftprobe run` for every probe.
        prompts_per_task: how many of the matrix's prompts one run holds.
        resources: what each task asks for, and how often it is tried.
        s3: how storage is reached that is no folder.

    Raises:
        Error: if the matrix, the folder or the cluster cannot be used. What single probes met with is in the result.
    """
    wanted = probes(matrix, args, prompts_per_task)
    where = Where.at(out, s3)
    place = where.open()
    _claim(place, wanted)
    done = Recorded(Path(where.address) if place.shared else where.address)
    there = place.recorded([probe.name for probe in wanted])
    missing = [probe for probe in wanted if probe.name not in there]
    done.known = len(there)
    if not missing:
        return done
    progress = Progress("recorded", len(missing))
    started = time.monotonic()
    resources = resources or Resources()
    with connected(address, resources) as cluster:
        jobs = {p.name: (where, p.name, list(p.args), resources.threads(), os.getcwd()) for p in missing}
        for name, outcome in cluster.fan_out(record, jobs, progress.show):
            progress.done += 1
            _note(done, place, name, outcome)
    progress.finish()
    done.seconds = time.monotonic() - started
    place.sweep()
    return done


def _note(done: Recorded, place: Place, name: str, outcome: Any) -> None:
    if isinstance(outcome, Lost):
        done.lost[name] = outcome.why
    elif outcome["refused"]:
        done.refused[name] = outcome["refused"]
    elif not place.recorded([name]):
        done.lost[name] = f"recorded on {outcome['node']}, but not to be seen here: do all nodes see the same {done.folder}?"
    else:
        done.recorded += 1
        done.busy_seconds += outcome["seconds"]


def _claim(place: Place, wanted: Sequence[Probe]) -> None:
    """Writes down what is to be recorded, before any of it is."""
    listed = [{"name": p.name, "args": list(p.args), "prompts": list(p.prompts)} for p in wanted]
    if (known := listing_of(place)) is not None:
        if known != listed:
            raise Error(f"{place.inner('')} holds the runs of another matrix", "name a new folder, or delete that one")
        return
    place.prepare()
    text = json.dumps({"generator": f"driftprobe {__version__}", "probes": listed}, indent=1) + "\n"
    place.write(PROBES_FILE, text.encode())


def record(where: Where, name: str, args: list[str], threads: int, cwd: str) -> dict[str, Any]:
    """A task: records one probe where nobody looks for runs, and then puts it where they do."""
    started = time.monotonic()
    outcome: dict[str, Any] = {"node": socket.gethostname(), "refused": None, "seconds": 0.0}
    try:
        place = where.open()
        if place.read(PROBES_FILE) is None:
            what = f"does not see {place.inner(PROBES_FILE)}: --out must be the same on all nodes"
            return {**outcome, "refused": f"node {outcome['node']} {what}"}
        if refused := unseen_directory(cwd, [place]):
            return {**outcome, "refused": refused}
        if not place.recorded([name]):
            outcome["refused"] = _record(place, name, args, threads, cwd)
            outcome["seconds"] = time.monotonic() - started
    except Unavailable as e:
        raise Interrupted(f"node {outcome['node']}: {e}") from e
    except Error as e:
        outcome["refused"] = f"node {outcome['node']}: {e}"
    return outcome


def _record(place: Place, name: str, args: list[str], threads: int, cwd: str) -> str | None:
    """Records a probe; what the program could not do, in its own words."""
    with place.recording(name) as part:
        words = ["run", *args, "--record-only", "--out", str(part)]
        if not any(word.split("=")[0] == "--threads" for word in args):
            words += ["--threads", str(threads)]
        done = program(words, {"RAYON_NUM_THREADS": str(threads)}, cwd if Path(cwd).is_dir() else None)
        if done.status == REFUSED:
            return done.err.strip()
        if done.status != 0:
            raise Interrupted(f"exit status {done.status}: {done.err.strip()[-500:]}")
        if not (part / MANIFEST_FILE).is_file():
            return "it recorded no run of its own: leave out --shard and --sweep"
        place.keep(part, name)
    return None


def unseen_directory(cwd: str, places: Sequence[Place]) -> str | None:
    """Why a task cannot stand where the driver does; None: it can, or nothing that is shared asks for it."""
    if Path(cwd).is_dir() or not any(place.shared for place in places):
        return None
    return f"node {socket.gethostname()} does not see {cwd}: the working directory must be shared"
