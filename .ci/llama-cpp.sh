#!/usr/bin/env bash
# llama.cpp as an engine: builds it, lints, and runs its tests and the CLI's. Apart from .ci/run's default part, since it needs
# CMake, a C++ compiler and libclang, which are installed where they are missing. Measured on 2 cores, from nothing: 5 minutes
# for llama.cpp itself, which is built once a machine.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
command -v cmake >/dev/null || missing+=(cmake)
command -v g++ >/dev/null || missing+=(g++)
# bindgen looks for libclang by itself; any version that has its headers beside it will do. libclang-cpp, which LLVM's own
# packages bring, is another library.
has_libclang() {
  local lib
  for lib in /usr/lib/llvm-*/lib; do
    if compgen -G "$lib/libclang[.-][!c]*" >/dev/null && compgen -G "$lib/clang/*/include/stddef.h" >/dev/null; then return; fi
  done
  [ -n "${LIBCLANG_PATH:-}" ]
}
has_libclang || missing+=(libclang-dev)
if [ ${#missing[@]} -gt 0 ]; then
  apt-get update -qq && apt-get install -y -qq "${missing[@]}"
fi

# All of the workspace but what Python builds, once and with everything in it.
cargo clippy --workspace --exclude driftprobe-python --features driftprobe-cli/llama-cpp --all-targets -- -D warnings

# In one command: two would build the tensor library twice. Of the program's own tests, which have run without llama.cpp, those in
# which an engine has no part stay out.
apart=()
for module in by_prompt changed clock determinism disk export gate killed pipe reach report sweep together vacuous volume; do
  apart+=(--skip "$module::")
done
cargo test -p driftprobe-llama-cpp -p driftprobe-cli --features driftprobe-cli/llama-cpp -- "${apart[@]}"
