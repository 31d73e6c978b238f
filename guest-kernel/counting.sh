# shellcheck shell=bash
# A machine that counts the instructions of the kernel `vmlinux` exactly, as an array of words for a debugger's
# `target remote | exec`: see icount. Sourced by `icount` and `costs`.

need_packages qemu-system-x86 gcc libc6-dev cpio
command -v gdb >/dev/null || need_packages gdb-minimal

map=$(dirname "${vmlinux:?}")/System.map
[ -f "$map" ] || die "cannot count instructions: $map is missing, it belongs beside the vmlinux"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# address NAME: where the kernel has it.
address() {
    local found
    found=$(awk -v name="$1" '$3 == name { print "0x" $1 }' "$map")
    [ -n "$found" ] || die "cannot count instructions: no symbol $1 in $map; has the kernel renamed it?"
    echo "$found"
}

# An init that does nothing, at an address of its own, and 2 MB in all.
init_address=0x400000
mkdir "$work/root"
printf '.globl _start\n_start: jmp _start\n' >"$work/init.s"
gcc -nostdlib -static -Wl,-Ttext=$init_address -o "$work/root/init" "$work/init.s"
head -c 2000000 /dev/zero >"$work/root/padding"
(cd "$work/root" && printf 'init\npadding\n' | cpio --quiet -o -H newc --owner=0:0 --reproducible) >"$work/initramfs"

# The VMM's command line, and what a KVM guest knows without being told: the TSC's
# rate (1 GHz under -icount shift=0), and that no timer chip is there to be tested.
command_line="$(sed -e 's/#.*//' -e '/^ *$/d' "${here:?}/cmdline" | tr '\n' ' ')tsc_early_khz=1000000 no_timer_check"

# shellcheck disable=SC2034,SC2054  # those who source this use it; commas belong to QEMU's options
qemu=(qemu-system-x86_64 -accel tcg -M microvm,pit=off,rtc=on -cpu EPYC,-svm -smp 1 -m 128
    -icount "shift=0,sleep=off,rr=record,rrfile=/dev/null"
    -kernel "$vmlinux" -initrd "$work/initramfs" -append "'$command_line'"
    -nodefaults -display none -monitor none -serial none -no-reboot -S -gdb stdio)

