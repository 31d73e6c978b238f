# shellcheck shell=bash
# What the client scripts share: cases, what they expect, waiting. Source it; then
# `try NAME FUNCTION` for each case, and `finish` at the end.

# Set by those who source this: the client's name, and the folder of these scripts.
: "${client:=}" "${here:=}"

# The longest that any one call of a client may take, and any wait here.
limit=60

tried=0 failed=0 why=''

# try NAME FUNCTION [WORD...]: one case. It fails when the function does; `why` says how.
try() {
    local before=$SECONDS
    tried=$((tried + 1)) why='see above'
    if [[ "$client: $1" != *"${VMRUN_CLIENTS_ONLY:-}"* ]]; then
        tried=$((tried - 1))
    elif "${@:2}"; then
        printf 'ok %s: %s (%s s)\n' "$client" "$1" $((SECONDS - before))
    else
        printf 'FAIL %s: %s: %s (%s s)\n' "$client" "$1" "$why" $((SECONDS - before))
        failed=$((failed + 1))
    fi
}

# try_but_on RUNTIME WHY NAME FUNCTION: a case that RUNTIME, one of vmrun's peers,
# is known to fail.
try_but_on() {
    if [ "$RUNTIME" = "$1" ]; then printf 'left out %s: %s: %s\n' "$client" "$3" "$2"; else try "${@:3}"; fi
}

# try_in_full NAME FUNCTION [WORD...]: a case that vmrun meets always, and its peers where all is run in full.
try_in_full() {
    if [ "$RUNTIME" = vmrun ] || [ -z "${VMRUN_CLIENTS_SAMPLE:-}" ]; then try "$@"; fi
}

# same WHAT WANTED GOT: the last line of most cases.
same() {
    why="$1: wanted $(printf %q "$2"), got $(printf %q "$3")"
    [ "$2" = "$3" ]
}

# says WANTED CMD...: what CMD writes to standard output, and that it succeeds.
says() {
    local wanted=$1 got status=0
    shift
    got=$("$@") || status=$?
    same "output and status" "$wanted / 0" "${got//$'\r'/} / $status"
}

# ends WANTED CMD...: CMD's exit status.
ends() {
    local wanted=$1 status=0
    shift
    "$@" >/dev/null || status=$?
    same "exit status" "$wanted" "$status"
}

# until_true WHAT CMD...: waits for a condition, not for a time.
until_true() {
    local what=$1 deadline=$((SECONDS + limit))
    shift
    until "$@" >/dev/null 2>&1; do
        why="timed out after $limit s waiting for $what"
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.1
    done
}

# within SECONDS CMD...: that it ends on its own account, not because somebody
# lost patience with it.
within() {
    local allowed=$1 before=$SECONDS
    shift
    "$@" >/dev/null || { why="$* failed"; return 1; }
    why="it took $((SECONDS - before)) s, allowed are $allowed"
    [ $((SECONDS - before)) -le "$allowed" ]
}

# shapes: the templates that vmrun has, one for each shape of machine.
shapes() { "$RUNTIME_PATH" template list --quiet | sort; }

# warm_and_cold COLD WARM: functions that run a container, of a shape that no other case has. COLD's makes no template, the
# first of WARM makes one, and the second goes on from it: only such a start records which pages it writes.
warm_and_cold() {
    local before made
    before=$(shapes)
    "$1" || return
    same "templates after a cold start" "$before" "$(shapes)" || return
    "$2" || return
    made=$(comm -13 <(echo "$before") <(shapes))
    why="a start without --cold has made no template"
    [ -n "$made" ] || return
    "$2" || return
    until_true "the record of a warm start" ls "/var/cache/vmrun/templates/$made/working-set"
}

# on_terminal INPUT CMD...: CMD with a terminal of 33 rows and 99 columns; INPUT is
# typed, a line each, when the program has written "ready".
# Isolated and without site packages, Python reads a third of the files, over 9p.
on_terminal() { python3 -I -S "$here/on-terminal.py" "$limit" "$@"; }

finish() {
    printf '%s with %s: %d cases, %d failed\n' "$client" "$RUNTIME" "$tried" "$failed"
    [ "$failed" -eq 0 ]
}
