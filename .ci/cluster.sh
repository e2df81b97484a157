#!/usr/bin/env bash
# Slow suite: driftprobe on a real Ray cluster of two one-core nodes on this machine, with a folder and with a real S3 server
# (moto's, over HTTP): the same bytes as one machine, nodes and workers killed on the way, and nothing missing that passes.
# Prints what two nodes buy; that is reported and not checked.
#
# Needs Linux, Python 3.10 or later (or PYTHON=…), Rust and PyPI. Ray takes 240 MB on disk, boto3 and moto 140 MB; the environment
# is kept in .cache/cluster-venv.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=$PWD/.cache/cluster-venv
package=crates/driftprobe-python
if [ ! -x "$venv/bin/moto_server" ]; then
  rm -rf "$venv"
  "${PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/pip" install --quiet --no-cache-dir ray pytest boto3
  # Not moto[server], which brings all that other services than S3 need.
  "$venv/bin/pip" install --quiet --no-cache-dir moto flask flask-cors py-partiql-parser
fi
# Built as .ci/python.sh builds it.
PATH=$venv/bin:$PATH "$venv/bin/pip" install --quiet --force-reinstall --no-deps \
  --config-settings=build-args=--profile=dev "./$package"

# Ray runs workers at niceness 15, which on a busy machine is a cluster that does nothing.
export PYTHONDONTWRITEBYTECODE=1 RAY_USAGE_STATS_ENABLED=0 RAY_worker_niceness=0
# Without the other tests' conftest, which needs torch.
"$venv/bin/python" -m pytest --quiet --noconftest -p no:cacheprovider "$package"/tests/test_{matrix,s3,cluster,cluster_s3}.py
"$venv/bin/python" "$package/cluster_cost.py" --rounds 1
