#!/usr/bin/env bash
# The main job: the embedded model, both phases traced, paired and reported. Rounding parts them, so the status is 3.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

expect 3 driftprobe
test -s runs/DEMO-001/report/drift.md
grep -q '"verdict": "INCONCLUSIVE"' runs/DEMO-001/report/drift.json

# The report can be made again from the run, and comes out the same, byte for byte.
expect 3 driftprobe analyze runs/DEMO-001 --out again
diff -r runs/DEMO-001/report again
