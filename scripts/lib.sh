# shellcheck shell=bash disable=SC2034  # what is set here is used there
# What the scripts beside this file have in common; each sources it after `set -euo pipefail`.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# rustup's folder and /usr/sbin (pgbouncer) are not on everybody's PATH.
PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:/usr/sbin

say() { printf '%s\n' "$*" >&2; }
die() { say "scripts/$(basename "$0"): $*"; exit 1; }
wrong_usage() { say "scripts/$(basename "$0"): $*"; usage >&2; exit 2; }
have() { command -v "$1" >/dev/null 2>&1; }

# may_install WHAT PACKAGE…: sets as_root to what runs apt-get as root, or says what has to be done by hand.
may_install() {
  local what=$1
  shift
  as_root=()
  have apt-get || die "$what: not installed, and this is no Debian or Ubuntu. Install what Debian calls '$*' in this system's own way, then run this again."
  [ "$(id -u)" = 0 ] && return
  # Where somebody sits at a terminal, sudo may ask for the password.
  if have sudo && { sudo -n true 2>/dev/null || { [ -t 0 ] && sudo -v; }; }; then
    as_root=(sudo)
  else
    die "$what: not installed, and installing needs root. As root, run: apt-get update && apt-get install --no-install-recommends $*  (then this again)."
  fi
}

# update_packages: reads the package lists anew, once in a run.
update_packages() {
  [ -z "${packages_updated:-}" ] || return 0
  "${as_root[@]}" apt-get update -qq >&2 || die "apt-get update failed (see above). Check the network and the package sources, then run this again."
  packages_updated=1
}

# install_packages WHAT PACKAGE…: from the distribution. No service is started: a policy-rc.d that says no stands
# in for the time of the install, unless the machine has its own.
install_packages() {
  may_install "$@"
  local what=$1
  shift
  say "installing $what from the distribution …"
  update_packages
  # shellcheck disable=SC2016  # the inner shell expands these
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive sh -c '
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
      trap "rm -f $policy" EXIT
      trap "exit 1" HUP INT TERM
      printf "#!/bin/sh\nexit 101\n" >"$policy"
      chmod +x "$policy"
    fi
    apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"' sh "$@" >&2 </dev/null \
    || die "installing $* failed (see above)."
}

# need_rust: cargo, and as new as Cargo.toml asks for.
need_rust() {
  local wanted found
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
  have cargo || die "cargo is not installed. Install Rust $wanted or newer (https://rustup.rs), open a new shell and run this again."
  found=$(cd "$root" && cargo --version | cut -d ' ' -f 2)
  [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" = "$wanted" ] \
    || die "Rust $found is too old; $wanted is the oldest that works. Run: rustup update stable  (a distribution's Rust: see https://rustup.rs), then this again."
}

# need_compiler: what the C parts (SQLite, libdeflate, ring) are built with.
need_compiler() {
  if ! have cc || ! have make; then install_packages "a C compiler" build-essential; fi
}

# build KIND NAME [CARGO-ARGUMENT…]: builds the program (bin oar-tiles) or a benchmark (bench NAME), as release unless BUILD_PROFILE says
# otherwise; sets built to its path. OAR_TILES may name a program that is there already (scripts/test: that of its tests, whose dependencies have
# other features, so that cargo would compile all of them once more).
build() {
  local messages
  if [ "$1" = bin ] && [ -n "${OAR_TILES:-}" ]; then
    built=$OAR_TILES
    return
  fi
  messages=$(cd "$root" && cargo build --profile "${BUILD_PROFILE:-release}" --locked "--$1" "$2" "${@:3}" --message-format json-render-diagnostics) \
    || die "the build failed (see above)."
  # A bench needs the program itself, too, and which of the two cargo names last is a matter of chance.
  built=$(sed -n "/\"kind\":\[\"$1\"\][^}]*\"name\":\"$2\"/s/.*\"executable\":\"\([^\"]*\)\".*/\1/p" <<<"$messages" | tail -n 1)
  [ -x "$built" ] || die "cargo built no $2. Run: cargo build --locked --$1 $2"
}

# start_server: a private PostgreSQL in a new folder, stopped and removed when the script ends. Sets
# server (that folder, of which the script may use "files"), url (socket) and url_tcp (with the password). server_settings may hold
# SETTING=VALUE for it, and server_base where its folder shall lie instead of TMPDIR.
server_settings=()
server_base=
start_server() {
  local base=${server_base:-${TMPDIR:-/tmp}} urls
  # A socket's path holds about 100 characters, and stands in a URL.
  [[ ${#base} -le 50 && $base =~ ^[A-Za-z0-9_./+-]+$ ]] || base=/tmp
  server=$(mktemp -d "$base/oar-tiles.XXXXXX") || die "cannot make a folder in $base. Set TMPDIR to a folder that you can write to."
  trap stop_server EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  # As root, another account runs the server and has to pass through.
  chmod 711 "$server"
  mkdir -m 700 "$server/files"
  urls=$("$root/scripts/postgres" start "$server/pg" "${server_settings[@]}")
  url=${urls%%$'\n'*}
  url_tcp=${urls#*$'\n'}
}

# start_s3: a private S3 server in the folder of start_server, which has to come first. Sets s3_endpoint, s3_key, s3_secret
# and s3_reader.
start_s3() {
  local said
  said=$("$root/scripts/s3" start "$server/s3")
  { read -r s3_endpoint; read -r s3_key; read -r s3_secret; } <<<"$said"
  s3_reader=$(cat "$server/s3/reader")
}

# start_azurite: a private server of Azure Blob Storage's protocol in the folder of start_server, which has to come first. Sets
# azure_endpoint, azure_account and azure_key.
start_azurite() {
  local said
  said=$("$root/scripts/azurite" start "$server/azurite")
  { read -r azure_endpoint; read -r azure_account; read -r azure_key; } <<<"$said"
}

stop_server() {
  "$root/scripts/azurite" stop "$server/azurite" || true
  "$root/scripts/s3" stop "$server/s3" || true
  "$root/scripts/postgres" stop "$server/pg" immediate || true
  rm -rf "$server"
}

# sql URL PSQL-ARGUMENT…: quiet psql that stops at the first error.
sql() {
  local database=$1 psql=psql
  shift
  have psql || psql=$("$root/scripts/postgres" bindir)/psql
  PGOPTIONS='-c client_min_messages=warning' "$psql" -X -q -v ON_ERROR_STOP=1 -d "$database" "$@"
}

# whole_number OPTION VALUE: refuses anything but 1, 2, 3 …
whole_number() {
  [[ $2 =~ ^[1-9][0-9]{0,8}$ ]] || wrong_usage "$1 is '$2', but must be a whole number from 1 to 999999999."
}
