# shellcheck shell=bash
# Where the kernel source comes from: one Debian package, held by kernel.lock, and
# patches. Sourced by `build`.

# lock_field NAME: the value of NAME in kernel.lock.
lock_field() { sed -n "s/^$1=//p" "${here:?}/kernel.lock"; }

# newest_version PACKAGE: what apt would install.
newest_version() {
    apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: //p' | grep -v '(none)'
}

# apt_update: renews apt's lists, once a run.
apt_update() {
    [ -z "${apt_updated:-}" ] || return 0
    run_logged "$VMRUN_CACHE/log/apt-update.log" as_root apt-get -q update
    apt_updated=1
}

# fetch PACKAGE VERSION DIR: downloads the package into DIR, prints its file.
fetch() {
    local package=$1 version=$2 dir=$3
    (cd "$dir" && run_logged "$VMRUN_CACHE/log/kernel-source-download.log" \
        apt-get -q -o APT::Sandbox::User=root download "$package=$version") >&2 || return 1
    find "$dir" -maxdepth 1 -name "${package}_*.deb" -print -quit
}

# patched: names the source by its version and its patches.
patched() {
    echo "$version-$(cat "${here:?}"/patches/*.patch | sha256sum | cut -c 1-8)"
}

# get_source: sets `version`, `source` and `objects`; downloads, unpacks and patches
# the package unless that was done before.
get_source() {
    local package locked
    package=$(lock_field package)
    locked=$(lock_field version)
    version=$locked
    if [ ! -d "${cache:?}/source/$(patched)" ] && ! apt-cache show "$package=$version" >/dev/null 2>&1; then
        apt_update
        if ! apt-cache show "$package=$version" >/dev/null 2>&1; then
            version=$(newest_version "$package") ||
                die "cannot get the kernel source: no package $package in apt's lists; add Debian's security archive to apt's sources"
            say "Debian has replaced $package $locked; taking $version, untested; lock it with: guest-kernel/build --renew-lock"
        fi
    fi
    source=$cache/source/$(patched)
    # shellcheck disable=SC2034  # for config.sh and build
    objects=$cache/objects/$(patched)${debug:+-debug}
    [ -d "$source" ] || unpack_source "$package" "$locked"
}

# unpack_source PACKAGE LOCKED: fetches `version`, checks it, unpacks it, patches it.
unpack_source() {
    local package=$1 locked=$2 new deb found patch
    mkdir -p "$cache/source"
    new=$(mktemp -d "$cache/source/new.XXXXXX")
    say "getting the kernel source: $package $version, 150 MB"
    deb=$(fetch "$package" "$version" "$new") ||
        die "cannot download $package $version; is the Debian mirror reachable?"
    found=$(sha256sum "$deb" | cut -d ' ' -f 1)
    if [ "$version" = "$locked" ] && [ "$found" != "$(lock_field sha256)" ]; then
        rm -rf "$new"
        die "the kernel source $package $version has sha256 $found, guest-kernel/kernel.lock says $(lock_field sha256); do not build it: find out which of the two is wrong"
    fi
    say "unpacking it"
    dpkg-deb -x "$deb" "$new/package"
    mkdir "$new/tree"
    tar -C "$new/tree" --strip-components=1 -xf "$new/package/usr/src/$package.tar.xz"
    for patch in "${here:?}"/patches/*.patch; do
        run_logged "$VMRUN_CACHE/log/kernel-patch.log" patch -d "$new/tree" -p1 --forward -i "$patch" ||
            die "$patch does not fit $package $version; adapt it"
    done
    mv -T "$new/tree" "$source"
    rm -rf "$new"
}

# renew_lock: writes kernel.lock for the newest version.
renew_lock() {
    local package version dir deb sha256
    package=$(lock_field package)
    apt_update
    version=$(newest_version "$package") || die "cannot renew the lock: no package $package in apt's lists"
    dir=$(mktemp -d)
    deb=$(fetch "$package" "$version" "$dir") || die "cannot renew the lock: downloading $package $version failed"
    sha256=$(sha256sum "$deb" | cut -d ' ' -f 1)
    rm -rf "$dir"
    sed -i -e "s/^version=.*/version=$version/" -e "s/^sha256=.*/sha256=$sha256/" "$here/kernel.lock"
    say "guest-kernel/kernel.lock now holds $package $version; build it, run the tests, commit it"
}
