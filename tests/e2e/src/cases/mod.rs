//! The cases, by what they are about.

mod bad_input;
mod bad_machine;
mod capabilities;
mod cgroups;
mod confinement;
mod create;
mod devices;
mod exec;
mod exit;
mod hung;
mod id_maps;
mod kernel;
mod killed;
mod lifecycle;
mod look;
mod machine;
mod mounts;
mod namespaces;
mod pause;
mod process;
mod python;
mod rootfs;
mod seccomp;
mod sharing;
mod streams;
mod terminal;
