# shellcheck shell=bash
# The net sample: busybox, and what network figures are taken with: iperf3 and nginx, with the
# libraries that they need. Sourced by `build`.

# shellcheck disable=SC2034  # read by `build`
sample_needs=()

# shellcheck source=base.sh
. "$(dirname "${BASH_SOURCE[0]}")/base.sh"

net_packages=(busybox libc6 iperf3 libiperf0 libsctp1 libssl3 nginx libcrypt1 libpcre2-8-0 zlib1g)

sample_inputs() {
    base_inputs
    apt-cache policy "${net_packages[@]}" | grep Candidate
}

sample_make() {
    local root=$1/rootfs work=$1/work package library
    local libraries=$root/lib/x86_64-linux-gnu
    mkdir "$root" "$work"
    (cd "$work" && run_logged "$VMRUN_CACHE/log/net-sample.log" \
        apt-get -q -o APT::Sandbox::User=root download "${net_packages[@]}") ||
        die "cannot make the net root file system: downloading ${net_packages[*]} failed"
    for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work/package"; done

    base_folders "$root"
    mkdir -p "$libraries" "$root/lib64"
    install -m 755 "$work/package/bin/busybox" "$root/bin/busybox"
    install -m 755 "$work/package/usr/bin/iperf3" "$root/usr/bin/iperf3"
    install -m 755 "$work/package/usr/sbin/nginx" "$root/usr/sbin/nginx"
    for library in libc libresolv libm libiperf libsctp libssl libcrypto libcrypt libpcre2-8 libz; do
        find "$work/package" -path '*x86_64-linux-gnu*' -name "$library.so.*" -exec cp -L {} "$libraries/" \;
    done
    cp -L "$work/package/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" "$root/lib64/"
    base_applets "$root" "$root/bin/busybox"
    base_files "$root"
    rm -rf "$work"
}
