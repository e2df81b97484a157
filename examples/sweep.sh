#!/usr/bin/env bash
# Where does the size of attention's blocks begin to tell? In rows of one key more than a block, and the sweep says so.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

expect 0 driftprobe run --sweep prefill-attention=blocked:1024,blocked:32 --steps 32 --prompts 'The quick brown fox' \
  --layers 0,1 --repeats 0 --mode as_designed --out swept
grep -q 'bit-equal to blocked:1024 up to kv_len 32, parts from kv_len 33 on (layer 0, attn_out' swept/sweep.tsv
test -s swept/sweep.png -a -s swept/blocked-32/report/drift.html

# The other settings of this engine; each PASSes, since each is judged under its own arithmetic.
small=(--prompts 'The quick brown fox' --layers 0 --repeats 0 --mode as_designed)
for axis in batch=1,4 kv-cache=f32,bf16 dtype=f32,f16 decode-attention=naive,split-k:2 prefill-chunk=2,64; do
  expect 0 driftprobe run --sweep "$axis" "${small[@]}" --out "by-${axis%%=*}"
done
# One sequence against a batch of four: another kernel in decode, and rounding.
expect 0 driftprobe compare by-batch/1 by-batch/4 --phase decode
