# Sourced by the examples: a temporary folder to work in, the program, and a check of its exit status.
set -euo pipefail
examples=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$examples")
if [ -n "${DRIFTPROBE:-}" ]; then DRIFTPROBE=$(command -v "$DRIFTPROBE" | xargs realpath); fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# The binary that DRIFTPROBE names, or the one that cargo builds.
driftprobe() {
  if [ -n "${DRIFTPROBE:-}" ]; then
    "$DRIFTPROBE" "$@"
  else
    cargo run --release --quiet --manifest-path "$root/Cargo.toml" -- "$@"
  fi
}

# expect STATUS COMMAND…: runs the command and insists on its exit status.
expect() {
  local status=0 expected=$1
  shift
  "$@" || status=$?
  if [ "$status" != "$expected" ]; then
    echo "$*: exit status $status, expected $expected" >&2
    exit 1
  fi
}
