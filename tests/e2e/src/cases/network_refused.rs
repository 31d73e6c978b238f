//! Networks that cannot be had, and what is said then.

use std::process::Command;

use serde_json::json;

use super::network::Net;
use crate::support::{Bundle, Run, end_of, new_id};

/// `vmrun run` with these words before it.
fn under(words: &[&str], bundle: &Bundle) -> Command {
    let inner = Run::of(bundle).command();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(inner.get_program()).args(inner.get_args());
    command
}

#[test]
fn path_that_is_no_network_namespace_is_named() {
    let others = ["pid", "ipc", "uts", "mount"].map(|kind| json!({ "type": kind }));
    for (path, words) in [
        ("/run/netns/e2e-none", ["No such file", "check the path"]),
        ("/etc/passwd", ["Invalid argument", "it is not a network namespace"]),
        ("/proc/self/ns/uts", ["Invalid argument", "it is not a network namespace"]),
    ] {
        let network = json!({ "type": "network", "path": path });
        let namespaces: Vec<_> = others.iter().cloned().chain([network]).collect();
        let bundle = Bundle::shell("true").set("/linux/namespaces", json!(namespaces));
        bundle.run().fails_with(1, &["cannot use the network namespace", path, words[0], words[1]]);
    }
}

#[test]
fn taps_that_cannot_be_made_are_refused_with_what_is_missing() {
    let net = Net::with_eth0();
    let bundle = net.bundle("true");
    let in_a_mount_namespace = |script: &str| {
        let script = format!("{script} && exec \"$@\"");
        end_of(&mut under(&["unshare", "--mount", "sh", "-c", &script, "sh"], &bundle))
    };
    let tap = "cannot make a tap for eth0";
    in_a_mount_namespace("mount -t tmpfs tmpfs /dev/net")
        .fails_with(1, &[tap, "/dev/net/tun", "No such file", "modprobe tun"]);
    in_a_mount_namespace("mount --bind /dev/null /dev/net/tun")
        .fails_with(1, &[tap, "/dev/net/tun", "mknod /dev/net/tun c 10 200"]);
    end_of(&mut under(&["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"], &bundle))
        .fails_with(1, &[tap, "not permitted", "CAP_NET_ADMIN"]);
    assert_eq!(net.traces(), "");
    let store = std::path::Path::new("/tmp").join(new_id());
    let plain = Run::of(&bundle).store(&store).command();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=1000", "--regid=1000", "--clear-groups"]);
    end_of(command.arg(plain.get_program()).args(plain.get_args())).fails_with(
        1,
        &[
            "cannot use the network namespace",
            "not permitted",
            "CAP_SYS_ADMIN in the user namespace that owns it",
        ],
    );
    // It may not have been made.
    let _ = std::fs::remove_dir_all(&store);
    assert_eq!(net.traces(), "");
}
