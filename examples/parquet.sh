#!/usr/bin/env bash
# Two runs as one Parquet dataset, which DuckDB, pandas and Polars open: judged from it, each run gets the report that its folder
# gets, byte for byte, and what was lost on the way never passes.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

small=(--layers 0,1 --repeats 0 --mode as_designed --record-only --prompts 'The quick brown fox' 'Truth is')
expect 0 driftprobe run "${small[@]}" --out runs/clean
expect 0 driftprobe run "${small[@]}" --fault ROPE_POSITION_OFFSET:+1@decode:layer1 --out runs/faulty
expect 0 driftprobe export runs/ --parquet dataset
test -f dataset/run=clean/search=0/mode=as_designed/repeat=0/part-0.parquet

expect 0 driftprobe analyze runs/clean --out from-folder
expect 0 driftprobe analyze dataset/run=clean --out from-dataset
for name in drift.json drift.md drift.tsv drift.html; do cmp from-folder/$name from-dataset/$name; done

# The whole dataset, prompt by prompt: the worst of its runs counts.
expect 1 driftprobe analyze dataset --by-prompt --out all >said
grep -q '^FAIL' said

# A run that lies there is replaced only when asked to, or goes in under another name.
expect 2 driftprobe export runs/clean --parquet dataset
expect 0 driftprobe export runs/clean --parquet dataset --force
expect 0 driftprobe export runs/clean --parquet dataset --name baseline --no-payloads
# Hashes and statistics are compared, and not judged: INCONCLUSIVE.
expect 3 driftprobe analyze dataset/run=baseline --out hashes

# With tools of their own: the events of one run, where pyarrow is installed.
if python3 -c 'import pyarrow' 2>/dev/null; then
  python3 - <<'PY'
import pyarrow.dataset as dataset

events = dataset.dataset("dataset/run=clean", format="parquet", partitioning="hive").to_table(columns=["phase", "point", "hash"])
assert {"embed_out", "logits"} <= set(events["point"].to_pylist())
PY
fi

rm dataset/run=clean/search=0/mode=as_designed/repeat=0/part-0.parquet
expect 2 driftprobe analyze dataset/run=clean
