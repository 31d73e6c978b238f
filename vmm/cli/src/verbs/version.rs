//! `vmrun version`.

use std::process::ExitCode;

use clap::Args;

/// Tell the versions of vmrun and of what it carries
#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The only version of the KVM interface that there has ever been; others are refused.
const KVM_API: u32 = 12;

pub(crate) fn version(args: &VersionArgs) -> ExitCode {
    let kernel = Some(env!("VMRUN_KERNEL_RELEASE")).filter(|release| !release.is_empty());
    let (version, commit) = (env!("CARGO_PKG_VERSION"), env!("VMRUN_COMMIT"));
    let spec = vmrun_runtime::SPEC_VERSION;
    if args.json {
        #[cfg_attr(not(feature = "planted-holes"), allow(unused_mut))]
        let mut data = serde_json::json!({
            "version": version,
            "commit": commit,
            "spec": spec,
            "kernel": kernel,
            "kvm_api": KVM_API,
        });
        #[cfg(feature = "planted-holes")]
        {
            data["planted_holes"] = true.into();
        }
        super::print(&super::json(&data));
    } else {
        let kernel = kernel.unwrap_or("none inside");
        super::print(&format!(
            "version: {version}\ncommit: {commit}\nspec: {spec}\nkernel: {kernel}\nkvm api: {KVM_API}\n"
        ));
        #[cfg(feature = "planted-holes")]
        super::print("holes: planted; this build is for tests and lets a guest do what it likes\n");
    }
    ExitCode::SUCCESS
}
