#!/usr/bin/env bash
# What a trainer sees: a rollout's log-probabilities, made by decode, against those of one prefill of the whole sequence.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# A sound engine in bf16: they differ, and the worst token is rounding down to its first tensor.
expect 0 driftprobe logprobs --dtype bf16 --tokens 24 --temperature 1 --preset sglang-kl --out sound
grep -q '"outcome": "PASS"' sound/report/logprobs.json
grep -q '"kind": "STRUCTURAL"' sound/report/logprobs.json

# Decode rotates its queries and keys one position too far in one layer: the worst token names it.
expect 1 driftprobe logprobs --tokens 24 --fault ROPE_POSITION_OFFSET:+1@decode:layer2 --out faulty
grep -q '"hypotheses"' faulty/report/logprobs.json
grep -q 'ROPE_POSITION_OFFSET (offset +1) in decode' faulty/report/logprobs.md

# The scores alone, as a trainer may have dumped them: how far apart they are, and nothing of why.
expect 0 driftprobe logprobs faulty/prefill.jsonl faulty/decode.jsonl
expect 1 driftprobe logprobs faulty/prefill.jsonl faulty/decode.jsonl --max-mean-abs 0.001
# One file twice is no comparison.
expect 3 driftprobe logprobs faulty/prefill.jsonl faulty/prefill.jsonl
