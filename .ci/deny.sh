#!/usr/bin/env bash
# Licences, sources and duplicate dependencies, by cargo-deny.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.20.2
if [ "$(cargo deny --version 2>/dev/null)" != "cargo-deny $version" ]; then
  cargo install --quiet --locked --force cargo-deny --version "$version"
fi
# Advisories come from a database that is fetched over the network; where it cannot be had, the rest is checked all the same.
cargo deny check bans licenses sources
if ! cargo deny fetch db >/dev/null 2>&1; then
  echo "the advisory database cannot be reached from here: advisories are not checked" >&2
else
  cargo deny check advisories
fi
