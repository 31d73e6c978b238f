# shellcheck shell=bash
# The services sample: busybox, nginx and redis of Debian, with the libraries that they need.
# Sourced by `build`.

# shellcheck disable=SC2034  # read by `build`
sample_needs=()

# shellcheck source=base.sh
. "$(dirname "${BASH_SOURCE[0]}")/base.sh"

services_packages=(busybox libc6 zlib1g
    nginx libcrypt1 libpcre2-8-0 libssl3
    redis-server redis-tools libatomic1 libgcc-s1 libhiredis0.14 libjemalloc2 liblua5.1-0 lua-bitop lua-cjson liblzf1
    libstdc++6 libsystemd0 libcap2 libgcrypt20 libgpg-error0 liblz4-1 liblzma5 libzstd1)

sample_inputs() {
    base_inputs
    apt-cache policy "${services_packages[@]}" | grep Candidate
}

sample_make() {
    local root=$1/rootfs work=$1/work package
    local libraries=$root/lib/x86_64-linux-gnu
    mkdir "$root" "$work"
    (cd "$work" && run_logged "$VMRUN_CACHE/log/services-sample.log" \
        apt-get -q -o APT::Sandbox::User=root download "${services_packages[@]}") ||
        die "cannot make the services root file system: downloading ${services_packages[*]} failed"
    for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work/package"; done

    base_folders "$root"
    mkdir -p "$libraries" "$root/lib64"
    install -m 755 "$work/package/bin/busybox" "$root/bin/busybox"
    install -m 755 "$work/package/usr/sbin/nginx" "$root/usr/sbin/nginx"
    # redis-server is a link to one of the tools.
    cp -L "$work/package/usr/bin/redis-server" "$work/package/usr/bin/redis-cli" "$root/usr/bin/"
    find "$work/package" -path '*x86_64-linux-gnu/*.so.*' ! -path '*/gconv/*' -exec cp -L {} "$libraries/" \;
    cp -L "$work/package/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" "$root/lib64/"
    base_applets "$root" "$root/bin/busybox"
    base_files "$root"
    rm -rf "$work"
}
