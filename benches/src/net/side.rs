//! Who is measured: a container or a machine that serves.

use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::NetArgs;
use super::lab::Lab;
use crate::process::output;

const GUEST_MIB: u32 = 256;

/// Until a side must answer.
const START_LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Vmrun,
    Crun,
    /// On a tap behind the same veth as the containers', joined as vmrun joins its own.
    Qemu {
        vhost: bool,
    },
    /// On a tap that is the far end itself.
    QemuTap,
}

const KINDS: [(&str, Kind); 5] = [
    ("vmrun", Kind::Vmrun),
    ("qemu", Kind::Qemu { vhost: false }),
    ("qemu_tap", Kind::QemuTap),
    ("qemu_vhost", Kind::Qemu { vhost: true }),
    ("crun", Kind::Crun),
];

/// Those that are asked for and can be on this machine.
pub(super) fn kinds(names: &[String]) -> Result<Vec<Kind>, Box<dyn Error>> {
    let mut kinds = Vec::new();
    for name in names {
        let (_, kind) = *KINDS.iter().find(|(known, _)| known == name).ok_or("there is no such side")?;
        let vhost = kind == Kind::Qemu { vhost: true };
        if vhost && File::options().read(true).write(true).open("/dev/vhost-net").is_err() {
            eprintln!("{name} is left out: /dev/vhost-net cannot be opened");
            continue;
        }
        kinds.push(kind);
    }
    Ok(kinds)
}

pub(super) struct Side {
    kind: Kind,
    number: u8,
    scratch: PathBuf,
    runs: Runs,
}

enum Runs {
    Container { runtime: PathBuf, store: PathBuf },
    Machine(Child),
}

/// A command that runs or deletes containers of a runtime.
pub(super) fn runtime(runtime: &Path, store: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(runtime);
    command.arg("--root").arg(store).args(words);
    command
}

/// Writes a bundle in `folder` whose network namespace has this name.
pub(super) fn bundle(
    folder: &Path,
    rootfs: &Path,
    program: &[&str],
    namespace: &str,
) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "args": program, "env": ["PATH=/bin:/usr/bin:/usr/sbin"], "cwd": "/"},
        "root": {"path": rootfs},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}
        ],
        "linux": {"namespaces": [
            {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
            {"type": "network", "path": format!("/run/netns/{namespace}")}
        ]}
    });
    Ok(fs::write(folder.join("config.json"), config.to_string())?)
}

impl Side {
    pub(super) fn start(kind: Kind, number: u8, lab: &Lab, args: &NetArgs) -> Result<Self, Box<dyn Error>> {
        let name = name(kind);
        let namespace = format!("vmrun-bench-{name}");
        let scratch = args.scratch.join(name);
        fs::create_dir_all(&scratch)?;
        if kind != Kind::QemuTap {
            lab.linked(&namespace, number, 1)?;
        }
        let runs = match kind {
            Kind::Vmrun => {
                let memory = GUEST_MIB.to_string();
                let options = ["--vcpus", "1", "--memory", &memory];
                container(&args.vmrun, &options, &namespace, number, &scratch, args)?
            }
            Kind::Crun => container(Path::new("crun"), &[], &namespace, number, &scratch, args)?,
            Kind::Qemu { vhost } => {
                Lab::tap_behind_veth(&namespace)?;
                let address = Lab::hardware_address(&namespace)?;
                qemu(&namespace, &address, vhost, number, &scratch, args)?
            }
            Kind::QemuTap => {
                Lab::far_tap(number)?;
                qemu(Lab::far_name(), "52:54:00:77:00:02", false, number, &scratch, args)?
            }
        };
        Ok(Self { kind, number, scratch, runs })
    }

    pub(super) fn name(&self) -> &'static str {
        name(self.kind)
    }

    pub(super) fn address(&self) -> String {
        format!("10.77.{}.2", self.number)
    }

    /// Returns when iperf3 and nginx answer.
    pub(super) fn await_ready(&self, lab: &Lab) -> Result<(), Box<dyn Error>> {
        let begun = Instant::now();
        let probes = [
            format!("iperf3 -c {} -n 1K --connect-timeout 1000", self.address()),
            format!("wrk -t1 -c1 -d1 http://{}:8080/", self.address()),
        ];
        for probe in probes {
            while let Err(error) = output(&mut lab.far(&probe)) {
                if begun.elapsed() > START_LIMIT {
                    let log = fs::read_to_string(self.scratch.join("log")).unwrap_or_default();
                    return Err(format!("{} does not answer: {error}\n{log}", self.name()).into());
                }
            }
        }
        Ok(())
    }

    /// The process that runs the machine, if there is one.
    pub(super) fn machine_pid(&self) -> Option<u32> {
        match &self.runs {
            Runs::Machine(child) => Some(child.id()),
            Runs::Container { .. } if self.kind == Kind::Crun => None,
            Runs::Container { .. } => fs::read_to_string(self.scratch.join("pid")).ok()?.trim().parse().ok(),
        }
    }
}

