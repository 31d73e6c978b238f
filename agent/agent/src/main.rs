//! The binary `vmrun-agent`: `/init` of the guest. Everything is in the library.

fn main() {
    vmrun_agent::run_as_init();
}
