#!/usr/bin/env bash
# Fuzzes one target: fuzz/run.sh TARGET [EXECUTIONS]. Prints libFuzzer's statistics at the end; what is found lies in fuzz/artifacts/TARGET.
# Needs a nightly toolchain, cargo-fuzz and Python (for corpus.py).
set -euo pipefail
cd "$(dirname "$0")"
target=$1 runs=${2:-10000000}
# One input may be this long: enough for every part of a format, short enough to be mutated well.
case $target in
  manifest | config | index | gguf | tokenizer | layers) len=1024 ;;
  parquet) len=1280 ;;
  matrix | plan | prompts) len=256 ;;
  *) len=512 ;;
esac
features=()
case $target in
  contract | layers | matrix | plan | prompts) features=(--features program) ;;
  config | gguf | gguf_built | safetensors | tokenizer | weight_files) features=(--features models) ;;
esac
[ -d "corpus/$target" ] || python3 corpus.py corpus
# No sanitizer: the readers are safe Rust, and the targets count memory themselves (crates/driftprobe-hostile). Debug assertions
# and overflow checks are on.
export RAYON_NUM_THREADS=1
cargo +nightly fuzz run -s none "${features[@]}" "$target" -- -runs="$runs" -max_len=$len -rss_limit_mb=512 \
  -malloc_limit_mb=256 -timeout=60 -print_final_stats=1 -reduce_inputs=0 -entropic_scale_per_exec_time=1
