# shellcheck shell=bash
# The dynamic sample: Debian's busybox with the C library beside it, by which it resolves names, and netcat for UDP.
# Sourced by `build`.

# shellcheck disable=SC2034  # read by `build`
sample_needs=()

# shellcheck source=base.sh
. "$(dirname "${BASH_SOURCE[0]}")/base.sh"

sample_inputs() {
    base_inputs
    apt-cache policy busybox libc6 netcat-traditional | grep Candidate
}

sample_make() {
    local root=$1/rootfs work=$1/work package
    mkdir "$root" "$work"
    (cd "$work" && run_logged "$VMRUN_CACHE/log/busybox.log" \
        apt-get -q -o APT::Sandbox::User=root download busybox libc6 netcat-traditional) ||
        die "cannot make the dynamic root file system: downloading busybox, libc6 and netcat-traditional failed"
    for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work/package"; done

    base_folders "$root"
    mkdir -p "$root"/lib/x86_64-linux-gnu "$root/lib64"
    install -m 755 "$work/package/bin/busybox" "$root/bin/busybox"
    install -m 755 "$work/package/bin/nc.traditional" "$root/usr/bin/netcat"
    cp -L "$work"/package/lib/x86_64-linux-gnu/{libc,libresolv,libm}.so.* "$root/lib/x86_64-linux-gnu/"
    cp -L "$work/package/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" "$root/lib64/"
    base_applets "$root" "$root/bin/busybox"
    base_files "$root"
    rm -rf "$work"
}
