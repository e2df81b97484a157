#!/usr/bin/env bash
# Three machines share a run: each judges its shard, and the merged report is the one that a single machine writes, byte for byte.
# Also with the run recorded in shards, and with long prompts shared by layers. One that is missing never passes.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

same() {
  for name in merged.json merged.md merged.tsv; do cmp "$1/$name" "$2/$name"; done
}

small=(--layers 0,1 --repeats 0 --mode as_designed --record-only)
expect 0 driftprobe run --out whole/demo "${small[@]}"
expect 0 driftprobe analyze whole/demo --by-prompt --out one
for shard in 1 2 3; do
  expect 0 driftprobe analyze whole/demo --shard $shard/3 --out "machine-$shard"
  expect 0 driftprobe run --shard $shard/3 --out parts/demo "${small[@]}"
done
expect 0 driftprobe merge machine-3 machine-1 machine-2 --out merged
same one merged
expect 0 driftprobe analyze parts/demo --by-prompt --out recorded
same one recorded

# One long prompt: two machines judge its layers, then whoever judges the prompt takes up what they found.
for shard in 2 1; do expect 0 driftprobe analyze whole/demo --layer-shard $shard/2 --out layered; done
expect 0 driftprobe analyze whole/demo --by-prompt --out layered
same one layered

expect 3 driftprobe merge machine-1 machine-3 --out lacking
grep -q MISSING_SHARD lacking/merged.json

# What is known is not judged again.
rm one/units/*p9_long*
expect 0 driftprobe analyze whole/demo --shard 1/1 --out one >said
grep -q '^shard 1/1: 1 prompts judged, 3 known already' said
expect 0 driftprobe merge one

# The scripts for clusters call the program as it is: run here with a program of that name, and schedulers' variables set.
mkdir bin
if [ -n "${DRIFTPROBE:-}" ]; then ln -sf "$DRIFTPROBE" bin/driftprobe; else
  cargo build --release --quiet --manifest-path "$root/Cargo.toml"
  ln -sf "${CARGO_TARGET_DIR:-$root/target}/release/driftprobe" bin/driftprobe
fi
export PATH=$PWD/bin:$PATH RUNS=$PWD/whole/demo
for script in record judge merge; do bash -n "$examples/slurm/$script.sbatch"; done
export RUN=$PWD/slurm/demo MODEL=DEMO REPORT=$PWD/slurm-report RUN_OPTIONS="--layers 0,1 --repeats 0 --mode as_designed"
for id in 0 1 2; do
  SLURM_ARRAY_TASK_ID=$id SLURM_ARRAY_TASK_COUNT=3 expect 0 bash "$examples/slurm/record.sbatch"
done
for id in 1 0; do
  RUNS=$RUN SLURM_ARRAY_TASK_ID=$id SLURM_ARRAY_TASK_COUNT=2 expect 0 bash "$examples/slurm/judge.sbatch"
done
expect 0 bash "$examples/slurm/merge.sbatch"
same one slurm-report

# The Kubernetes job: the shell lines of its containers, as the pods run them.
command_of() { awk -v name="name: $1" 'index($0, name) { on = 1 } on && /^ *- \|/ { match($0, /^ */); depth = RLENGTH; reading = 1; next }
  reading { match($0, /^ */); if (RLENGTH <= depth) exit; print substr($0, depth + 3) }' "$examples/kubernetes/job.yaml"; }
export SHARDS=2 REPORT=$PWD/kubernetes-report
for index in 0 1; do
  command_of judge >judge.sh
  JOB_COMPLETION_INDEX=$index expect 0 bash -e judge.sh
done
command_of merge >merge.sh
expect 0 bash -e merge.sh
same one kubernetes-report
if python3 -c 'import yaml' 2>/dev/null; then
  python3 - "$examples/kubernetes/job.yaml" <<'PY'
import sys, yaml

jobs = list(yaml.safe_load_all(open(sys.argv[1])))
assert [job["kind"] for job in jobs] == ["Job", "Job"]
spec = jobs[0]["spec"]
assert spec["completionMode"] == "Indexed"
shards = spec["template"]["spec"]["containers"][0]["env"]
assert {"name": "SHARDS", "value": str(spec["completions"])} in shards
PY
fi
