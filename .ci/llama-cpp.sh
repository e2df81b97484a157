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

cargo clippy -p driftprobe-llama-cpp -p driftprobe-cli --features driftprobe-cli/llama-cpp --all-targets -- -D warnings
# In one command: two would build the tensor library twice, each with other features of what lies below it.
cargo test -p driftprobe-llama-cpp -p driftprobe-cli --features driftprobe-cli/llama-cpp
