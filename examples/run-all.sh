#!/usr/bin/env bash
# Runs every example, each in a temporary folder. DRIFTPROBE names a binary to use instead of building one.
set -euo pipefail
if [ -n "${DRIFTPROBE:-}" ]; then
  DRIFTPROBE=$(realpath "$(command -v "$DRIFTPROBE")")
  export DRIFTPROBE
fi
cd "$(dirname "$0")"
output=$(mktemp)
trap 'rm -f "$output"' EXIT
for example in *.sh; do
  case $example in common.sh | run-all.sh) continue ;; esac
  if ! "./$example" >"$output" 2>&1; then
    cat "$output"
    echo "examples/$example failed" >&2
    exit 1
  fi
  echo "ok examples/$example"
done
