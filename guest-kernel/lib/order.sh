# shellcheck shell=bash
# The order of the functions in the kernel's text. Sourced by `build`.
#
# vmrun maps the text from its own file into the guest instead of copying it; each
# page that a boot touches there is a fault in the host, and each one that a boot
# changes two. So the functions go where they cost least:
#
# 1. those that every boot patches (alternatives, static calls): vmrun copies them,
# 2. those that a boot runs (`boot-functions`): mapped, on few pages,
# 3. all others: mapped, and touched only when they are needed.

linker_script() { echo "${objects:?}/arch/x86/kernel/vmlinux.lds"; }

# prepare_order: has the kernel's linker script made and lets it include an order,
# which is empty yet.
prepare_order() {
    local script general='*(.text.hot .text.hot.*) *(.text .text.fixup)' ordered
    script=$(linker_script)
    rm -f "$script"
    kernel_make arch/x86/kernel/vmlinux.lds || return 1
    grep -qF "$general" "$script" ||
        die "cannot order the kernel's functions: $script has no '$general'; see how this kernel lays out its text"
    # The unlikely parts of functions come before what would take them along.
    ordered='INCLUDE order.lds *(.text.hot .text.hot.*) *(.text.unlikely .text.unlikely.*)'
    ordered+=' *(.text .text.[0-9a-zA-Z_]* .text.fixup)'
    awk -v general="$general" -v ordered="$ordered" '
        at = index($0, general) { $0 = substr($0, 1, at - 1) ordered substr($0, at + length(general)) }
        { print }' "$script" >"$script.ordered"
    mv "$script.ordered" "$script"
    : >"$objects/order.lds"
}

# order_functions: writes the order; the next link follows it.
order_functions() {
    {
        echo '. = ALIGN(4096);'
        patched_functions | sed 's/.*/*(&)/'
        echo '. = ALIGN(4096);'
        sed -E '/^(#|$)/d; s/.*/*(.text.&)/' "${here:?}/boot-functions"
    } >"$objects/order.lds"
    touch "$(linker_script)"
}

# patched_functions: the sections of vmlinux.o with functions that the kernel patches.
patched_functions() {
    readelf -rW "$objects/vmlinux.o" | awk '
        /^Relocation section/ { patched = /\.rela\.(altinstructions|static_call_sites)/ }
        patched && $5 ~ /^\.text\./ { print $5 }' | sort -u
}
