# shellcheck shell=bash
# The busybox sample: Debian's static busybox, a link per applet, and the few
# files a program expects to find. Sourced by `build`.

# shellcheck disable=SC2034  # read by `build`
sample_needs=()

# shellcheck source=base.sh
. "$(dirname "${BASH_SOURCE[0]}")/base.sh"

sample_inputs() {
    base_inputs
    apt-cache policy busybox-static | grep Candidate
}

sample_make() {
    local root=$1/rootfs work=$1/work
    mkdir "$root" "$work"
    (cd "$work" && run_logged "$VMRUN_CACHE/log/busybox.log" \
        apt-get -q -o APT::Sandbox::User=root download busybox-static) ||
        die "cannot make the busybox root file system: downloading busybox-static failed"
    dpkg-deb -x "$work"/busybox-static_*.deb "$work/package"

    base_folders "$root"
    install -m 755 "$(find "$work/package" -type f -path '*/bin/busybox' -print -quit)" "$root/bin/busybox"
    base_applets "$root" "$root/bin/busybox"
    base_files "$root"
    rm -rf "$work"
}
