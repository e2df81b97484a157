#!/usr/bin/env bash
# Which lines of the judging core its tests reach: mutants/coverage.sh [FOLDER]. Prints a Markdown table, a line a folder of
# crates/driftprobe/src; with FOLDER, an HTML page of every file goes there. Only the core's own tests run (unit tests and
# `judging`): what other crates' tests reach beside is not counted.
#
# Needs cargo-llvm-cov, the toolchain's llvm-tools (rustup component add llvm-tools) and Python.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo llvm-cov --quiet --package driftprobe --lib --test judging --ignore-filename-regex 'crates/driftprobe-|/xtask/' \
  --json --summary-only --output-path "${CARGO_TARGET_DIR:-target}/coverage.json" >&2
[ $# -eq 0 ] || cargo llvm-cov report --quiet --package driftprobe --ignore-filename-regex 'crates/driftprobe-|/xtask/' --html --output-dir "$1" >&2
python3 - "${CARGO_TARGET_DIR:-target}/coverage.json" <<'PY'
import collections
import json
import sys

folders = collections.defaultdict(lambda: [0, 0])
for file in json.load(open(sys.argv[1]))["data"][0]["files"]:
    path = file["filename"].split("crates/driftprobe/src/")[-1]
    lines = file["summary"]["lines"]
    for name in (path.split("/")[0].removesuffix(".rs"), "all"):
        folders[name][0] += lines["count"]
        folders[name][1] += lines["covered"]
print("| part | lines | reached | |\n|---|---|---|---|")
for name, (count, covered) in sorted(folders.items(), key=lambda one: (one[0] == "all", one[0])):
    print(f"| `{name}` | {count} | {covered} | {100 * covered / max(count, 1):.1f} % |")
PY
