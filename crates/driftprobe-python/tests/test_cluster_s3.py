"""A real Ray cluster and a real S3 server: the same bytes as with a folder, whoever is killed; and nothing missing that passes.

Run by .ci/cluster.sh, without the conftest of the other tests, which needs torch.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("ray")
pytest.importorskip("boto3")
pytest.importorskip("moto.server")
from ray.cluster_utils import Cluster
from ray_nodes import (
    LONG,
    REPORTS,
    SMALL,
    UNSIMULATED,
    doomed_node,
    driftprobe,
    ended,
    eventually,
    kill,
    lines,
    on,
    programs,
    programs_on,
    reports,
    started,
    two_nodes,  # noqa: F401
)
from s3_server import ALONE, BUCKET, CREDENTIALS, Server, serving


@dataclass
class Bucket:
    """The server, and how commands are told of it: nodes know nothing, so that what they need must reach them."""

    server: Server
    cluster: Cluster
    cache: Path

    @property
    def env(self) -> dict[str, str]:
        return {**CREDENTIALS, **ALONE, "AWS_ENDPOINT_URL": self.server.endpoint}

    def words(self, command: str, *words: str | Path) -> tuple[str, ...]:
        return on(self.cluster, command, "--cache", self.cache, *words)

    def __call__(self, command: str, *words: str | Path, status: int = 0) -> str:
        return driftprobe(*self.words(command, *words), status=status, env=self.env)

    def start(self, command: str, *words: str | Path) -> subprocess.Popen[str]:
        return started(*self.words(command, *words), env=self.env)

    def reports(self, prefix: str) -> list[bytes]:
        return [self.server.read(f"{prefix}/{name}") for name in REPORTS]


def s3(prefix: str) -> str:
    return f"s3://{BUCKET}/{prefix}"


@pytest.fixture(scope="module")
def bucket(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    folder = tmp_path_factory.mktemp("s3")
    assert not [name for name in CREDENTIALS if name in os.environ], "nodes would know what they must be told"
    with serving(folder / "log") as server:
        yield Bucket(server, cluster, folder / "cache")


@pytest.fixture(scope="module")
def recorded(bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the cluster recorded into the bucket, one run with a fault, copied into a folder by other means."""
    folder = tmp_path_factory.mktemp("copies")
    matrix = lines(folder / "m.json", SMALL, [*SMALL, "--dtype", "bf16"], [*SMALL, "--fault", "GQA_MAP@decode:layer0"])
    said = bucket("run", matrix, "--out", s3("a/night"))
    assert f"probes: 3 recorded, 0 known already: {s3('a/night')}" in said
    assert "probes: 0 recorded, 3 known already" in bucket("run", matrix, "--out", s3("a/night"))
    return bucket.server.copy("a/night/", folder / "night")


