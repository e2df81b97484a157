#!/usr/bin/env bash
# Runs the examples that each command's --help shows, on small things under the names that they use, so that help and program
# stay in step. Every command shows two at least. DRIFTPROBE names a binary to use instead of building one.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
if [ -z "${DRIFTPROBE:-}" ]; then
  cargo build --release --quiet -p driftprobe-cli
  DRIFTPROBE=${CARGO_TARGET_DIR:-$PWD/target}/release/driftprobe
fi
binary=$(realpath "$DRIFTPROBE")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin" "$work/here"
ln -s "$binary" "$work/bin/driftprobe"
export PATH=$work/bin:$PATH
cd "$work/here"

# What the examples speak of.
dumps=$root/fixtures/import-dumps
mkdir models runs logits
ln -s "$root/crates/driftprobe-model/demo" models/qwen2.5-0.5b
ln -s "$root/fixtures/transformers-traces/models/llama" models/qwen3-8b
ln -s "$root/crates/driftprobe-model/demo/model.gguf" llama.gguf
ln -s "$root/fixtures/transformers-traces/models/llama" model
ln -s "$root/crates/driftprobe-cli/prompts" prompts
cp -r "$root/crates/driftprobe-trace/tests/fixtures/greta/drift" traces
cp -r traces runs/greta
ln -s "$dumps/sglang-hook" dump
ln -s "$dumps/huggingface/prefill" a
ln -s "$dumps/huggingface/decode" b
ln -s "$dumps/passes" nodes
ln -s "$dumps/greta" greta
cp "$root/crates/driftprobe-import/src/maps/transformers.toml" own.toml
echo '[1, 37, 90, 12, 55, 101, 7, 64]' >tokens.json
small=(run --prompts "The quick brown fox" --layers 0,1 --repeats 0 --mode as_designed --record-only)
for name in old new whole; do driftprobe "${small[@]}" --out "runs/$name" >/dev/null; done
driftprobe "${small[@]}" --prefill-chunk 2 --out runs/chunked >/dev/null
driftprobe "${small[@]}" --seed 1 --out runs/nightly/a >/dev/null
driftprobe export runs/old --parquet dataset --name baseline >/dev/null
for part in 1 2; do driftprobe analyze runs/old runs/new --shard $part/2 --out node-$part >/dev/null; done
driftprobe analyze runs/old --by-prompt --out results >/dev/null
printf 'seeds = [1]\nkv_aligned = [0]\ndtype = "f32"\n' >matrix.toml
for name in transformers llama-cpp; do
  driftprobe import "$dumps/sglang-hook" --model model --contract f32 --out "runs/$name" >/dev/null
done
for mode in prefill decode; do
  mkdir "logits/$mode"
  printf '{"mode": "%s", "kv_aligned": 1, "token_span": {"start": 0, "count": 2}}' "$mode" >"logits/$mode/metadata.json"
  printf '{"token_idx": %s, "token_id": 7, "logits": [%s, 1.5, 0]}\n' 0 2 1 3 >"logits/$mode/logits.jsonl"
done
for phase in prefill decode; do
  printf '{"sequence": "s", "index": %s, "token_id": 7, "logprob": -%s, "phase": "'$phase'"}\n' 3 0.5 4 1.25 >"$phase.jsonl"
done

# Examples that do not exit with 0 here, and why.
status() {
  case $1 in
    *"analyze runs/greta"* | *"analyze traces/"*) echo 3 ;; # traces of hashes carry no PASS
    *"--engine llama-cpp"*) echo 2 ;;                       # not in this build
    *"--remote me@mi300x"*) echo 2 ;;                       # no such machine
    *"analyze runs/sglang"*) echo "0 3" ;;                  # as much as the dump tells
    *) echo 0 ;;
  esac
}

ran=0
commands=$(driftprobe --help | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p' | grep -v '^help$')
for command in "" $commands; do
  # shellcheck disable=SC2086
  driftprobe $command --help >help.txt
  sed -n '/^Examples:/,$s/^  \(driftprobe.*\)/\1/p' help.txt | sed 's/   *[a-z].*$//' >examples.txt
  if [ "$(wc -l <examples.txt)" -lt 2 ]; then
    echo "driftprobe $command --help shows fewer than two examples" >&2
    exit 1
  fi
  while IFS= read -r example; do
    got=0
    bash -c "$example" >out.txt 2>&1 </dev/null || got=$?
    if [[ " $(status "$example") " != *" $got "* ]]; then
      cat out.txt
      echo "$example: exit status $got, expected $(status "$example")" >&2
      exit 1
    fi
    if grep -q "unexpected argument\|unrecognized subcommand\|invalid value" out.txt; then
      cat out.txt
      exit 1
    fi
    ran=$((ran + 1))
  done <examples.txt
done
echo "$ran examples of --help ran"
