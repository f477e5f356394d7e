# Sourced by the other scripts: puts what they need on a Debian machine, and only what is missing.
# Nothing here is installed twice, and apt is not called when everything is there.

SUDO=
[ "$(id -u)" -eq 0 ] || SUDO=sudo
APT_UPDATED=

say() { printf '== %s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

apt_update() {
    [ -z "$APT_UPDATED" ] || return 0
    say "apt-get update"
    $SUDO env DEBIAN_FRONTEND=noninteractive apt-get -q update </dev/null || say "apt-get update had errors; going on with what is known"
    APT_UPDATED=yes
}

# apt_install PACKAGE...  (a leading "-t RELEASE" is passed on)
apt_install() {
    have apt-get || die "this machine has no apt-get; please install: $*"
    apt_update
    say "apt-get install $*"
    $SUDO env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install "$@" </dev/null
}

# need COMMAND=PACKAGE...: installs the packages of the commands that are missing, in one go.
need() {
    local pair missing=()
    for pair in "$@"; do
        have "${pair%%=*}" || [ -x "/usr/sbin/${pair%%=*}" ] || [ -x "/sbin/${pair%%=*}" ] || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}" || die "could not install: ${missing[*]}"
}

# A C compiler with the C library's headers: some crates build C code.
need_compiler() {
    need cc=gcc
    [ -e /usr/include/stdio.h ] || apt_install libc6-dev || die "could not install libc6-dev"
}

# version_at_least HAVE WANTED
version_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

rust_is_new_enough() {
    local wanted found
    wanted=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml)
    found=$(rustc --version 2>/dev/null | cut -d' ' -f2)
    [ -n "$found" ] && version_at_least "$found" "$wanted"
}

# cargo and rustc as Cargo.toml asks for: what is there, else Debian's, else the official installer.
need_rust() {
    PATH="$HOME/.cargo/bin:$PATH"
    export PATH
    if have cargo && rust_is_new_enough; then return 0; fi
    if have rustup; then
        rustup toolchain install stable --profile default --no-self-update && rustup default stable
    else
        apt_update
        if [ -n "$(apt-cache policy rustup 2>/dev/null | sed -n 's/^ *Candidate: *\([^(]*\)$/\1/p')" ]; then
            apt_install rustup && rustup default stable
        else
            need curl=curl update-ca-certificates=ca-certificates
            say "installing Rust with the official installer (rustup)"
            curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile default
        fi
    fi
    hash -r
    have cargo && rust_is_new_enough || die "needs Rust $(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml) or later"
}

# What a statically linked program is built with: Rust's library for musl, and a compiler for musl for the crates that
# build C code.
STATIC_TARGET=$(uname -m)-unknown-linux-musl
need_static() {
    need_compiler
    need musl-gcc=musl-tools
    need_rust
    [ ! -d "$(rustc --print sysroot)/lib/rustlib/$STATIC_TARGET" ] || return 0
    have rustup || die "Rust's library for $STATIC_TARGET is missing, and so is rustup, which would install it"
    rustup target add "$STATIC_TARGET" || die "could not install Rust's library for $STATIC_TARGET"
}

reference_version() { /usr/bin/qemu-img --version 2>/dev/null | sed -n 's/^qemu-img version \([0-9.]*\).*/\1/p'; }
reference_is_10() { case "$(reference_version)" in 10.0*) return 0 ;; *) return 1 ;; esac; }

# The reference tools, version 10.0: the release's own where it has that, else from its backports; where neither
# has it, whatever can be had (the caller asks reference_is_10 and leaves out what depends on it).
need_reference() {
    reference_is_10 && [ -x /usr/bin/qemu-io ] && return 0
    have apt-get || return 0
    apt_update
    if apt_candidate_is_10; then apt_install qemu-utils || true; return 0; fi
    local codename
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    if [ -n "$codename" ] && ! apt_has_10; then
        say "qemu-utils 10.0 is not in $codename; adding $codename-backports"
        printf 'Types: deb\nURIs: http://deb.debian.org/debian\nSuites: %s-backports\nComponents: main\n%s' "$codename" \
            "$([ -e /usr/share/keyrings/debian-archive-keyring.gpg ] && echo 'Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg')" |
            $SUDO tee /etc/apt/sources.list.d/qemu-img-rs-backports.sources >/dev/null
        APT_UPDATED=
        apt_update
        if ! apt_has_10; then $SUDO rm -f /etc/apt/sources.list.d/qemu-img-rs-backports.sources; fi
    fi
    if apt_has_10; then
        apt_install -t "$codename-backports" qemu-utils && return 0
    fi
    [ -n "$(reference_version)" ] || apt_install qemu-utils || true
}

apt_candidate_is_10() { apt-cache policy qemu-utils | grep -Eq '^ *Candidate: 1:10\.0\.'; }
apt_has_10() { apt-cache madison qemu-utils 2>/dev/null | grep -Eq '\| 1:10\.0\.'; }
