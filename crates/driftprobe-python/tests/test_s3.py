"""Storage that is no folder, on a real S3 server: what is damaged, half or out of reach is told, and never judged.

Run by .ci/cluster.sh, without the conftest of the other tests, which needs torch.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("boto3")
pytest.importorskip("moto.server")
from driftprobe import Error
from driftprobe.cluster import S3, analyze, run
from driftprobe.cluster.bucket import OBJECTS_FILE, Bucket
from driftprobe.cluster.mirror import Mirror
from driftprobe.cluster.s3 import Client, Object, Unavailable
from driftprobe.cluster.storage import Where
from s3_server import ALONE, BUCKET, CREDENTIALS, Server, serving

FILES = {
    "manifest.json": b"{}",
    "traces/a.jsonl": b"123",
    "kv_aligned/manifest.json": b"{ }",
    "tensors/a.safetensors": b"0" * 99,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("s3") / "log") as made:
        yield made


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {**CREDENTIALS, **ALONE}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def s3(server: Server, tmp_path: Path) -> S3:
    return S3(server.endpoint, str(tmp_path / "cache"))


@pytest.fixture
def bucket(s3: S3, request: pytest.FixtureRequest) -> Bucket:
    """An empty place of the test's own."""
    return Bucket(f"s3://{BUCKET}/of/{request.node.name}", s3)


