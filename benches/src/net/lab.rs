//! The namespaces and links of the measurement, which go when this is dropped.

use std::cell::RefCell;
use std::error::Error;
use std::process::Command;

use crate::process::{call, command, output};

/// Where the clients run.
const FAR: &str = "vmrun-bench-far";

pub(super) struct Lab {
    namespaces: RefCell<Vec<String>>,
}

impl Lab {
    pub(super) fn new() -> Result<Self, Box<dyn Error>> {
        let lab = Self { namespaces: RefCell::default() };
        lab.namespace(FAR)?;
        Ok(lab)
    }

    /// A new namespace.
    pub(super) fn namespace(&self, name: &str) -> Result<(), Box<dyn Error>> {
        call(&format!("ip netns add {name}"))?;
        self.namespaces.borrow_mut().push(name.to_owned());
        call(&format!("ip -n {name} link set lo up"))
    }

    /// A namespace that is linked to the far one, whose address there ends in 1; what is the
    /// container's ends in 2.
    pub(super) fn linked(&self, name: &str, number: u8, interfaces: u8) -> Result<(), Box<dyn Error>> {
        self.namespace(name)?;
        for interface in 0..interfaces {
            let far = format!("far{number}.{interface}");
            let near = format!("eth{interface}");
            call(&format!("ip -n {FAR} link add {far} type veth peer name {near} netns {name}"))?;
            call(&format!("ip -n {FAR} address add 10.77.{number}.{}/29 dev {far}", 8 * interface + 1))?;
            call(&format!("ip -n {FAR} link set {far} up"))?;
            call(&format!("ip -n {name} link set {near} up"))?;
        }
        Ok(())
    }

    /// The container's address on such an interface.
    pub(super) fn address(name: &str, number: u8, interface: u8) -> Result<(), Box<dyn Error>> {
        let last = 8 * interface + 2;
        call(&format!("ip -n {name} address add 10.77.{number}.{last}/29 dev eth{interface}"))
    }

    /// A tap in `name`; what goes into eth0 there comes out of it, and the reverse.
    pub(super) fn tap_behind_veth(name: &str) -> Result<(), Box<dyn Error>> {
        call(&format!("ip -n {name} tuntap add tap0 mode tap vnet_hdr"))?;
        call(&format!("ip -n {name} link set tap0 up"))?;
        for (from, to) in [("eth0", "tap0"), ("tap0", "eth0")] {
            call(&format!("tc -n {name} qdisc add dev {from} ingress"))?;
            call(&format!(
                "tc -n {name} filter add dev {from} ingress matchall action mirred egress redirect dev {to}"
            ))?;
        }
        Ok(())
    }

    /// A tap in the far namespace, which has the far address itself.
    pub(super) fn far_tap(number: u8) -> Result<(), Box<dyn Error>> {
        call(&format!("ip -n {FAR} tuntap add tap0 mode tap vnet_hdr"))?;
        call(&format!("ip -n {FAR} address add 10.77.{number}.1/29 dev tap0"))?;
        call(&format!("ip -n {FAR} link set tap0 up"))
    }

    /// The hardware address of eth0 in `name`.
    pub(super) fn hardware_address(name: &str) -> Result<String, Box<dyn Error>> {
        let text = output(&mut command(&format!("ip -n {name} -json link show dev eth0")))?;
        let links: serde_json::Value = serde_json::from_str(&text)?;
        Ok(links[0]["address"].as_str().ok_or("eth0 has no address")?.to_owned())
    }

    /// A program with the far namespace as its network.
    pub(super) fn far(&self, words: &str) -> Command {
        Self::inside(FAR, words)
    }

    /// A program with `name` as its network.
    pub(super) fn inside(name: &str, words: &str) -> Command {
        command(&format!("ip netns exec {name} {words}"))
    }

    pub(super) fn far_name() -> &'static str {
        FAR
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in self.namespaces.borrow_mut().drain(..).rev() {
            if let Err(error) = call(&format!("ip netns delete {name}")) {
                eprintln!("vmrun-bench: {error}");
            }
        }
    }
}
