#!/usr/bin/env bash
# Records a small run and gates it; the hook fails unless it passes. Put your engine in the place of the embedded one.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
# run judges too, and exits with 1 or 3 for what the gate then tells.
driftprobe run --prompts "The quick brown fox" --layers 0,1 --repeats 0 --record-only --out "$dir/run" >/dev/null
driftprobe gate "$dir/run"
