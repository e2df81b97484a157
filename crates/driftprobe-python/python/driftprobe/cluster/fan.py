"""Many tasks on a Ray cluster: bounded in flight, run again where a worker or a node dies, never silently dropped."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..errors import Error, needed

WAIT_SECONDS = 0.5
"""How long the driver waits for a task before it shows how far things are."""

CONNECT_SECONDS = 10
"""How long an address may take to answer."""

IN_FLIGHT = 2
"""Tasks handed to the cluster for each one that it can run at once."""


class Interrupted(Exception):
    """A task's program was ended from outside or crashed; the task is worth another try."""


@dataclass(frozen=True)
class Resources:
    """What a task asks for, and how often it is tried."""

    num_cpus: float = 1
    """Cores a task; threads of its program too."""
    num_gpus: float = 0
    """Accelerators a task."""
    retries: int = 5
    """How often a task is run again whose worker, node or program died."""

    def threads(self) -> int:
        """Threads of one task's program."""
        return max(1, int(self.num_cpus))


@dataclass(frozen=True)
class Lost:
    """A task that died as often as it was tried."""

    why: str


@dataclass(frozen=True)
class Nodes:
    """The cluster's nodes."""

    alive: int
    dead: int
    slots: int
    """Tasks that fit at once."""


Tick = Callable[[int, Nodes], None]
"""What is told how many tasks are with the cluster, and of its nodes, twice a second."""


class Cluster:
    """A connection to a cluster."""

    def __init__(self, ray: Any, resources: Resources) -> None:
        self.ray = ray
        self.resources = resources
        # A cluster remembers its dead for long; only those of this work are this work's.
        self._buried = {node["NodeID"] for node in ray.nodes() if not node["Alive"]}

    def nodes(self) -> Nodes:
        """How things stand."""
        alive = slots = dead = 0
        for node in self.ray.nodes():
            if not node["Alive"]:
                dead += node["NodeID"] not in self._buried
                continue
            alive += 1
            offered = node["Resources"]
            wanted = {"CPU": self.resources.num_cpus, "GPU": self.resources.num_gpus}
            slots += int(min((offered.get(key, 0) // count for key, count in wanted.items() if count > 0), default=1))
        return Nodes(alive, dead, slots)

    def fan_out(
        self, work: Callable[..., Any], jobs: Mapping[str, tuple[Any, ...]], tick: Tick
    ) -> Iterator[tuple[str, Any | Lost]]:
        """Runs `work(*jobs[name])` for every job and yields each name with what came of it, as they end.

        Raises:
            Error: if no node can run such a task, or a task cannot be run at all.
        """
        self._check()
        asked = self.resources
        options = {"num_cpus": asked.num_cpus, "num_gpus": asked.num_gpus, "scheduling_strategy": "SPREAD"}
        options |= {"max_retries": asked.retries, "retry_exceptions": [Interrupted]}
        remote = self.ray.remote(work)
        waiting = iter(jobs.items())
        running: dict[Any, str] = {}
        try:
            while True:
                nodes = self.nodes()
                while len(running) < max(1, IN_FLIGHT * nodes.slots):
                    job = next(waiting, None)
                    if job is None:
                        break
                    running[remote.options(**options, name=job[0]).remote(*job[1])] = job[0]
                if not running:
                    return
                ready, _ = self.ray.wait(list(running), timeout=WAIT_SECONDS)
                tick(len(running), nodes)
                for ref in ready:
                    yield running.pop(ref), self._result(ref)
        finally:
            for ref in running:
                self.ray.cancel(ref, force=True)

    def _check(self) -> None:
        if self.nodes().slots > 0:
            return
        asked = f"CPU: {self.resources.num_cpus:g}, GPU: {self.resources.num_gpus:g}"
        raise Error(f"no node of the cluster offers what a task asks for ({asked})", "ask for less, or start a node that does")

    def _result(self, ref: Any) -> Any:
        exceptions = self.ray.exceptions
        try:
            return self.ray.get(ref)
        except Interrupted as e:
            return Lost(str(e))
        except exceptions.RayTaskError as e:
            cause = getattr(e, "cause", None)
            if isinstance(cause, Error):
                raise cause from e
            hint = "install this version of driftprobe[ray] on every node, and look at the node's own log"
            raise Error(f"a task cannot be run: {cause or e}", hint) from e
        except exceptions.RayError as e:
            return Lost(str(e).strip().split("\n", 1)[0])


@contextmanager
def connected(address: str, resources: Resources) -> Iterator[Cluster]:
    """A connection to the cluster at `address`: `host:port`, `ray://host:port`, `auto` (the one that runs on this machine), or
    `local` (one that is started here, for trying). A process that is connected already stays so.

    Raises:
        Error: if there is no Ray, or no cluster at that address.
    """
    ray = needed("ray", "driftprobe.cluster")
    ours = not ray.is_initialized()
    hint = "start one with `ray start --head`, or try this machine alone with --address local"
    if ours:
        _reach(address, hint)
        small = {"include_dashboard": False, "object_store_memory": 100 << 20} if address == "local" else {}
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error", **small)
        except (ConnectionError, RuntimeError, ValueError) as e:
            raise Error(f"no Ray cluster at {address}: {e}", hint) from e
    try:
        yield Cluster(ray, resources)
    finally:
        if ours:
            ray.shutdown()


def _reach(address: str, hint: str) -> None:
    """Refuses an address where nobody listens: Ray itself would go on trying for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as e:
        raise Error(f"no Ray cluster at {address}: {e}", hint) from e
