//! What a machine has to have in common with a saved one to go on from it.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;

use serde::{Deserialize, Serialize};
use vmrun_spec::{DeviceSpec, Image, MachineSpec};

use super::{FileIdentity, ShapeInfo};
use crate::assets::Embedded;

/// All that decides what the guest is when it has booted, but for the processor, which the saved machine knows
/// itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// Of what is saved.
    format: u32,
    /// Of the conversation with the agent.
    protocol: u32,
    /// This program: the devices, and the images that it carries.
    program: FileIdentity,
    kernel: Source,
    initramfs: Source,
    /// Release and version of the host's kernel, and so of its KVM.
    host: String,
    vcpus: u8,
    memory_mib: u32,
    cmdline: Vec<String>,
    mark_port: Option<u16>,
    /// What the guest's drivers have found, in their order.
    devices: Vec<String>,
}

/// Where an image comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Source {
    /// The digest of all that the program carries.
    Program(u64),
    File(FileIdentity),
}

impl Source {
    fn of(image: &Image, embedded: Embedded) -> io::Result<Self> {
        Ok(match image {
            Image::Embedded => Self::Program(embedded.digest),
            Image::File(path) => Self::File(FileIdentity::of(&File::open(path)?)?),
        })
    }
}

impl Shape {
    /// That of a machine of `spec`.
    pub(crate) fn of(spec: &MachineSpec, embedded: Embedded) -> io::Result<Self> {
        Ok(Self {
            format: super::file::FORMAT,
            protocol: vmrun_proto::VERSION,
            program: FileIdentity::of(&File::open("/proc/self/exe")?)?,
            kernel: Source::of(&spec.kernel, embedded)?,
            initramfs: Source::of(&spec.initramfs, embedded)?,
            host: host(),
            vcpus: spec.vcpus,
            memory_mib: spec.memory_mib,
            cmdline: spec.cmdline.clone(),
            mark_port: spec.mark_port,
            devices: spec.devices.iter().map(device).collect(),
        })
    }

    pub(crate) fn memory_mib(&self) -> u32 {
        self.memory_mib
    }

    /// The name of its template. Shapes of the same name are told apart when the template is read.
    pub(crate) fn name(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }

    pub(super) fn info(&self, host: &str, program: Option<&FileIdentity>) -> ShapeInfo {
        let kernel = match &self.kernel {
            Source::Program(_) => "vmrun's own".to_owned(),
            Source::File(file) => format!("a file of {} bytes", file.bytes()),
        };
        let is_current = self.host == host && program == Some(&self.program);
        ShapeInfo { vcpus: self.vcpus, memory_mib: self.memory_mib, kernel, is_current }
    }
}

/// Whether a template may be called so.
pub(super) fn is_name(name: &str) -> bool {
    name.len() == 16 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The host's kernel, as a template knows it.
#[must_use]
pub fn host() -> String {
    let name = rustix::system::uname();
    format!("{} {}", name.release().to_string_lossy(), name.version().to_string_lossy())
}

/// What a driver sees of a device: neither paths nor descriptors.
fn device(spec: &DeviceSpec) -> String {
    match spec {
        DeviceSpec::Vsock(vsock) => format!("vsock {}", vsock.cid),
        DeviceSpec::Rng => "rng".to_owned(),
        DeviceSpec::Balloon => "balloon".to_owned(),
        DeviceSpec::Disk(disk) => format!("disk {}", disk.bytes),
        DeviceSpec::Fs(share) => format!("fs {}", share.tag),
        DeviceSpec::Net(net) => format!("net {:?} {:?}", net.mac, net.mtu),
    }
}
