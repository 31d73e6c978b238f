# shellcheck shell=bash
# What the steps of a case find. RUNTIME, STATE, LIMIT, bundle, id and here are set by
# runner.py; the current folder is empty and of this case alone.
# shellcheck disable=SC2154  # id, bundle and here come from the environment

# rt VERB...: the runtime, with a store of its own and a limit.
rt() { timeout --kill-after=2 "$LIMIT" "$RUNTIME" --root "$STATE" "$@"; }

run() { rt run --bundle "$bundle" "$@" "$id"; }
create() { rt create --bundle "$bundle" "$@" "$id"; }
start() { rt start "$id"; }
# up: a container that runs; its program must not end by itself.
up() { create "$@" && start; }
status() { rt state "$id" 2>/dev/null | jq -r .status; }
is() { [ "$(status)" = "$1" ]; }
pid() { rt state "$id" | jq -r .pid; }

# until_true CMD...: waits for a condition, not for a time.
until_true() {
    local deadline=$((SECONDS + LIMIT))
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || { echo "timed out after $LIMIT s waiting for: $*"; exit 1; }
        sleep 0.05
    done
}
until_is() { until_true is "$1"; }

# code CMD...: prints the exit code. verdict CMD...: prints whether it succeeded.
code() { local code=0; "$@" >/dev/null 2>&1 || code=$?; echo "$code"; }
verdict() { if "$@" >/dev/null 2>error; then echo ok; else echo refused; fi; }

# tell NAME TEXT: one line of output; the words of TEXT with one space between.
tell() { local name=$1 words; shift; read -ra words <<<"$*"; echo "$name: ${words[*]}"; }

# Edits config.json: bundle_set JQ-EXPRESSION.
bundle_set() { jq "$1" "$bundle/config.json" >config.new && mv config.new "$bundle/config.json"; }

# disk FOLDER: a file system that can have mapped owners, which the testbed's tmpfs cannot.
disk() {
    modprobe loop
    truncate -s 16M disk.image
    mkfs.ext4 -q disk.image
    mkdir "$1"
    mount -o loop disk.image "$1"
    # shellcheck disable=SC2064  # this folder
    trap "umount ${1@Q}" EXIT
}

# hook KIND SCRIPT [NAME=VALUE...]: one more hook, a shell that runs SCRIPT.
hook() {
    jq --arg kind "$1" --arg script "$2" \
        '.hooks[$kind] += [{ path: "/bin/sh", args: ["sh", "-c", $script, "zero"], env: $ARGS.positional }]' \
        --args "${@:3}" <"$bundle/config.json" >config.new &&
        mv config.new "$bundle/config.json"
}

# console SOCKET OUTPUT [INPUT]: receives a terminal and copies what it says, in the background.
console() {
    python3 -I -S "$here/console.py" "$LIMIT" "$@" &
    until_true test -S "$1"
}

# notified SOCKET OUTPUT: a service manager in the background that listens there.
notified() {
    python3 -I -S "$here/notify.py" "$LIMIT" "$@" &
    until_true test -S "$1"
}

# with_python: the container has the testbed's python3.
with_python() {
    # shellcheck disable=SC2016  # jq's
    bundle_set '.mounts += [("/usr", "/lib", "/lib64") | {
        destination: ., type: "bind", source: ., options: ["rbind", "ro"] }]'
}

# systemd: a manager for `--systemd-cgroup`. The testbed has none; a user's, which root may have, stands in
# for the host's: it listens where that would.
systemd() {
    export XDG_RUNTIME_DIR=$PWD/runtime
    mkdir -p "$XDG_RUNTIME_DIR" /run/systemd/system "/sys/fs/cgroup/manager-$id"
    chmod 700 "$XDG_RUNTIME_DIR"
    (
        echo "$BASHPID" >"/sys/fs/cgroup/manager-$id/cgroup.procs"
        exec /lib/systemd/systemd --user --log-target=null
    ) </dev/null >/dev/null 2>&1 &
    # shellcheck disable=SC2064  # this process
    trap "kill $!; wait $! || true; rm -rf /run/systemd/private /run/systemd/system" EXIT
    until_true systemctl --user show --property Version
    ln -sf "$XDG_RUNTIME_DIR/systemd/private" /run/systemd/private
}
