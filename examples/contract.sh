#!/usr/bin/env bash
# Traces that transformers wrote, in bf16, with the rotary table in f32: their manifest does not say so, and the probe finds
# it by itself. It is legitimate, so the run passes, with a finding.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
traces=$root/fixtures/transformers-traces

expect 0 driftprobe analyze "$traces/llama-bf16-variant-rope-table-f32" --out found
grep -q '"id": "rope_table=f32' found/drift.json

# A contract of your own, in place of the manifest's: a preset by name, or a file.
expect 0 driftprobe analyze "$traces/llama-bf16-clean" --contract transformers-eager-bf16 --out preset
echo '{"activations": "bf16", "residual": "bf16", "kv_cache": "bf16", "accumulate": "f32"}' >plain.json
expect 0 driftprobe analyze "$traces/llama-bf16-clean" --contract plain.json --out plain
grep -q '"code": "CONTRACT"' plain/drift.json
