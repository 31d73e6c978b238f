# shellcheck shell=bash
# The busybox sample: Debian's static busybox, a link per applet, and the few
# files a program expects to find. Sourced by `build`.

# shellcheck disable=SC2034  # read by `build`
sample_needs=()

sample_inputs() { apt-cache policy busybox-static | grep Candidate; }

sample_make() {
    local root=$1/rootfs work=$1/work applet
    mkdir "$root" "$work"
    (cd "$work" && run_logged "$VMRUN_CACHE/log/busybox.log" \
        apt-get -q -o APT::Sandbox::User=root download busybox-static) ||
        die "cannot make the busybox root file system: downloading busybox-static failed"
    dpkg-deb -x "$work"/busybox-static_*.deb "$work/package"

    mkdir -p "$root"/{bin,dev,etc,home,proc,root,run,sbin,sys,tmp,usr/bin,usr/sbin,var/tmp}
    chmod 700 "$root/root"
    chmod 1777 "$root/tmp" "$root/var/tmp"
    install -m 755 "$(find "$work/package" -type f -path '*/bin/busybox' -print -quit)" "$root/bin/busybox"
    "$root/bin/busybox" --list-full | while read -r applet; do
        [ -e "$root/$applet" ] || ln -s /bin/busybox "$root/$applet"
    done

    cat >"$root/etc/passwd" <<'TEXT'
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
user:x:1000:1000:user:/home:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
TEXT
    cat >"$root/etc/group" <<'TEXT'
root:x:0:
daemon:x:1:
tty:x:5:
user:x:1000:
nogroup:x:65534:
TEXT
    printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"
    printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
    rm -rf "$work"
}
