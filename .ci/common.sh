# shellcheck shell=bash
# What every script of this repository needs: where the cache is, how to say
# something, how to install a missing Debian package. Source it, do not run it.

# Top of the checkout.
# shellcheck disable=SC2034  # used by those who source this
VMRUN_TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Everything that is costly to make and named by the hash of its inputs lives
# here, outside the checkout, and is shared by all checkouts of one user.
# `VMRUN_CACHE` overrides. Removing the folder is always safe.
VMRUN_CACHE=${VMRUN_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/vmrun}

# say TEXT: one line of progress. Progress is talk, so it goes to stderr.
say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }

# die TEXT: one line of failure; name the act, the object and the next step.
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# run_logged LOG CMD...: runs a long command quietly with a line of progress
# every few seconds (elapsed time and the log's last line); on failure shows the
# tail of the log.
run_logged() {
    local log=$1 pid start rc=0
    shift
    mkdir -p "$(dirname "$log")"
    start=$SECONDS
    "$@" >"$log" 2>&1 </dev/null &
    pid=$!
    while ! timeout 5 tail --pid="$pid" -f /dev/null 2>/dev/null; do
        printf '    %4ds  %.90s\n' "$((SECONDS - start))" "$(tail -n 1 "$log" | tr -d '\r')" >&2
    done
    wait "$pid" || rc=$?
    if [ "$rc" -ne 0 ]; then
        tail -n 40 "$log" >&2
        printf 'error: %s failed with status %s after %s s; the whole log is %s\n' \
            "$1" "$rc" "$((SECONDS - start))" "$log" >&2
    fi
    return "$rc"
}

# as_root CMD...: runs CMD as root, through sudo where we are not root.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -- "$@"; fi
}

# need_packages NAME...: installs the Debian packages that are not installed.
need_packages() {
    local missing=() name
    for name in "$@"; do
        dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    command -v apt-get >/dev/null || die "cannot install ${missing[*]}: no apt-get here; install them by hand and run this again"
    say "installing Debian packages: ${missing[*]}"
    run_logged "$VMRUN_CACHE/log/apt-update.log" as_root apt-get -q update
    run_logged "$VMRUN_CACHE/log/apt-install.log" \
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install "${missing[@]}"
}
