# shellcheck shell=bash
# The Debian sample: minbase with python3, from the mirrors this machine uses.
# Sourced by `build`.

sample_suite=bookworm

# shellcheck disable=SC2034  # read by `build`
sample_needs=(mmdebstrap)

# The versions of what the sample is about; a security update makes a new one.
sample_inputs() { apt-cache policy base-files libc6 python3-minimal python3.11 | grep -E '^[a-z]|Candidate'; }

# sample_sources: apt's own sources for this suite, as one-line entries: the mirror
# and the components are the machine's business.
sample_sources() {
    # shellcheck disable=SC2016  # apt's placeholders, not the shell's
    apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' |
        awk -v suite="$sample_suite" '$2 ~ "^" suite "(-|$)" && !seen[$0]++ { print "deb", $0 }'
}

sample_make() {
    local root=$1/rootfs sources=$1/sources.list
    sample_sources >"$sources"
    [ -s "$sources" ] || die "cannot make the Debian root file system: apt knows no mirror for $sample_suite; add one to apt's sources"
    # shellcheck disable=SC2016  # mmdebstrap sets $1 for its hooks
    run_logged "$VMRUN_CACHE/log/debian-rootfs.log" as_root mmdebstrap \
        --variant=minbase --include=python3 --mode=auto \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/info/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/lintian/*' \
        --customize-hook='rm -rf "$1"/var/cache/* "$1"/var/lib/apt/lists/* "$1"/var/log/*' \
        --customize-hook='rm -f "$1"/etc/dpkg/dpkg.cfg.d/99mmdebstrap "$1"/etc/resolv.conf' \
        "$sample_suite" "$root" "$sources"
    # An image's /dev is empty. Only now: mmdebstrap mounts the machine's devices
    # there while it works.
    as_root find "$root/dev" -xdev -mindepth 1 -delete
    rm -f "$sources"
}
