#!/usr/bin/env bash
# An engine in C++ that writes a run through the C interface, built against the installed library; then the same with a bug.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

"$root/crates/driftprobe-capi/install.sh" "$work/prefix"
export PKG_CONFIG_PATH=$work/prefix/lib/pkgconfig
model=$root/fixtures/hf/llama

# Linked with the shared library, as pkg-config says; and with the static one.
read -ra flags <<<"$(pkg-config --cflags --libs driftprobe)"
c++ -std=c++17 -O2 -Wall -Wextra -Werror -o engine "$examples/embedding/engine.cpp" "${flags[@]}" -Wl,-rpath,"$work/prefix/lib"
read -ra static <<<"$(pkg-config --cflags driftprobe)"
c++ -std=c++17 -O2 -o engine-static "$examples/embedding/engine.cpp" "${static[@]}" "$work/prefix/lib/libdriftprobe_capi.a" -lpthread -ldl -lm

./engine "$model/model.safetensors" run
expect 0 driftprobe analyze run --model "$model"
grep -q '"sub_verdict": "STRUCTURAL_DRIFT"' run/report/drift.json

./engine-static "$model/model.safetensors" faulty fault
expect 1 driftprobe analyze faulty --model "$model"
grep -q '"hypothesis": "ROPE_POSITION_OFFSET"' faulty/report/drift.json
