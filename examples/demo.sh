#!/usr/bin/env bash
# The main job: the embedded model, both phases traced, paired and reported. Rounding parts
# almost every row, and every stage of both phases is judged to be within it, so the status is 0.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

expect 0 driftprobe
test -s runs/DEMO-001/report/drift.md
grep -q '"sub_verdict": "STRUCTURAL_DRIFT"' runs/DEMO-001/report/drift.json

# The report can be made again from the run, and comes out the same, byte for byte.
expect 0 driftprobe analyze runs/DEMO-001 --out again
diff -r runs/DEMO-001/report again

# The same rows without the model: comparing alone says where they part, not why.
expect 3 driftprobe analyze runs/DEMO-001/repeat-1 --out compared --model "$root/fixtures/hf/llama"
grep -q WRONG_MODEL compared/drift.json