def test_runs_are_those_of_one_machine(recorded: Path, tmp_path: Path) -> None:
    driftprobe("run", *SMALL, "--record-only", "--out", str(tmp_path / "run"))
    [cluster_run] = [run for run in recorded.iterdir() if run.name.startswith("1-")]
    files = sorted(path.relative_to(tmp_path / "run") for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert {path.name for path in cluster_run.rglob("*") if path.is_file()} == {path.name for path in files} | {".objects.json"}
    for path in files:
        same = (cluster_run / path).read_bytes() == (tmp_path / "run" / path).read_bytes()
        assert same or path.name == "manifest.json", path


def test_reports_are_those_of_one_machine(bucket: Bucket, recorded: Path, tmp_path: Path) -> None:
    driftprobe("analyze", "--by-prompt", str(recorded), "--out", str(tmp_path / "one"), status=1)
    before = len(bucket.server.asked("GET", "/a/night/"))
    said = bucket("analyze", s3("a/night"), "--out", s3("a/report"), status=1)
    assert bucket.reports("a/report") == reports(tmp_path / "one")
    assert said.startswith("FAIL") and f"wrote {s3('a/report')}/merged.json" in said and str(bucket.cache) not in said
    # Eleven tasks on a machine that is two nodes: each object was fetched once.
    fetched = [path for path in bucket.server.asked("GET", "/a/night/")[before:] if path.endswith(".safetensors")]
    assert len(fetched) == len(set(fetched)) == 12
    # Another number of parts, out of results that are there.
    units = {key: bucket.server.read(key) for key in bucket.server.keys("a/report/units/")}
    puts = len(bucket.server.asked("PUT", "/a/report/units/"))
    assert len(units) == puts == 3
    shown = bucket("analyze", s3("a/night/"), "--out", s3("a/report"), "--parts", "2", "--format", "json", status=1)
    assert shown == (tmp_path / "one" / "merged.json").read_text()
    assert len(bucket.server.asked("PUT", "/a/report/units/")) == puts
    assert bucket.reports("a/report") == reports(tmp_path / "one")
    # One of each kind; and both kinds together.
    bucket("analyze", s3("a/night"), "--out", tmp_path / "local", status=1)
    assert reports(tmp_path / "local") == reports(tmp_path / "one")
    bucket("analyze", recorded, "--out", s3("a/mixed"), status=1)
    assert bucket.reports("a/mixed") == reports(tmp_path / "one")
    [first, *others] = sorted(path for path in recorded.iterdir() if path.is_dir())
    bucket("analyze", s3(f"a/night/{first.name}"), *others, "--out", s3("a/both"), status=1)
    assert bucket.reports("a/both") == reports(tmp_path / "one")


def test_layers_of_a_prompt_are_shared_through_the_bucket(bucket: Bucket, recorded: Path, tmp_path: Path) -> None:
    driftprobe("analyze", "--by-prompt", str(recorded), "--out", str(tmp_path / "one"), status=1)
    bucket("analyze", s3("a/night"), "--out", s3("a/layered"), "--layer-parts", "2", status=1)
    assert bucket.reports("a/layered") == reports(tmp_path / "one")
    # Three prompts, two parts of their layers: there, and fetched by whoever judged the prompts.
    there = bucket.server.copy("a/layered/layers/", tmp_path / "layers")
    assert sorted(path.name.partition(".")[2] for path in there.iterdir()) == ["1-of-2.json"] * 3 + ["2-of-2.json"] * 3
    assert len(set(bucket.server.asked("GET", "/a/layered/layers/"))) == 6


def test_what_is_missing_or_torn_never_passes(bucket: Bucket, tmp_path: Path) -> None:
    server, matrix = bucket.server, lines(tmp_path / "m.json", SMALL, [*SMALL, "--seed", "2"])
    runs, out = s3("b/runs"), s3("b/out")
    bucket("run", matrix, "--out", runs)
    bucket("analyze", runs, "--out", out)
    sound = bucket.reports("b/out")
    second = "b/runs/2-layers-0-repeats-0-only-p0_short-seed-2"
    # A result that is torn is judged again.
    [unit, *_] = server.keys("b/out/units/")
    server.write(unit, server.read(unit)[:-9])
    bucket("analyze", runs, "--out", out)
    assert bucket.reports("b/out") == sound
    # Bytes that are not those that were recorded, and as many: a node sees it.
    tensors = f"{second}/tensors/p0_short.decode.safetensors"
    good = server.read(tensors)
    server.write(tensors, good[:-1] + bytes([good[-1] ^ 1]))
    server.delete(*[f"b/out/{name}" for name in REPORTS])
    said = bucket("analyze", runs, "--out", out, status=2)
    assert f"s3://{BUCKET}/{tensors} does not hold the bytes that were recorded" in said and "hint: " in said
    server.write(tensors, good[:-1])
    assert f"{tensors} has {len(good) - 1} bytes; {len(good)} were recorded" in bucket("analyze", runs, "--out", out, status=2)
    server.delete(tensors)
    said = bucket("analyze", runs, "--out", out, status=2)
    assert f"{tensors} was recorded and is not there" in said and "hint: " in said
    assert not [key for key in server.keys("b/out/") if key.endswith(REPORTS)]
    # As the hint says: half a run, which is none, and is missed.
    server.delete(f"{second}/manifest.json")
    said = bucket("analyze", runs, "--out", out, status=3)
    assert said.startswith("INCONCLUSIVE") and f"s3://{BUCKET}/{second} was to be recorded" in said
    merged = json.loads(server.read("b/out/merged.json"))
    assert merged["missing"] == 1 and str(bucket.cache) not in json.dumps(merged)
    assert "probes: 1 recorded, 1 known" in bucket("run", matrix, "--out", runs)
    bucket("analyze", runs, "--out", out)
    assert bucket.reports("b/out") == sound
    # All of a run.
    server.delete(*server.keys(f"{second}/"))
    assert bucket("analyze", runs, "--out", out, status=3).startswith("INCONCLUSIVE")
    server.delete(*server.keys("b/runs/1-"))
    assert "holds no run" in bucket("analyze", runs, "--out", out, status=2)
    said = bucket("run", lines(tmp_path / "o.json", SMALL), "--out", runs, status=2)
    assert "another matrix" in said


def test_a_node_that_is_killed_while_it_uploads_costs_no_rows(bucket: Bucket, tmp_path: Path) -> None:
    server, matrix = bucket.server, lines(tmp_path / "m.json", *([*LONG, "--seed", str(seed)] for seed in range(3)))
    doomed = doomed_node(bucket.cluster)
    recording = bucket.start("run", matrix, "--out", s3("c/runs"))
    [(_, _, words), *_] = eventually(lambda: programs_on(doomed))
    name = words.partition("/scratch/")[2].split()[0].partition("/")[2]
    # The storage stands still while the run is on its way into it.
    eventually(lambda: server.asked("PUT", f"/{name}/.objects.json"))
    os.kill(server.process.pid, signal.SIGSTOP)
    kill(bucket.cluster, doomed)
    os.kill(server.process.pid, signal.SIGCONT)
    keys = server.keys(f"c/runs/{name}/")
    assert f"c/runs/{name}/.objects.json" in keys and f"c/runs/{name}/manifest.json" not in keys, "killed too late"
    assert "probes: 3 recorded" in ended(recording)
    driftprobe("analyze", "--by-prompt", str(server.copy("c/runs/", tmp_path / "runs")), "--out", str(tmp_path / "one"),
               *UNSIMULATED[1:])  # fmt: skip
    judging = bucket.start("analyze", s3("c/runs"), "--out", s3("c/out"), *UNSIMULATED)
    doomed = doomed_node(bucket.cluster)
    eventually(lambda: programs_on(doomed))
    kill(bucket.cluster, doomed)
    assert "c/out/merged.json" not in server.keys("c/out"), "killed too late"
    ended(judging)
    assert bucket.reports("c/out") == reports(tmp_path / "one")
    merged = json.loads(server.read("c/out/merged.json"))
    assert (merged["promised"], merged["missing"]) == (12, 0)
    # The dead leave nothing on a node that is asked again.
    [scratch] = bucket.cache.glob("driftprobe-*/scratch")
    assert not [path for path in scratch.iterdir() if path.is_dir()]


def test_a_part_that_is_lost_for_good_is_said_and_does_not_pass(bucket: Bucket, tmp_path: Path) -> None:
    matrix = lines(tmp_path / "m.json", *([*SMALL, "--seed", str(seed)] for seed in range(4)))
    bucket("run", matrix, "--out", s3("d/runs"))
    judging = bucket.start("analyze", s3("d/runs"), "--out", s3("d/out"), "--parts", "2", "--retries", "0")
    os.kill(eventually(lambda: next(programs(), None))[1], signal.SIGKILL)
    said = ended(judging, 3)
    assert "was lost" in said and said.startswith("INCONCLUSIVE")
    bucket("analyze", s3("d/runs"), "--out", s3("d/out"))
    driftprobe("analyze", "--by-prompt", str(bucket.server.copy("d/runs/", tmp_path / "runs")), "--out", str(tmp_path / "one"))
    assert bucket.reports("d/out") == reports(tmp_path / "one")


def test_storage_that_goes_away_is_told(bucket: Bucket, tmp_path: Path) -> None:
    matrix = lines(tmp_path / "m.json", *([*LONG, "--seed", str(seed)] for seed in range(2)))
    with serving(tmp_path / "log") as other:
        env = {**bucket.env, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
        words = ("run", matrix, "--out", s3("runs"), "--s3-endpoint", other.endpoint, "--retries", "0")
        recording = started(*bucket.words(*words), env=env)
        eventually(lambda: list(programs()))
        other.process.kill()
        said = ended(recording, 2)
    assert "no answer from" in said and "hint: " in said
