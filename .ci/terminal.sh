#!/usr/bin/env bash
# Long work shows its progress on a terminal, and nothing of it in a pipe. Needs `script` (bsdutils or util-linux).
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --quiet -p driftprobe-cli
binary=${CARGO_TARGET_DIR:-$PWD/target}/release/driftprobe
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
long="run --layers all --steps 64 --repeats 3"

status=0
script -qec "stty cols 100; $binary $long --out $dir/terminal" /dev/null >"$dir/shown" 2>&1 || status=$?
[ "$status" = 0 ] || { echo "on a terminal: exit $status"; cat "$dir/shown"; exit 1; }
for word in prefill decode again token-layers/s left; do
  grep -q "$word" "$dir/shown" || { echo "the terminal shows no '$word'"; exit 1; }
done
grep -q $'\x1b\\[3' "$dir/shown" || { echo "the terminal shows no colour"; exit 1; }

status=0
# shellcheck disable=SC2086
"$binary" $long --out "$dir/pipe" >"$dir/out" 2>"$dir/err" || status=$?
[ "$status" = 0 ] || { echo "in a pipe: exit $status"; exit 1; }
[ ! -s "$dir/err" ] || { echo "in a pipe standard error is not empty"; cat "$dir/err"; exit 1; }
! grep -q $'\x1b' "$dir/out" || { echo "in a pipe there are escape sequences"; exit 1; }
echo "1 passed, 0 failed"
