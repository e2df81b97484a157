#!/usr/bin/env bash
# Traces of an engine that knows nothing of driftprobe: JSONL without a manifest. Two cases, both INCONCLUSIVE (3).
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
traces=$root/crates/driftprobe-trace/tests/fixtures/greta

# 48 pairs, 42 of which differ, the first at layer 0, attn_out.
expect 3 driftprobe analyze "$traces/drift" --out drift
grep -q '"hash_differ": 42' drift/drift.json

# Nothing pairs: decode counts its positions from another start. A tool that looks at pairs only would see no failure.
expect 3 driftprobe analyze "$traces/offset" --out offset
grep -q '"root_cause": "TRACE_OFFSET"' offset/drift.json
