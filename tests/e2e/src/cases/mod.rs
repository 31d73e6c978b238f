//! The cases, by what they are about.

mod capabilities;
mod cgroups;
mod devices;
mod exit;
mod machine;
mod mounts;
mod namespaces;
mod process;
mod rootfs;
mod seccomp;
mod streams;
