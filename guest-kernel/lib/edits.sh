# shellcheck shell=bash
# The changes made to the kernel source, each with its reason. Sourced by `build`.
# They are edits and not patches so that they survive a change of the lines around
# them; one that no longer fits exactly one line stops the build.

# edit FILE OLD NEW: replaces the only line of FILE that is OLD by NEW.
edit() {
    local file=$1 old=$2 new=$3 found
    found=$(grep -cxF -- "$old" "$file") || true
    [ "$found" = 1 ] || die "cannot edit the kernel source: $file has $found lines '$old', not one; see guest-kernel/lib/edits.sh"
    OLD=$old NEW=$new awk '$0 == ENVIRON["OLD"] { print ENVIRON["NEW"]; next } { print }' "$file" >"$file.new"
    mv "$file.new" "$file"
}

# edit_source TREE: applies all of them.
edit_source() {
    local tree=$1
    # /sys/kernel/slab, a debugging view of the allocator, is 3000 files made at boot:
    # 4.1 M instructions, an eighth of a whole start. The kernel has a switch for it,
    # but only together with an allocator without per-CPU caches (SLUB_TINY).
    edit "$tree/mm/slab.h" \
        '#if defined(CONFIG_SYSFS) && !defined(CONFIG_SLUB_TINY)' \
        '#if 0'
}
