#!/usr/bin/env bash
# What would this probe have seen? Some faults, made in the model at hand and looked for.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

driftprobe power --dtype bf16 --faults ROPE_THETA:1.01 SCALE_MISSING RESIDUAL_DROPPED:mlp KV_NOT_WRITTEN >table
grep -q 'ROPE_THETA:1.01@decode:layer2 .*: named' table
test "$(grep -c ': named' table)" = 4