def made(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(bucket: Bucket) -> str:
    with pytest.raises(Error) as told:
        bucket.seen()
    assert told.value.hint
    return str(told.value)


def test_a_run_comes_back_as_it_was_and_is_fetched_once(
    bucket: Bucket, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.keep(made(tmp_path / "run"), "one")
    bucket.write("probes.json", b"not for whom reads runs")
    seen = {name: found for name, found in bucket.client.list(bucket.prefix).items() if "/one/" in name}
    assert bucket.recorded(["one", "two"]) == {"one"} and len(seen) == len(FILES) + 1
    server.delete(f"{bucket.prefix}probes.json")

    def read() -> None:
        with bucket.reading(bucket.seen()) as folder:
            assert files(folder / "one") == FILES
            assert folder.parts[-4:] == ("s3:", BUCKET, "of", "test_a_run_comes_back_as_it_was_and_is_fetched_once")
            stamp = (folder / "one/tensors/a.safetensors").stat().st_mtime
            # A fingerprint holds the time: it must be the same on all nodes.
            assert stamp == seen[f"{bucket.prefix}one/tensors/a.safetensors"].modified

    fetch, known = Client.fetch, bucket.seen()

    def slow(client: Client, key: str, wanted: Object, path: Path) -> None:
        time.sleep(0.2)
        fetch(client, key, wanted, path)

    def at_once(_: int) -> dict[str, bytes]:
        start.wait()
        with bucket.reading(known) as folder:
            return files(folder / "one")

    start = threading.Barrier(4)
    monkeypatch.setattr(Client, "fetch", slow)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(at_once, range(4))) == [FILES] * 4
    assert len(server.asked("GET", f"{bucket.prefix}one/tensors/")) == 1
    read()
    assert len(server.asked("GET", f"{bucket.prefix}one/tensors/")) == 1
    # Somebody tidied up.
    [copy] = bucket.mirror.root.glob("views/*/**/a.safetensors")
    copy.unlink()
    for path in bucket.mirror.root.glob("objects/*/*"):
        path.unlink()
    read()
    assert len(server.asked("GET", f"{bucket.prefix}one/tensors/")) == 2
    # Another one under its name is another one, even if it is as long and as old.
    server.write(f"{bucket.prefix}one/tensors/a.safetensors", b"1" * 99)
    with pytest.raises(Error, match="does not hold the bytes that were recorded"), bucket.reading(bucket.seen()):
        pass


def test_a_run_that_somebody_else_uploaded_is_one(bucket: Bucket, server: Server, s3: S3, tmp_path: Path) -> None:
    server.send(made(tmp_path / "run"), f"{bucket.prefix}deep/in/run/")
    server.write(f"{bucket.prefix}deep/", b"")
    with bucket.reading(bucket.seen()) as folder:
        assert files(folder / "deep/in/run") == FILES
    # A manifest within a run is no other run; a changed object is fetched anew.
    server.write(f"{bucket.prefix}deep/in/run/traces/a.jsonl", b"4567")
    with bucket.reading(bucket.seen()) as folder:
        assert (folder / "deep/in/run/traces/a.jsonl").read_bytes() == b"4567"
    # The run itself.
    assert set(Bucket(bucket.inner("deep/in/run"), s3).seen()) == set(FILES)


def test_a_copy_of_another_size_or_checksum_is_none(bucket: Bucket, tmp_path: Path) -> None:
    bucket.keep(made(tmp_path / "run"), "one")
    key = f"{bucket.prefix}one/traces/a.jsonl"
    listed = bucket.client.list(key)[key]
    for wrong, why in (
        (Object(2, listed.tag, 0.0), "3 of 2 bytes"),
        (Object(3, listed.tag, 0.0, "00"), "does not hold the bytes"),
        (Object(3, '"other"', 0.0), "was changed while it was read"),
    ):
        with pytest.raises(Error, match=why):
            bucket.mirror.fill(tmp_path / "to", bucket.client, bucket.prefix, {"one/traces/a.jsonl": wrong})
    assert not (tmp_path / "to").exists() or not files(tmp_path / "to")
    assert not list(bucket.mirror.root.glob("objects/*/*"))


@pytest.mark.parametrize("file", ["traces/a.jsonl", "kv_aligned/manifest.json", OBJECTS_FILE])
def test_what_is_missing_of_a_run_is_told(bucket: Bucket, server: Server, tmp_path: Path, file: str) -> None:
    probe = {"name": "one", "args": [], "prompts": []}
    bucket.write("probes.json", json.dumps({"probes": [probe]}).encode())
    bucket.keep(made(tmp_path / "run"), "one")
    assert set(bucket.seen()) == {f"one/{name}" for name in FILES}
    server.delete(f"{bucket.prefix}one/{file}")
    assert f"one/{file}" in refused(bucket)


def test_what_is_torn_is_told(bucket: Bucket, server: Server, tmp_path: Path) -> None:
    bucket.keep(made(tmp_path / "run"), "one")
    server.write(f"{bucket.prefix}one/tensors/a.safetensors", b"0" * 98)
    assert "has 98 bytes; 99 were recorded" in refused(bucket)
    server.write(f"{bucket.prefix}one/{OBJECTS_FILE}", b'{"objects": {')
    assert "does not say what belongs to the run" in refused(bucket)
    server.write(f"{bucket.prefix}one/{OBJECTS_FILE}", b'{"objects": {}}')
    assert "names no manifest.json" in refused(bucket)


def test_half_a_run_is_none(bucket: Bucket, server: Server, tmp_path: Path) -> None:
    for name in ("half", "whole"):
        bucket.keep(made(tmp_path / name), name)
    server.delete(f"{bucket.prefix}half/manifest.json")
    assert bucket.recorded(["half", "whole"]) == {"whole"}
    assert set(bucket.seen()) == {f"whole/{name}" for name in FILES}
    # What an earlier try left there, and its list does not name, is not read.
    server.write(f"{bucket.prefix}whole/traces/left.jsonl", b"{}")
    assert set(bucket.seen()) == {f"whole/{name}" for name in FILES}
    # Nobody's list says what this belongs to.
    server.write(f"{bucket.prefix}stray/traces/a.jsonl", b"{}")
    assert "stray/traces/a.jsonl belongs to no run" in refused(bucket)
    server.delete(f"{bucket.prefix}stray/traces/a.jsonl")
    server.write(f"{bucket.prefix}stray/kv_aligned/manifest.json", b"{}")
    assert "stray/kv_aligned/ is part of a run" in refused(bucket)
    server.delete(*server.keys(bucket.prefix))
    assert "holds no run" in refused(bucket)


@pytest.mark.parametrize("file", sorted(FILES))
def test_an_upload_that_breaks_off_leaves_no_run(
    bucket: Bucket, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    send = Client.send

    def broken(client: Client, key: str, path: Path) -> None:
        if key == f"{bucket.prefix}one/{file}":
            # Half of it arrived, and nobody said so.
            path.write_bytes(path.read_bytes()[:-1])
        send(client, key, path)

    monkeypatch.setattr(Client, "send", broken)
    with pytest.raises(Unavailable, match="is not what was sent"):
        bucket.keep(made(tmp_path / "run"), "one")
    assert not bucket.recorded(["one"]) and server.keys(bucket.prefix)
    assert "holds no run" in refused(bucket)
    # Another try overwrites what is there.
    monkeypatch.setattr(Client, "send", send)
    bucket.keep(made(tmp_path / "run"), "one")
    assert set(bucket.seen()) == {f"one/{name}" for name in FILES}


def test_a_try_that_was_overtaken_ends_no_run(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    send = Client.send

    def overtaken(client: Client, key: str, path: Path) -> None:
        send(client, key, path)
        client.write(f"{bucket.prefix}one/{OBJECTS_FILE}", b"another's list")

    monkeypatch.setattr(Client, "send", overtaken)
    with pytest.raises(Unavailable, match="is not what was sent: its list"):
        bucket.keep(made(tmp_path / "run"), "one")
    assert not bucket.recorded(["one"])


def test_beside_results_nothing_is_a_plan_but_plans(bucket: Bucket, server: Server) -> None:
    own = ["plan-2024-budget.json", "plan-b-of-c.json", "planets.json", "planned/mine.json"]
    plans = ["plan-1-of-2.json", "plan.json"]
    for name in [*own, *plans]:
        bucket.write(name, b"{}")
    with bucket.merging() as folder:
        assert sorted(files(folder)) == plans
    with bucket.judging() as folder:
        made(folder, {name: b"[]" for name in [own[0], plans[0]]})
    assert [bucket.read(name) for name in (own[0], plans[0])] == [b"{}", b"[]"]
    bucket.forget_plans()
    assert sorted(key[len(bucket.prefix) :] for key in server.keys(bucket.prefix)) == own


def test_keys_stay_within_the_copies(bucket: Bucket, server: Server, tmp_path: Path) -> None:
    bucket.keep(made(tmp_path / "run"), "one")
    server.write(f"{bucket.prefix}one/../../../../out", b"x")
    assert "cannot be a file" in refused(bucket)
    with pytest.raises(Error, match="is no place"):
        Where.at(f"s3://{BUCKET}/../x", S3()).open()


def test_an_answer_that_breaks_off_is_no_object(tmp_path: Path) -> None:
    asked = []

    class Breaks(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.send_header("ETag", '"1"')
            self.end_headers()
            self.wfile.write(b"0" * 10)

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Breaks) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        client = Client("probes", f"http://127.0.0.1:{http.server_address[1]}")
        with pytest.raises(Unavailable, match="no whole answer"):
            client.fetch("a", Object(100, '"1"', 0.0), tmp_path / "a")
        http.shutdown()
    assert len(asked) > 1


def test_who_is_not_let_in_is_told(server: Server, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(endpoint: str = server.endpoint, place: str = f"s3://{BUCKET}/x") -> str:
        at = S3(endpoint, s3.cache)
        with pytest.raises(Error) as ran:
            run([["--seed", "1"]], place, s3=at)
        with pytest.raises(Error) as judged:
            analyze([place], tmp_path / "out", s3=at)
        assert ran.value.hint and judged.value.hint and not (tmp_path / "out").exists()
        return f"{ran.value}\n{judged.value}"

    assert told(place="s3://nobodys-bucket/x").count("that bucket is not there") == 2
    assert told(place="s3://no_bucket!/x").count("s3://bucket/prefix") == 2
    assert told("elsewhere").count("expected --s3-endpoint") == 2
    assert told("http://127.0.0.1:9").count("no answer from http://127.0.0.1:9") == 2
    with serving(tmp_path / "log", INITIAL_NO_AUTH_ACTION_COUNT="1") as strict:
        assert told(strict.endpoint).count("the storage refuses (InvalidAccessKeyId") == 2
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert told().count("there are no credentials") == 2


def test_without_the_library_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "boto3.py").write_text("raise ImportError('not installed')\n")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    words = [sys.executable, "-m", "driftprobe", "cluster", "analyze", f"s3://{BUCKET}/x", "--out", str(tmp_path / "out")]
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and "s3://… needs boto3" in done.stderr and "hint: pip install boto3" in done.stderr


def test_copies_that_nobody_uses_are_deleted_and_those_in_use_are_not(
    bucket: Bucket, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.keep(made(tmp_path / "run"), "one")
    with bucket.reading(bucket.seen()) as old:
        server.delete(*server.keys(f"{bucket.prefix}one/"))
        bucket.keep(made(tmp_path / "other", {"manifest.json": b"{  }"}), "two")
        monkeypatch.setattr("driftprobe.cluster.mirror.UNUSED_SECONDS", -60)
        with bucket.reading(bucket.seen()) as new:
            assert files(new) == {"two/manifest.json": b"{  }"}
        # Once the new one is let go it counts as unused; the old one is held.
        assert files(old / "one") == FILES and not new.exists()
    assert not old.exists() and not list(bucket.mirror.root.glob("objects/*/*"))


def test_copies_are_ones_own(tmp_path: Path) -> None:
    elsewhere, own = tmp_path / "elsewhere", tmp_path / f"driftprobe-{os.getuid()}"
    elsewhere.mkdir()
    own.symlink_to(elsewhere)
    with pytest.raises(Error, match="belongs to somebody else"):
        Mirror(str(tmp_path))
    assert not list(elsewhere.iterdir())
    own.unlink()
    assert Mirror(str(tmp_path)).root.stat().st_mode & 0o077 == 0
    (tmp_path / "file").write_text("")
    with pytest.raises(Error, match="cannot be written"):
        Mirror(str(tmp_path / "file"))


def test_folders_of_the_dead_are_swept_and_not_those_of_the_living(bucket: Bucket) -> None:
    with ExitStack() as stack:
        living = stack.enter_context(bucket.mirror.scratch())
        child = os.fork()
        if child == 0:
            with bucket.mirror.scratch() as own:
                (own / "left").write_text("x")
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        scratch = bucket.mirror.root / "scratch"
        assert len([path for path in scratch.iterdir() if path.is_dir()]) == 2
        with bucket.mirror.scratch() as next_:
            assert {path for path in scratch.iterdir() if path.is_dir()} == {living, next_}
    assert not list(scratch.iterdir())
