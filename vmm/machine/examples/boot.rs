//! Boots a kernel with a boot image and nothing around it, and prints the
//! console: for work on the kernel and on the machine itself.
//!
//! `cargo run --release -p vmrun-machine --example boot -- KERNEL INITRAMFS [PARAMETER...]`

use std::error::Error;
use std::os::fd::AsRawFd;
use std::time::Instant;

use vmrun_machine::{BootImages, Built};
use vmrun_spec::{DeviceSpec, Image, MachineSpec, VsockSpec};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let kernel = arguments.next().ok_or("usage: boot KERNEL INITRAMFS [PARAMETER...]")?;
    let initramfs = arguments.next().ok_or("usage: boot KERNEL INITRAMFS [PARAMETER...]")?;
    let directory = std::env::temp_dir().join(format!("vmrun-boot-{}", std::process::id()));
    std::fs::create_dir(&directory)?;
    let spec = MachineSpec {
        vcpus: 1,
        memory_mib: 256,
        kernel: Image::File(kernel.clone().into()),
        initramfs: Image::File(initramfs.clone().into()),
        cmdline: arguments.collect(),
        console_log: directory.join("console.log"),
        mark_port: None,
        devices: vec![
            DeviceSpec::Vsock(VsockSpec { cid: 3, socket: directory.join("vsock.sock") }),
            DeviceSpec::Rng,
        ],
    };
    let start = Instant::now();
    let (kernel, initramfs) = (std::fs::read(kernel)?, std::fs::read(initramfs)?);
    let images = BootImages { kernel: &kernel, kernel_pages: &[], initramfs: &initramfs };
    let running = Built::new(&spec, images, None)?.start()?;
    println!("started after {:?}", start.elapsed());
    let mut poll = [libc::pollfd { fd: running.ended_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 }];
    // SAFETY: the array is valid for the one entry that is announced.
    unsafe { libc::poll(poll.as_mut_ptr(), 1, 10_000) };
    println!("after {:?}: {:?}", start.elapsed(), running.end());
    println!("{}", running.console().tail(200).join("\n"));
    running.stop();
    std::fs::remove_dir_all(directory)?;
    Ok(())
}
