#!/usr/bin/env bash
# install.sh PREFIX: builds the C interface and installs header, shared and static library and pkg-config file.
set -euo pipefail
prefix=${1:?usage: install.sh PREFIX}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$prefix/include" "$prefix/lib/pkgconfig"
prefix=$(cd "$prefix" && pwd)
cargo build --release --quiet --manifest-path "$here/Cargo.toml"
target=$(cargo metadata --manifest-path "$here/Cargo.toml" --format-version 1 --no-deps | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$here/../../Cargo.toml")
install -m 644 "$here/include/driftprobe.h" "$prefix/include/"
install -m 644 "$target/release/libdriftprobe_capi.a" "$prefix/lib/"
for library in "$target"/release/libdriftprobe_capi.{so,dylib}; do
  if [ -e "$library" ]; then install -m 755 "$library" "$prefix/lib/"; fi
done
cat >"$prefix/lib/pkgconfig/driftprobe.pc" <<PC
prefix=$prefix
libdir=\${prefix}/lib
includedir=\${prefix}/include

Name: driftprobe
Description: an engine writes what it computes as a run that driftprobe judges
Version: $version
Cflags: -I\${includedir}
Libs: -L\${libdir} -ldriftprobe_capi
Libs.private: -lpthread -ldl -lm
PC
echo "installed driftprobe $version in $prefix"
