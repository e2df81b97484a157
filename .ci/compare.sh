#!/usr/bin/env bash
# `driftprobe compare` across real engines: transformers against llama.cpp on the same weights, one thread against two, small
# micro-batches against whole prompts, and a fault in one of two runs. Needs what .ci/llama-cpp.sh and .ci/python.sh leave
# behind: the program with llama.cpp in the target folder, and the Python package in .cache/python-venv.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON_VENV:-$PWD/.cache/python-venv}/bin/python
# As .ci/llama-cpp.sh has built it.
cargo test --quiet -p driftprobe-llama-cpp -p driftprobe-cli --features driftprobe-cli/llama-cpp --no-run
bin=${CARGO_TARGET_DIR:-target}/debug/driftprobe
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1

# The same weights twice: a GGUF file, and what transformers reads from it and writes as its own.
"$python" - "$tmp" <<'PY'
import json, sys
import driftprobe
from transformers import AutoModelForCausalLM

tmp = sys.argv[1]
tokens = {"short": [1, 17, 41, 3, 22, 31, 8], "long": [(i * 37 + 11) % 44 + 2 for i in range(48)]}
json.dump([{"id": i, "tokens": t} for i, t in tokens.items()], open(f"{tmp}/prompts.json", "w"))
model = AutoModelForCausalLM.from_pretrained("fixtures/gguf", gguf_file="llama-f32.gguf", dtype="float32")
model.save_pretrained(f"{tmp}/hf")
model = AutoModelForCausalLM.from_pretrained(f"{tmp}/hf", dtype="float32", attn_implementation="eager").eval()
for out, theta in (("transformers", None), ("faulty", 1.003)):
    if theta:
        model.model.rotary_emb.inv_freq /= theta
    driftprobe.trace(model, None, tokens, out=f"{tmp}/{out}", steps=3, mode="as_designed")
PY

# Exit status, and what the output must say of it.
expect() {
  local want=$1 says=$2
  shift 2
  local got=0 text
  text=$("$bin" "$@") || got=$?
  if [ "$got" != "$want" ] || ! grep -qE "$says" <<<"$text"; then
    printf 'driftprobe %s: exit status %s, expected %s and /%s/:\n%s\n' "$*" "$got" "$want" "$says" "$text" >&2
    exit 1
  fi
  echo "ok ($got): driftprobe $*" | sed "s,$tmp,…,g"
}
llama() {
  local out=$1
  shift
  "$bin" run --engine llama-cpp --model fixtures/gguf/llama-f32.gguf --prompts "$tmp/prompts.json" --steps 3 --layers all \
    --mode as_designed --kv-cache f32 --out "$tmp/$out" "$@" >/dev/null
}
llama one --threads 1
llama two --threads 2
llama micro --threads 1 --ubatch 16
llama fused --threads 1 --flash-attention on

hf=$tmp/hf
gguf=fixtures/gguf/llama-f32.gguf
expect 0 'prefill: PASS \(STRUCTURAL_DRIFT\)' compare "$tmp/transformers" "$tmp/one" --model $hf --second-model $gguf
# GGUF has Q's and K's elements in another order than Hugging Face: in one order they are as near as all the rest.
"$bin" compare "$tmp/transformers" "$tmp/one" --model "$hf" --second-model $gguf --out "$tmp/report" >/dev/null
"$python" - "$tmp/report/compare.json" <<'PY'
import json, sys

phases = json.load(open(sys.argv[1]))["phases"]
assert all(any(note["code"] == "REORDERED" for note in phase["notes"]) for phase in phases)
rows = [row for phase in phases for row in phase["rows"]]
apart = [row for row in rows if not float(row["numbers"]["rel_l2"]) < 1e-5]
assert len(rows) > 200 and any(row["point"] == "k_cache" for row in rows) and not apart, apart[:3]
PY
expect 0 'decode: PASS' compare "$tmp/transformers" "$tmp/fused" --model $hf --second-model $gguf
expect 0 'decode: PASS' compare "$tmp/one" "$tmp/two" --model $gguf
expect 0 'prefill: PASS' compare "$tmp/one" "$tmp/micro" --model $gguf
expect 1 'Cause: in faulty: ROPE_(THETA|SCALING)' compare "$tmp/faulty" "$tmp/one" --model $hf --second-model $gguf
