# shellcheck shell=bash
# The suites sample: busybox, Python, and stress-ng, with the libraries that they need. Sourced by `build`.

# shellcheck disable=SC2034  # read by `build`
sample_needs=()

# shellcheck source=base.sh
. "$(dirname "${BASH_SOURCE[0]}")/base.sh"

suites_packages=(busybox libc6 libacl1 libapparmor1 libbsd0 libcrypt1 libdrm2 libegl1 libexpat1 libffi8 libgbm1 libgles2 libglvnd0
    libipsec-mb1 libjpeg62-turbo libjudydebian1 libkmod2 liblzma5 libmd0 libsctp1 libssl3 libwayland-server0 libxxhash0 libzstd1
    libpython3.11-minimal libpython3.11-stdlib python3.11-minimal stress-ng zlib1g)

sample_inputs() {
    base_inputs
    apt-cache policy "${suites_packages[@]}" | grep Candidate
}

sample_make() {
    local root=$1/rootfs work=$1/work package
    local libraries=$root/lib/x86_64-linux-gnu
    mkdir "$root" "$work"
    (cd "$work" && run_logged "$VMRUN_CACHE/log/suites-sample.log" \
        apt-get -q -o APT::Sandbox::User=root download "${suites_packages[@]}") ||
        die "cannot make the suites root file system: downloading ${suites_packages[*]} failed"
    for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work/package"; done

    base_folders "$root"
    mkdir -p "$libraries" "$root/lib64" "$root/usr/lib"
    install -m 755 "$work/package/bin/busybox" "$root/bin/busybox"
    install -m 755 "$work/package/usr/bin/stress-ng" "$root/usr/bin/"
    install -m 755 "$work/package/usr/bin/python3.11" "$root/usr/bin/python3"
    cp -a "$work/package/usr/lib/python3.11" "$root/usr/lib/"
    rm -rf "$root"/usr/lib/python3.11/{ensurepip,idlelib,lib2to3,pydoc_data,test,tkinter,unittest}
    find "$work/package" -path '*x86_64-linux-gnu/*.so.*' ! -path '*/gconv/*' -exec cp -L {} "$libraries/" \;
    cp -L "$work/package/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" "$root/lib64/"
    base_applets "$root" "$root/bin/busybox"
    base_files "$root"
    rm -rf "$work"
}
