#!/usr/bin/env bash
# Four decode steps, every layer. The tokens after the prompt are the engine's own; both phases are fed the same ones.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

expect 0 driftprobe run --steps 4 --layers all --prompts 'The learned' --out run
grep -q '"steps": 4' run/manifest.json
# Four positions: prefill's last four rows beside decode's four steps.
test "$(cut -f3 run/report/drift.tsv | tail -n +2 | sort -u | wc -l)" = 4
