# shellcheck shell=bash
# The programs sample: busybox, PostgreSQL with an empty database, and redis of Debian, their
# clients for load, and the libraries that they need. Sourced by `build`.

# shellcheck disable=SC2034  # read by `build`
sample_needs=()

# shellcheck source=base.sh
. "$(dirname "${BASH_SOURCE[0]}")/base.sh"

programs_packages=(busybox libc6 libgcc-s1 libstdc++6 zlib1g libssl3 libsystemd0 libcap2 libgcrypt20 libgpg-error0
    liblz4-1 liblzma5 libzstd1
    postgresql-15 postgresql-client-15 libpq5 libaudit1 libcap-ng0 libpam0g libicu72 libxml2 libreadline8 libtinfo6
    libgssapi-krb5-2 libk5crypto3 libkrb5-3 libkrb5support0 libcom-err2 libkeyutils1
    libldap-2.5-0 libsasl2-2 libgnutls30 libhogweed6 libnettle8 libgmp10 libidn2-0 libp11-kit0 libffi8 libtasn1-6 libunistring2
    redis-server redis-tools libatomic1 libhiredis0.14 libjemalloc2 liblua5.1-0 lua-bitop lua-cjson liblzf1)

sample_inputs() {
    base_inputs
    apt-cache policy "${programs_packages[@]}" | grep Candidate
}

# The database is user's, and lets in whoever comes.
programs_database() {
    local root=$1 data=/var/lib/postgresql
    as_root install -d -o 1000 -g 1000 -m 700 "$root$data"
    # shellcheck disable=SC2016  # the shell's that is started
    as_root unshare --mount sh -c 'mount --bind /dev "$0/dev" && exec chroot --userspec=1000:1000 "$0" \
        env -i TZ=GMT /usr/lib/postgresql/15/bin/initdb --locale=C --encoding=UTF8 --username=user --auth=trust --no-sync --pgdata="$1"' \
        "$root" "$data"
    echo 'host all all all trust' | as_root tee -a "$root$data/pg_hba.conf" >/dev/null
}

sample_make() {
    local root=$1/rootfs work=$1/work package program
    local libraries=$root/lib/x86_64-linux-gnu
    mkdir "$root" "$work"
    (cd "$work" && run_logged "$VMRUN_CACHE/log/programs-sample.log" \
        apt-get -q -o APT::Sandbox::User=root download "${programs_packages[@]}") ||
        die "cannot make the programs root file system: downloading ${programs_packages[*]} failed"
    for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work/package"; done

    base_folders "$root"
    mkdir -p "$libraries" "$root/lib64" "$root"/usr/{lib,share}/postgresql "$root/run/postgresql" "$root/var/lib"
    install -m 755 "$work/package/bin/busybox" "$root/bin/busybox"
    # redis-server is a link to one of the tools.
    for program in redis-server redis-cli redis-benchmark; do cp -L "$work/package/usr/bin/$program" "$root/usr/bin/"; done
    cp -a "$work/package/usr/lib/postgresql/15" "$root/usr/lib/postgresql/"
    rm -rf "$root/usr/lib/postgresql/15/lib/bitcode"
    cp -a "$work/package/usr/share/postgresql/15" "$root/usr/share/postgresql/"
    find "$work/package" -path '*x86_64-linux-gnu/*.so.*' ! -path '*/gconv/*' -exec cp -L {} "$libraries/" \;
    cp -L "$work/package/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" "$root/lib64/"
    base_applets "$root" "$root/bin/busybox"
    base_files "$root"
    rm -rf "$work"
    run_logged "$VMRUN_CACHE/log/programs-database.log" programs_database "$root"
}
