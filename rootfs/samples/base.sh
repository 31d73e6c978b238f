# shellcheck shell=bash
# What the samples that are made around busybox have in common. Sourced by them.

base_inputs() { cat "$(dirname "${BASH_SOURCE[0]}")/base.sh"; }

# base_folders ROOT
base_folders() {
    mkdir -p "$1"/{bin,dev,etc,home,proc,root,run,sbin,sys,tmp,usr/bin,usr/sbin,var/tmp}
    chmod 700 "$1/root"
    chmod 1777 "$1/tmp" "$1/var/tmp"
}

# base_applets ROOT BUSYBOX: a link for each applet that this BUSYBOX has.
base_applets() {
    local applet
    "$2" --list-full | while read -r applet; do
        [ -e "$1/$applet" ] || ln -s /bin/busybox "$1/$applet"
    done
}

# base_files ROOT: what a program expects to find.
base_files() {
    local root=$1
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
}
