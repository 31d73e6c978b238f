# shellcheck shell=bash
# The kernel's configuration: tinyconfig, then the fragments. Sourced by `build`.
#
# A fragment line is `CONFIG_NAME=VALUE  # reason`. Everything that is neither in
# tinyconfig nor in a fragment is off, also where the kernel's own default is on.

# options: all fragments without comments and empty lines; of a debug build, with
# debug.config in place of what they say of its options.
options() {
    fragment "${here:?}"/config/*.config |
        if [ -z "${debug:-}" ]; then cat; else
            awk -F = 'NR == FNR { instead[$1]; print; next } !($1 in instead)' <(fragment "$here/debug.config") -
        fi
}

# fragment FILE...: their options.
fragment() { sed -E 's/[[:space:]]+#.*//; /^#/d; /^$/d' "$@"; }

# make_config: writes the configuration into the object tree and verifies it.
make_config() {
    local wanted=${objects:?}/wanted.config log=$VMRUN_CACHE/log/guest-kernel-config.log
    {
        # What `make tinyconfig` is made of; later lines win over earlier ones.
        cat "${source:?}/kernel/configs/tiny-base.config" "$source/kernel/configs/tiny.config"
        options | sed -E 's/^(CONFIG_[A-Z0-9_]+)=n$/# \1 is not set/'
    } >"$wanted"
    run_logged "$log" kernel_make KCONFIG_ALLCONFIG="$wanted" allnoconfig || return 1
    verify_config
}

# verify_config: lists the options that did not get the value asked for: renamed,
# gone, or waiting for another option.
verify_config() {
    local line name bad=() twice
    twice=$(options | cut -d = -f 1 | sort | uniq -d | tr '\n' ' ')
    [ -z "$twice" ] || die "guest-kernel/config sets these options twice: $twice"
    while IFS= read -r line; do
        name=${line%%=*}
        if [ "${line#*=}" = n ]; then
            ! grep -q "^$name=" "$objects/.config" || bad+=("$line")
        else
            grep -qxF "$line" "$objects/.config" || bad+=("$line")
        fi
    done < <(options)
    [ ${#bad[@]} -eq 0 ] || {
        printf '    %s\n' "${bad[@]}" >&2
        die "the kernel did not take the options above from guest-kernel/config: see what they depend on in the Kconfig files of $source"
    }
}
