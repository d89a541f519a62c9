#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# usage: install_test.sh BUILD STAGING SANITIZE_FLAGS
#
# Installs BUILD below STAGING, moves the tree (an installed Terse does not remember where it was), and builds
# and runs a user's C and C++ program against it: by find_package and by pkg-config.
set -euo pipefail
build=$1
staging=$2
read -ra flags <<<"${3:-}"
consumer=$(cd "$(dirname "${BASH_SOURCE[0]}")/consumer" && pwd)

rm -rf "$staging"
mkdir -p "$staging"
cmake --install "$build" --prefix "$staging/first" >"$staging/install.log"
mv "$staging/first" "$staging/prefix"

echo "== replacement folders find the preload library and MPI from where they are now"
while IFS= read -r library; do
  needs=$(ldd "$library")
  if grep --quiet "not found" <<<"$needs" || ! grep --quiet "libterse_mpi_" <<<"$needs"; then
    echo "$library: $needs" >&2
    exit 1
  fi
done < <(find "$staging/prefix" -path '*/replace_*/lib*' -type f)

echo "== find_package"
cmake -S "$consumer" -B "$staging/consumer" -DCMAKE_PREFIX_PATH="$staging/prefix" \
  -DCMAKE_C_FLAGS="${flags[*]}" -DCMAKE_CXX_FLAGS="${flags[*]}" >"$staging/configure.log"
cmake --build "$staging/consumer"
"$staging/consumer/consumer_c"
"$staging/consumer/consumer_cxx"

echo "== the next minor version is another API and is refused"
if cmake -S "$consumer" -B "$staging/refused" -DCMAKE_PREFIX_PATH="$staging/prefix" -DTERSE_WANTED=0.2 \
  >"$staging/refused.log" 2>&1; then
  echo "find_package(Terse 0.2) found 0.1" >&2
  exit 1
fi
grep --quiet 'requested version "0.2"' "$staging/refused.log"

echo "== pkg-config"
pc=$(find "$staging/prefix" -name terse.pc)
PKG_CONFIG_PATH=$(dirname "$pc")
export PKG_CONFIG_PATH
read -ra options <<<"$(pkg-config --cflags --libs terse)"
LD_LIBRARY_PATH=$(pkg-config --variable=libdir terse)
export LD_LIBRARY_PATH
"${CC:-cc}" -std=c99 "${flags[@]}" "$consumer/consumer.c" -o "$staging/pc_c" "${options[@]}"
"${CXX:-c++}" -std=c++17 "${flags[@]}" "$consumer/consumer.cc" -o "$staging/pc_cxx" "${options[@]}"
"$staging/pc_c"
"$staging/pc_cxx"

echo "== the headers are C99 and C++17 by themselves"
include=$(pkg-config --variable=includedir terse)
for header in terse.h terse.hpp; do
  language="c"
  standard="c99"
  if [[ $header == *.hpp ]]; then
    language=c++
    standard=c++17
  fi
  "${CC:-cc}" -x "$language" -std="$standard" -Wall -Wextra -Wpedantic -Werror -fsyntax-only -I"$include" - \
    <<<"#include <terse/$header>"
done
