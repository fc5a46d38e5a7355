#!/bin/sh
# Builds the static daemon for every architecture this machine can build for: `meshd/build.sh [small]`.
#
# Output: roles/daemon/files/bin/ARCH/meshd, where the roles, the lab and the wheel pick it up.
#
# Without a word it takes a minute and needs next to nothing: the cargo on PATH, its standard library, glibc. The other
# architecture is built with Debian's cross packages (see .ci/packages) where they are installed.
#
# `small` is what is released, half as large: musl instead of glibc, and a standard library compiled here for size, without
# what reads debug information after a panic. It takes minutes, and Debian's rustc-web, cargo-web, rust-web-src and musl-dev
# (`make release` as root installs them). Only nightly compilers may compile their own standard library; RUSTC_BOOTSTRAP=1
# asks a stable one to, with its own sources. Where the tools are missing, that is said and the plain build made.
#
# What it does not do: install anything.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$here/../roles/daemon/files/bin
target_dir=${CARGO_TARGET_DIR:-$here/target}
host=$(uname -m)
# Nothing unwinds (panic = "abort"), so nothing needs the tables for it.
flags='-Ctarget-feature=+crt-static -Cforce-unwind-tables=no'

place() { # ARCH FILE
    mkdir -p "$out/$1"
    # Renamed into place: a lab host may be executing the old file.
    if ! cmp -s "$2" "$out/$1/meshd"; then
        cp "$2" "$out/$1/.meshd.new"
        mv "$out/$1/.meshd.new" "$out/$1/meshd"
    fi
    echo "meshd $1: $(wc -c < "$out/$1/meshd") bytes"
}

compile() { # CARGO TARGET_DIR TRIPLE [OPTION...]
    cargo=$1 into=$2 triple=$3
    shift 3
    "$cargo" build --manifest-path "$here/Cargo.toml" --target-dir "$into" \
        --release --locked --quiet --package meshd --target "$triple" "$@"
}

compiler() { # ARCH: the C compiler for it, which also links
    if [ "$1" = "$host" ]; then echo gcc; else echo "$1-linux-gnu-gcc"; fi
}

plain() { # ARCH
    triple=$1-unknown-linux-gnu
    if [ "$1" = "$host" ]; then
        RUSTFLAGS=$flags compile cargo "$target_dir" "$triple"
        place "$1" "$target_dir/$triple/release/meshd"
    elif [ -x /usr/bin/cargo ] && [ -x /usr/bin/rustc ] && command -v "$(compiler "$1")" > /dev/null &&
        [ -d "$(/usr/bin/rustc --print sysroot)/lib/rustlib/$triple/lib" ]; then
        # Debian's own rustc by its full path: a rustup on PATH has no standard library for this target.
        RUSTC=/usr/bin/rustc \
            CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc \
            CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
            CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS=$flags \
            compile /usr/bin/cargo "$target_dir/cross" "$triple"
        place "$1" "$target_dir/cross/$triple/release/meshd"
    else
        echo "meshd $1: not built, cross tools are missing (make setup as root installs them)"
    fi
}

can_be_small() { # ARCH
    [ -x /usr/bin/cargo ] && [ -x /usr/bin/rustc ] && command -v "$(compiler "$1")" > /dev/null &&
        [ -f "/usr/lib/$1-linux-musl/libc.a" ] &&
        [ -d "$(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust/library/std" ]
}

small() ( # ARCH
    triple=$1-unknown-linux-musl
    musl=/usr/lib/$1-linux-musl
    gcc=$(compiler "$1")
    into=$target_dir/small
    # rustc asks for LLVM's libunwind beside musl; of GCC's, which has the same functions, nothing is used in the end.
    mkdir -p "$into/unwind-$1"
    cp "$("$gcc" -print-file-name=libgcc_eh.a)" "$into/unwind-$1/libunwind.a"
    # Debian's musl is no cross toolchain: its start-up files and its library are named one by one.
    link="-Clinker=$gcc -Clink-self-contained=no -L$into/unwind-$1 -L$musl -Clink-arg=-nostartfiles"
    for part in "$musl/rcrt1.o" "$musl/crti.o" -l:libc.a -lgcc "$musl/crtn.o"; do
        link="$link -Clink-arg=$part"
    done
    export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 RUSTFLAGS="$flags $link"
    export "CC_$1_unknown_linux_musl=$gcc" "CFLAGS_$1_unknown_linux_musl=-isystem /usr/include/$1-linux-musl"
    compile /usr/bin/cargo "$into" "$triple" -Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size
    place "$1" "$into/$triple/release/meshd"
)

architectures=$host
[ "$host" != x86_64 ] || architectures="$host aarch64"
for arch in $architectures; do
    case ${1:-} in
    small)
        if can_be_small "$arch"; then
            small "$arch"
        else
            echo "meshd $arch: the small build lacks tools (.ci/packages release), so it is linked with glibc"
            plain "$arch"
        fi
        ;;
    '') plain "$arch" ;;
    *)
        echo "build: there is no build $1 (hint: small, or nothing)" >&2
        exit 1
        ;;
    esac
done
