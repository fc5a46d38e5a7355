#!/bin/sh
# Builds the static daemon for every architecture this machine can build for.
#
# Output: roles/daemon/files/bin/ARCH/meshd, where the roles, the lab and the wheel pick it up.
# The machine's own architecture is built with the cargo on PATH. The other one is built with Debian's
# cross packages (see .ci/packages) where they are installed; where they are not, that is said and left out.
#
# What it does not do: install anything (`make setup` does).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$here/../roles/daemon/files/bin
target_dir=${CARGO_TARGET_DIR:-$here/target}

place() { # ARCH TRIPLE
    mkdir -p "$out/$1"
    built=$target_dir/$2/release/meshd
    # Renamed into place: a lab host may be executing the old file.
    if ! cmp -s "$built" "$out/$1/meshd"; then
        cp "$built" "$out/$1/.meshd.new"
        mv "$out/$1/.meshd.new" "$out/$1/meshd"
    fi
    echo "meshd $1: $(wc -c < "$out/$1/meshd") bytes"
}

host=$(uname -m)
RUSTFLAGS='-C target-feature=+crt-static' \
    cargo build --manifest-path "$here/Cargo.toml" --target-dir "$target_dir" \
    --release --locked --quiet --package meshd --target "$host-unknown-linux-gnu"
place "$host" "$host-unknown-linux-gnu"

if [ "$host" = x86_64 ]; then
    if [ -x /usr/bin/cargo ] && [ -x /usr/bin/rustc ] && command -v aarch64-linux-gnu-gcc > /dev/null &&
        [ -d "$(/usr/bin/rustc --print sysroot)/lib/rustlib/aarch64-unknown-linux-gnu/lib" ]; then
        # Debian's own rustc by its full path: a rustup on PATH has no standard library for this target.
        RUSTC=/usr/bin/rustc \
            CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc \
            CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
            CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS='-C target-feature=+crt-static' \
            /usr/bin/cargo build --manifest-path "$here/Cargo.toml" --target-dir "$target_dir/cross" \
            --release --locked --quiet --package meshd --target aarch64-unknown-linux-gnu
        target_dir=$target_dir/cross place aarch64 aarch64-unknown-linux-gnu
    else
        echo "meshd aarch64: not built, cross tools are missing (make setup as root installs them)"
    fi
fi
