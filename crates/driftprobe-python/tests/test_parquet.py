"""Datasets in the hands of others: DuckDB finds the first difference by itself, and what DuckDB, pyarrow, Polars and pandas
write is judged as what driftprobe wrote."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

duckdb = pytest.importorskip("duckdb")
pyarrow = pytest.importorskip("pyarrow")
pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")

import pyarrow.parquet

PART = "run=one/search=0/mode=as_designed/repeat=0/part-0.parquet"
# The package's own command line, or a binary that is named.
PROGRAM = shlex.split(os.environ.get("DRIFTPROBE", "")) or [sys.executable, "-m", "driftprobe"]


def cli(*words: "str | Path") -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*PROGRAM, *map(str, words)], capture_output=True, text=True)


def judged(run: Path, out: Path) -> "tuple[int, dict[str, Any]]":
    """The exit status of analyze and its report; a refusal has none."""
    shutil.rmtree(out, ignore_errors=True)
    done = cli("analyze", run, "--out", out)
    report = out / "drift.json"
    return done.returncode, json.loads(report.read_text()) if report.exists() else {"error": done.stderr}


@pytest.fixture(scope="module", params=["clean", "faulty"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run and beside it the dataset made of it. The faulty one has a fault in decode, from layer 1 on."""
    folder = tmp_path_factory.mktemp(request.param)
    fault = ["--fault", "ROPE_POSITION_OFFSET:+1@decode:layer1"] if request.param == "faulty" else []
    small = ["--layers", "0,1,2", "--repeats", "0", "--mode", "as_designed", "--record-only", "--prompts", "Truth is"]
    assert cli("run", *small, *fault, "--out", folder / "run").returncode == 0
    done = cli("export", folder / "run", "--parquet", folder / "dataset", "--name", "one")
    assert done.returncode == 0, done.stderr
    return folder


def test_duckdb_finds_the_first_layer_that_differs(exported: Path) -> None:
    events = f"read_parquet('{exported}/dataset/**/*.parquet', hive_partitioning = true)"
    found = duckdb.sql(
        f"""SELECT p.layer, p.point, p.run, p.mode, p.logical_tok_idx, p.hash, d.hash FROM {events} p JOIN {events} d
        USING (run, mode, search, repeat, prompt_id, layer, point, logical_tok_idx, pos_id, token_id)
        WHERE starts_with(p.phase, 'prefill') AND starts_with(d.phase, 'decode') AND p.hash <> d.hash AND p.layer >= 0
        ORDER BY p.layer, p.source_line"""
    ).fetchall()
    # The same out of the lines of JSON, by hand.
    lines = [json.loads(line) for path in (exported / "run/traces").iterdir() for line in path.read_text().splitlines()]
    hashes: "dict[bool, dict[tuple[Any, ...], int]]" = {True: {}, False: {}}
    for event in lines:
        key = tuple(event[name] for name in ("prompt_id", "layer", "point", "logical_tok_idx"))
        hashes[event["phase"].startswith("prefill")][key] = event["hash"]
    differing = [key for key, value in hashes[True].items() if hashes[False][key] != value and key[1] >= 0]
    assert found
    assert len(found) == len(differing)
    assert found[0][0] == min(key[1] for key in differing)
    for layer, point, run, mode, token, prefill, decode in found:
        key = ("text_0", layer, point, token)
        assert (run, mode, prefill, decode) == ("one", "as_designed", hashes[True][key], hashes[False][key])


def test_rows_and_samples_are_those_of_the_run(exported: Path) -> None:
    import numpy as np
    from safetensors.numpy import load_file

    table = pyarrow.parquet.read_table(exported / "dataset" / PART, partitioning=None).to_pylist()
    with_rows = [row for row in table if row["payload"] is not None]
    assert with_rows
    for row in with_rows:
        tensor = load_file(exported / "run" / row["payload_file"])[row["payload_key"]]
        assert row["dtype"] == "f32"
        assert np.array_equal(np.frombuffer(row["payload"], "<f4").reshape(row["shape"]), tensor)
        assert row["sample"] == tensor.reshape(-1)[: len(row["sample"])].astype("f8").tolist()


def by_duckdb(part: Path, out: Path) -> None:
    duckdb.sql(f"COPY (SELECT * FROM read_parquet('{part}', hive_partitioning = true)) TO '{out}' (FORMAT parquet)")


def by_pyarrow(part: Path, out: Path) -> None:
    table = pyarrow.parquet.read_table(part, partitioning=None)
    pyarrow.parquet.write_table(table, out, row_group_size=7, data_page_version="2.0", use_dictionary=["payload", "point"])


def by_polars(part: Path, out: Path) -> None:
    polars.read_parquet(part, hive_partitioning=False).write_parquet(out)


def by_pandas(part: Path, out: Path) -> None:
    pandas.read_parquet(part, partitioning=None, dtype_backend="pyarrow").to_parquet(out)


@pytest.mark.parametrize("write", [by_duckdb, by_pyarrow, by_polars, by_pandas])
def test_what_another_program_writes_is_judged_the_same(
    exported: Path, tmp_path: Path, write: "Callable[[Path, Path], None]"
) -> None:
    ours = exported / "dataset" / PART
    theirs = tmp_path / "dataset" / PART
    theirs.parent.mkdir(parents=True)
    write(ours, theirs)
    assert theirs.read_bytes() != ours.read_bytes()
    shutil.copy(ours.parent / "_manifest.json", theirs.parent)
    code, report = judged(tmp_path / "dataset", tmp_path / "theirs")
    expected = judged(exported / "run", tmp_path / "ours")
    assert "error" not in report, report
    assert (code, report) == expected
    assert code == (1 if exported.name.startswith("faulty") else 0)


def test_hashes_that_became_floats_are_refused(exported: Path, tmp_path: Path) -> None:
    frame = pandas.read_parquet(exported / "dataset" / PART, partitioning=None)
    frame["hash"] = frame["hash"].astype("float64")
    frame.to_parquet(tmp_path / "rows.parquet")
    code, report = judged(tmp_path / "rows.parquet", tmp_path / "out")
    assert code == 2
    assert "column hash: expected an integer, found DOUBLE" in report["error"]


def test_rows_that_somebody_dropped_are_missed(exported: Path, tmp_path: Path) -> None:
    ours = exported / "dataset" / PART
    theirs = tmp_path / "dataset" / PART
    theirs.parent.mkdir(parents=True)
    shutil.copy(ours.parent / "_manifest.json", theirs.parent)
    duckdb.sql(f"COPY (SELECT * FROM '{ours}' WHERE layer <> 0) TO '{theirs}' (FORMAT parquet)")
    code, report = judged(tmp_path / "dataset", tmp_path / "out")
    assert "error" not in report
    assert code in (1, 3)
    # Without a manifest nobody knows what there should be.
    (theirs.parent / "_manifest.json").unlink()
    assert judged(tmp_path / "dataset", tmp_path / "out")[0] in (1, 3)
