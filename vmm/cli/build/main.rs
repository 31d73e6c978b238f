//! Puts kernel and boot image into the binary: `VMRUN_EMBED_KERNEL` and
//! `VMRUN_EMBED_INITRAMFS` name their files. Without them the binary carries
//! none, which is what a plain `cargo check` or `cargo test` wants.

mod pack;

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed=VMRUN_COMMIT");
    let commit = env::var("VMRUN_COMMIT").unwrap_or_else(|_| "unknown".to_owned());
    println!("cargo:rustc-env=VMRUN_COMMIT={commit}");
    let kernel = embedded("VMRUN_EMBED_KERNEL")?;
    let initramfs = embedded("VMRUN_EMBED_INITRAMFS")?;
    let release = match &kernel {
        Some(path) => kernel_release(&fs::read(path)?).unwrap_or_else(|| "unknown".to_owned()),
        None => String::new(),
    };
    println!("cargo:rustc-env=VMRUN_KERNEL_RELEASE={release}");
    let digest = digest(&[&kernel, &initramfs])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut code = String::new();
    let mut mapped = String::new();
    let packed = match kernel {
        Some(path) => {
            let packed = pack::pack(&fs::read(&path)?)?;
            for (number, (address, pages)) in packed.mapped.iter().enumerate() {
                let file = out.join(format!("kernel.{number}"));
                fs::write(&file, pages)?;
                code += &image(&format!("MAPPED_{number}"), Some(&file));
                writeln!(mapped, "    MappedPages {{ address: {address:#x}, bytes: &MAPPED_{number}.0 }},")?;
            }
            let file = out.join("kernel");
            fs::write(&file, packed.elf)?;
            Some(file)
        }
        None => None,
    };
    code += &image("KERNEL", packed.as_deref());
    code += &image("INITRAMFS", initramfs.as_deref());
    writeln!(code, "const DIGEST: u64 = {digest:#x};")?;
    writeln!(code, "static MAPPED: &[MappedPages] = &[\n{mapped}];")?;
    fs::write(out.join("embedded.rs"), code)?;
    Ok(())
}

fn embedded(variable: &str) -> Result<Option<PathBuf>, Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed={variable}");
    let Some(path) = env::var_os(variable).filter(|path| !path.is_empty()) else { return Ok(None) };
    let path = fs::canonicalize(&path)
        .map_err(|error| format!("{variable}: {}: {error}", Path::new(&path).display()))?;
    println!("cargo:rerun-if-changed={}", path.display());
    Ok(Some(path))
}

/// A number that stands for the content of files.
fn digest(files: &[&Option<PathBuf>]) -> Result<u64, Box<dyn Error>> {
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.as_ref().map(fs::read).transpose()?.hash(&mut hasher);
    }
    Ok(hasher.finish())
}

fn image(name: &str, path: Option<&Path>) -> String {
    let bytes = match path {
        Some(path) => format!("*include_bytes!({path:?})"),
        None => "[]".to_owned(),
    };
    format!("static {name}: &PageAligned<[u8]> = &PageAligned({bytes});\n")
}

/// The release in the banner that every kernel has: `Linux version 6.12.0 (…`.
fn kernel_release(kernel: &[u8]) -> Option<String> {
    const BANNER: &[u8] = b"Linux version ";
    let mut rest = kernel;
    loop {
        let start = rest.windows(BANNER.len()).position(|window| window == BANNER)? + BANNER.len();
        rest = rest.get(start..)?;
        let end = rest.iter().position(|byte| !byte.is_ascii_graphic())?;
        let release = String::from_utf8_lossy(rest.get(..end)?).into_owned();
        // A format string of the same text comes first in some builds.
        if release.starts_with(|character: char| character.is_ascii_digit()) {
            return Some(release);
        }
    }
}
