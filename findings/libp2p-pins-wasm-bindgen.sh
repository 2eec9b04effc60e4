#!/bin/sh
# Surprise: a program for Linux that depends on libp2p cannot also depend on a current wasm-bindgen, although
# neither is compiled for Linux at all.
#
# libp2p-swarm demands wasm-bindgen-futures in one exact version, under a target table for wasm32. Cargo resolves
# the tables of all targets into one lockfile, and wasm-bindgen-futures in turn demands its exact wasm-bindgen. So the
# whole workspace is held at that version, and one that pins another (as its command-line tool requires)
# does not resolve. Without the pin cargo takes the old version without a word.
# Run: findings/libp2p-pins-wasm-bindgen.sh   (needs cargo and a registry; compiles nothing)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
: >src/lib.rs

package() {
    printf '[package]\nname = "host"\nversion = "0.0.0"\nedition = "2024"\n\n[dependencies]\n' >Cargo.toml
    printf '%s\n' "$@" >>Cargo.toml
    rm -f Cargo.lock
}

version() {
    grep -A1 "^name = \"$1\"\$" Cargo.lock | sed -n 's/^version = "\(.*\)"/\1/p'
}

cargo --version
package 'libp2p = "=0.57.1"' 'wasm-bindgen = "0.2"'
cargo generate-lockfile --quiet
beside=$(version wasm-bindgen)
printf 'libp2p %s, wasm-bindgen "0.2": resolves to wasm-bindgen %s, wasm-bindgen-futures %s\n' \
    "$(version libp2p)" "$beside" "$(version wasm-bindgen-futures)"

package 'wasm-bindgen = "0.2"'
cargo generate-lockfile --quiet
alone=$(version wasm-bindgen)
printf 'wasm-bindgen "0.2" alone: %s\n' "$alone"

package 'libp2p = "=0.57.1"' 'wasm-bindgen = "=0.2.130"'
if cargo generate-lockfile --quiet 2>refused; then
    echo 'libp2p 0.57.1 and wasm-bindgen 0.2.130 resolve together: it is no surprise any more'
    exit 1
fi
echo 'libp2p 0.57.1 with wasm-bindgen =0.2.130: does not resolve:'
grep 'which satisfies dependency\|conflict' refused | sed 's/ (.*)//' | head -4
test "$beside" != "$alone" || { echo 'the versions are the same now'; exit 1; }
