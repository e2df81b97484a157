#!/usr/bin/env bash
# Slow suite: the Python package, built by pip as a user does, against the pinned transformers on a CPU.
#
# Needs Python 3.9 or later (or PYTHON=…), cc and binutils, Rust, and PyPI. The environment is that of .ci/fixtures.sh and is
# kept with it, in .cache/fixtures-venv; what only this suite needs lies beside it, in .cache/python-venv.
# Measured on 2 cores that others kept busy (load 8 to 12), x86_64 Linux: 12 min in all, of which environment 1.5 min, building
# on top of what `cargo test` has built 7 min, the tests 3.3 min; 3.4 min of processor time beside the compiler's.
set -euo pipefail
cd "$(dirname "$0")/.."

.ci/fixtures-venv.sh
base=$PWD/.cache/fixtures-venv
venv=$PWD/.cache/python-venv
package=crates/driftprobe-python

if [ ! -x "$venv/bin/python" ]; then
  "$base/bin/python" -m venv "$venv"
fi
# Readers and writers of Parquet that are not ours: tests/test_parquet.py.
"$venv/bin/pip" install --quiet pytest pandas duckdb polars pyarrow
# torch and transformers are taken from where they are.
"$base/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' \
  >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/fixtures.pth"

# Built in isolation, as a user's is. The dependencies are those of `cargo test`, built already; a user's build is optimised.
PATH=$venv/bin:$PATH "$venv/bin/pip" install --quiet --force-reinstall --no-deps \
  --config-settings=build-args=--profile=dev "./$package"

export PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1
"$venv/bin/python" -m pytest --quiet -p no:cacheprovider "$package/tests"
