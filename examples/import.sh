#!/usr/bin/env bash
# Dumps of other tools made into runs and judged: a sound one passes (0), one with a fault in it fails (1), and one that
# does not tell its tokens is INCONCLUSIVE (3).
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
dumps=$root/fixtures/import-dumps
model=$root/fixtures/transformers-traces/models/llama
echo '[1, 37, 90, 12, 55, 101, 7, 64]' >tokens.json

expect 0 driftprobe import "$dumps/sglang-hook" --model "$model" --contract f32 --out sound >import.txt
grep -q '8 tokens: prefill' import.txt
grep -q 'complete: tokens and positions are known' import.txt
expect 0 driftprobe analyze sound

expect 0 driftprobe import "$dumps/sglang-hook-fault" --model "$model" --contract f32 --out faulty
expect 1 driftprobe analyze faulty
grep -q 'q_post_rope' faulty/report/drift.md

for dump in msprobe huggingface; do
  expect 0 driftprobe import "$dumps/$dump" --model "$model" --contract f32 --out "$dump"
done
expect 0 driftprobe import "$dumps/passes" --map transformers --model "$model" --contract f32 --out passes
expect 0 driftprobe analyze passes

# Logits only, and nothing tells their positions until somebody does.
expect 0 driftprobe import "$dumps/llama-cpp" --model "$model" --out unknown >import.txt
grep -q 'not known: token, index or position' import.txt
expect 3 driftprobe analyze unknown
for dump in llama-cpp rows greta; do
  expect 0 driftprobe import "$dumps/$dump" --tokens tokens.json --positions-from 0 --model "$model" --out "known-$dump" >import.txt
  grep -q 'complete: tokens and positions are known' import.txt
done

# A map that fits nothing, and a file that is a program.
expect 2 driftprobe import "$dumps/msprobe" --map llama-cpp --out none
