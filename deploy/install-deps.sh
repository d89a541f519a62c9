#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs what Terse is built from and tested with, on Debian 12 (and relatives with the same package
# names). Prints nothing and touches nothing when all of it is there; needs root or sudo only when something
# is missing.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: deploy/install-deps.sh [--no-examples]

Installs the Debian packages that Terse is built from and tested with. Says and does nothing when all of
them are there. Needs root or sudo only when something is missing.

  --no-examples   leave out what only the examples need: libtorch and the Fashion-MNIST data (650 MB of disk)
  --help          this text
TEXT
}

examples=yes
while (($# > 0)); do
  case $1 in
    --no-examples) examples=no ;;
    -h | --help)
      usage
      exit 0
      ;;
    *)
      echo "install-deps.sh: unknown option '$1'" >&2
      usage >&2
      exit 2
      ;;
  esac
  shift
done

packages=(
  # To build.
  g++ cmake ninja-build pkg-config git
  # Libraries of the product.
  libabsl-dev      # status, strings, spans
  libhwy-dev       # SIMD with dispatch at run time, for the kernels
  libyaml-cpp-dev  # configuration files
  libcli11-dev     # the command line of `terse`
  nlohmann-json3-dev # reports
  # The controller: its schema and server, its store, its log.
  libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc libsqlite3-dev libspdlog-dev
  # Transports. Both MPIs live side by side; the scripts call mpirun.openmpi and mpirun.mpich by name.
  libopenmpi-dev openmpi-bin
  libmpich-dev mpich
  # Tests and checks.
  gfortran python3-mpi4py # programs under the preload library
  libgtest-dev libgmock-dev
  python3 # the checks of tests/house: the standard library is enough
  clang-format clang-tidy shellcheck
  openssl     # certificates for the controller's tests
  iproute2    # hosts and links of benchmarks/testbed
  libgloo-dev # a dense all-reduce to compare with
  clang-14 libclang-rt-14-dev # libFuzzer and its sanitizers, for deploy/fuzz.sh
)
if [[ $examples == yes ]]; then
  packages+=(
    libtorch-dev           # the networks
    libopenblas0-pthread   # their matrix products; the reference BLAS takes ten times as long
    zlib1g-dev             # the data files are gzipped
    dataset-fashion-mnist  # 70,000 labelled pictures
  )
fi

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "install-deps.sh: this machine has no apt; install the equivalents of these Debian 12 packages:" >&2
  printf '  %s\n' "${packages[@]}" >&2
  exit 1
fi

missing=()
for package in "${packages[@]}"; do
  # A package that dpkg has never heard of makes dpkg-query fail, which is one more way of missing.
  status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) || status=unknown
  [[ $status == installed ]] || missing+=("$package")
done
((${#missing[@]} > 0)) || exit 0

if ((EUID == 0)); then
  as_root=()
elif command -v sudo >/dev/null; then
  as_root=(sudo)
else
  echo "install-deps.sh: these packages are missing, and this is neither root nor is there a sudo:" >&2
  printf '  %s\n' "${missing[@]}" >&2
  echo "As root, run: apt-get update && apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi

echo "Installing ${#missing[@]} packages: ${missing[*]}"
# `env`, because sudo clears the environment; the lock is waited for, because a fresh machine may be busy
# with its own updates.
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
"${apt[@]}" update
"${apt[@]}" install --yes --no-install-recommends "${missing[@]}" >/dev/null
echo "Installed."