/// What a sandbox's card has counted: kicks of its driver, and its own interrupts.
pub(super) type Card = [u64; 2];

impl Side {
    /// Only vmrun tells.
    pub(super) fn card(&self) -> Result<Option<Card>, Box<dyn Error>> {
        let (Kind::Vmrun, Runs::Container { runtime: program, store }) = (self.kind, &self.runs) else {
            return Ok(None);
        };
        let said = output(&mut runtime(program, store, &["events", "--stats", "vmrun-bench-vmrun"]))?;
        let said: serde_json::Value = serde_json::from_str(&said)?;
        let counters = &said["data"]["dev.vmrun.network_devices"][0]["counters"];
        let counter =
            |name: &str| counters[name].as_u64().ok_or_else(|| format!("vmrun does not tell {name}"));
        Ok(Some([counter("kicks")?, counter("interrupts")?]))
    }
}

fn name(kind: Kind) -> &'static str {
    KINDS.iter().find(|(_, known)| *known == kind).map_or("", |(name, _)| name)
}

fn container(
    program: &Path,
    options: &[&str],
    namespace: &str,
    number: u8,
    scratch: &Path,
    args: &NetArgs,
) -> Result<Runs, Box<dyn Error>> {
    Lab::address(namespace, number, 0)?;
    bundle(scratch, &args.rootfs, &["/bin/sh", "/srv/serve"], namespace)?;
    let store = scratch.join("store");
    let log = File::create(scratch.join("log"))?;
    let mut command = runtime(program, &store, &["run", "--detach", "--pid-file"]);
    command.arg(scratch.join("pid")).args(options).arg("--bundle").arg(scratch).arg(namespace);
    let status = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).status()?;
    if !status.success() {
        let log = fs::read_to_string(scratch.join("log"))?;
        return Err(format!("cannot start the container of {}: {status}: {log}", program.display()).into());
    }
    Ok(Runs::Container { runtime: program.to_owned(), store })
}

/// QEMU with the least that boots this kernel with a network.
fn qemu(
    namespace: &str,
    hardware_address: &str,
    vhost: bool,
    number: u8,
    scratch: &Path,
    args: &NetArgs,
) -> Result<Runs, Box<dyn Error>> {
    let vhost = if vhost { "on" } else { "off" };
    let parameters = format!("{} bench.address=10.77.{number}.2/29", crate::boot::parameters(&args.cmdline)?);
    let log = File::create(scratch.join("log"))?;
    // `ip` becomes QEMU: the process is the machine's.
    let mut command = Lab::inside(
        namespace,
        "qemu-system-x86_64 -M microvm,acpi=off,x-option-roms=off,pit=off,pic=off,rtc=off,auto-kernel-cmdline=on \
         -global virtio-mmio.force-legacy=false -accel kvm -cpu host -smp 1 \
         -nodefaults -no-user-config -display none -no-reboot -serial stdio",
    );
    command
        .args(["-m", &GUEST_MIB.to_string()])
        .arg("-kernel")
        .arg(&args.kernel)
        .arg("-initrd")
        .arg(&args.initramfs)
        .args(["-append", &parameters])
        .args(["-netdev", &format!("tap,id=net,ifname=tap0,script=no,downscript=no,vhost={vhost}")])
        .args(["-device", &format!("virtio-net-device,netdev=net,mac={hardware_address}")]);
    let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
    Ok(Runs::Machine(child))
}

impl Drop for Side {
    fn drop(&mut self) {
        let ended = match &mut self.runs {
            Runs::Machine(child) => child.kill().and_then(|()| child.wait()).map(drop),
            Runs::Container { runtime: program, store } => {
                runtime(program, store, &["delete", "--force", &format!("vmrun-bench-{}", name(self.kind))])
                    .status()
                    .map(drop)
            }
        };
        if let Err(error) = ended {
            eprintln!("vmrun-bench: cannot end {}: {error}", self.name());
        }
    }
}
