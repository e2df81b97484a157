#!/usr/bin/env bash
# What a bug looks like: decode of layer 3, which is not traced, reads the wrong key heads. The probe sees that something is
# wrong between layers 2 and 4, records layer 3 by itself, and names the bug.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

expect 1 driftprobe run --fault GQA_MAP@decode:layer3 --out run
test -d run/search-1
grep -q '"root_cause": "ATTN_SCORES_DRIFT"' run/report/drift.json
grep -q '"hypothesis": "GQA_MAP"' run/report/drift.json

# A stale slot of the cache: drift that goes away when decode reads prefill's cache was in what its own cache held.
expect 1 driftprobe run --fault KV_DUPLICATED_SLOT:2@decode --prompts 'The learned hold that' --out stale
grep -q '"hypothesis": "KV_DUPLICATED_SLOT"' stale/report/drift.json
