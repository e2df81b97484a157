#!/usr/bin/env bash
# Values stored in bf16 between stages; prefill attends in blocks of 16 keys, decode over four parts of the keys.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

expect 0 driftprobe run --dtype bf16 --prefill-attention blocked:16 --decode-attention split-k:4 --out bf16
grep -q '"prefill": "blocked:16"' bf16/manifest.json

# Neither kernel holds a row of probabilities, so none is promised and none is missing.
expect 1 grep -q attn_probs bf16/manifest.json
grep -q '"missing": 0' bf16/report/drift.json
