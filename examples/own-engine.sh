#!/usr/bin/env bash
# An engine writer's hello world: a run written with nothing but a JSON library, whose phases agree bit for bit.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

python3 "$examples/own_engine.py" run
expect 0 driftprobe analyze run
grep -q '"sub_verdict": "BIT_IDENTICAL"' run/report/drift.json

# Take one event away, and it is no PASS any more: the manifest promised it.
: >run/traces/hello_decode_trace.jsonl
expect 3 driftprobe analyze run
grep -q '"EXPECTED_MISSING"' run/report/drift.json
