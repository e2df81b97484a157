#!/usr/bin/env bash
# llama.cpp as an engine: builds it, lints, and runs its tests and the CLI's. Apart from .ci/run's default part, since it needs
# CMake, a C++ compiler and libclang, which are installed where they are missing. Measured on 2 cores, from nothing: 5 minutes
# for llama.cpp itself, which is built once a machine.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
command -v cmake >/dev/null || missing+=(cmake)
command -v g++ >/dev/null || missing+=(g++)
# bindgen looks for libclang by itself; any version that has its headers beside it will do.
ls /usr/lib/llvm-*/lib/libclang*.so* >/dev/null 2>&1 || [ -n "${LIBCLANG_PATH:-}" ] || missing+=(libclang-dev)
if [ ${#missing[@]} -gt 0 ]; then
  apt-get update -qq && apt-get install -y -qq "${missing[@]}"
fi

cargo clippy -p driftprobe-llama-cpp -p driftprobe-cli --features driftprobe-cli/llama-cpp --all-targets -- -D warnings
cargo test -p driftprobe-llama-cpp
cargo test -p driftprobe-cli --features llama-cpp
