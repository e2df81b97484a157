#!/usr/bin/env bash
# A model of your own: here the embedded one as a GGUF file. A Hugging Face folder is named in the same way.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

expect 0 driftprobe run --model "$root/crates/driftprobe-model/demo/model.gguf" --prompts 'Truth' --out run
grep -q '"format": "gguf"' run/manifest.json
echo '{"id": "ids", "tokens": [1, 5, 9, 30]}' >ids.json
expect 0 driftprobe run --model "$root/fixtures/gguf/llama-q4_k.gguf" --prompts ids.json --layers all --out q4_k
grep -q q4_k q4_k/manifest.json

# What cannot be computed is refused by name before any work.
expect 2 driftprobe run --model "$examples" --out other
