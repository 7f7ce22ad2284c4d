# shellcheck shell=bash
# What every script in .make/ shares: paths, versions and how to say things. Sourced, never run.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
export ROOT

# The PostgreSQL that the private clusters run and the extension is built for. Debian's layout.
PG_MAJOR=${PG_MAJOR:-15}
PG_TREE=/usr/lib/postgresql/$PG_MAJOR
PG_SHARE=/usr/share/postgresql/$PG_MAJOR
PG_BIN=$PG_TREE/bin

# Where cargo builds, and where the packaged extension is put (a tree that starts at /).
TARGET_DIR=${CARGO_TARGET_DIR:-$ROOT/target}
EXT_PACKAGE=$TARGET_DIR/extension
API_BIN=${API_BIN:-$TARGET_DIR/release/auth-api}
# Programs that only tests run, unpacked from Debian's packages.
TOOLS_DIR=$TARGET_DIR/tools

# One way to name the pg_config for cargo-pgrx and for plain cargo: the same value everywhere, or cargo would build
# pgrx again at each change. With it, no ~/.pgrx is needed, and a developer's own stays as it is.
export PGRX_PG_CONFIG_PATH=$PG_BIN/pg_config
# cargo-pgrx passes a linker flag as RUSTFLAGS, which would compile every dependency a second time;
# pg_ext/build.rs passes the same flag to the extension alone.
export CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND=1

# Builds for the PostgreSQL of this pg_config from here on: bindings are made from that server's headers, so another
# major than PG_MAJOR gets a target directory of its own, where pgrx is built again.
use_pg_config() {
  [ -x "$1" ] || die "$1 is not a program that can be run"
  local major
  major=$("$1" --version | sed -n 's/^PostgreSQL \([0-9]*\).*/\1/p')
  case $major in
  15 | 16 | 17 | 18) ;;
  *) die "$1 is of '$("$1" --version)': PostgreSQL 15 to 18 are supported" ;;
  esac
  [ -d "$("$1" --includedir-server)" ] ||
    die "the headers of PostgreSQL $major are missing ($("$1" --includedir-server)): install postgresql-server-dev-$major"
  if [ "$major" != "$PG_MAJOR" ]; then export CARGO_TARGET_DIR=$TARGET_DIR/pg$major; fi
  EXT_PACKAGE=${CARGO_TARGET_DIR:-$TARGET_DIR}/extension
  PG_MAJOR=$major
  export PGRX_PG_CONFIG_PATH=$1
}

# Builds the extension into EXT_PACKAGE. The one there stays whole until the new one is.
package_extension() {
  rm -rf "$EXT_PACKAGE.new"
  cargo pgrx package --package auth_sessions --pg-config "$PGRX_PG_CONFIG_PATH" --out-dir "$EXT_PACKAGE.new" >/dev/null
  rm -rf "$EXT_PACKAGE"
  mv "$EXT_PACKAGE.new" "$EXT_PACKAGE"
}

RUN_DIR=${RUN_DIR:-$ROOT/.run}
case $RUN_DIR in /*) ;; *) RUN_DIR=$PWD/$RUN_DIR ;; esac

say() { printf '%s\n' "$*" >&2; }
step() { printf '==> %s\n' "$*" >&2; }
die() {
  printf 'auth_sessions: %s\n' "$*" >&2
  exit 1
}

# The pinned versions are those of Cargo.toml.
pgrx_version() { sed -n 's/^pgrx = "=\(.*\)"$/\1/p' "$ROOT/Cargo.toml"; }
extension_version() { sed -n 's/^version = "\(.*\)"$/\1/p' "$ROOT/Cargo.toml"; }
rust_version() { sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$ROOT/Cargo.toml"; }

# 32 random bytes as base64url without padding: the form of every key the service reads.
random_key() { head -c 32 /dev/urandom | base64 -w0 | tr '+/' '-_' | tr -d '='; }

# rustup puts cargo into ~/.cargo/bin, which a login shell of before the installation does not look at.
if ! command -v cargo >/dev/null && [ -x "${HOME:-/}/.cargo/bin/cargo" ]; then
  PATH=$HOME/.cargo/bin:$PATH
fi
