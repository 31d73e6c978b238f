//! Takes a `vmlinux` apart before it is put into the binary.
//!
//! The linker aligns the kernel's segments to 2 MiB in the file and fills the
//! end of the text with `int3`: 9 of 18 MB. What is loaded into fresh guest
//! memory needs neither, so only the pages with content are kept:
//!
//! - those of the text as runs of pages that the machine maps into the guest's
//!   memory; constants are touched all over during a boot, which costs a fault a
//!   page where they are mapped, and they are less to copy,
//! - the others in an ELF file with the same program headers' worth of content
//!   and no sections, which the machine loads.

use std::error::Error;
use std::ops::Range;

const PAGE: usize = 4096;
const EHDR_BYTES: usize = 64;
const PHDR_BYTES: usize = 56;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// `sh_flags` of a section that holds instructions, and of one that can be written.
const SHF_EXECINSTR: u64 = 4;
const SHF_WRITE: u64 = 1;
const SHDR_BYTES: usize = 64;
/// A hole is left out from this many pages on; a header costs less than one.
const LEAST_HOLE_PAGES: usize = 4;
/// A section of text below this is not worth a mapping of its own.
const LEAST_TEXT_BYTES: u64 = 1 << 20;
/// What the linker fills the end of the text with.
const INT3: u8 = 0xcc;

/// A program header (`Elf64_Phdr`), its fields as they are in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: usize,
    vaddr: u64,
    paddr: u64,
    file_bytes: usize,
    memory_bytes: u64,
}

/// A kernel taken apart.
pub(crate) struct Packed {
    /// ELF file with all that is to be loaded.
    pub(crate) elf: Vec<u8>,
    /// Guest physical address and content of runs of whole pages that are to be mapped.
    pub(crate) mapped: Vec<(u64, Vec<u8>)>,
}

/// Packs an ELF kernel; another kind of image is to be loaded as it is.
pub(crate) fn pack(image: &[u8]) -> Result<Packed, Box<dyn Error>> {
    if !image.starts_with(b"\x7fELF\x02\x01") {
        return Ok(Packed { elf: image.to_vec(), mapped: Vec::new() });
    }
    let text = text_sections(image)?;
    let mut loaded = Vec::new();
    let mut mapped = Vec::new();
    for segment in segments(image)? {
        match segment.kind {
            PT_LOAD => {
                for piece in split(&segment, image)? {
                    if is_mapped(&piece, &text) {
                        let mut pages = content(&piece, image)?.to_vec();
                        pages.resize(pages.len().next_multiple_of(PAGE), 0);
                        mapped.push((piece.paddr, pages));
                    } else {
                        loaded.push(piece);
                    }
                }
            }
            PT_NOTE => loaded.push(segment),
            _ => {}
        }
    }
    Ok(Packed { elf: write(image, &loaded)?, mapped })
}

/// Whole pages of one section of text.
fn is_mapped(piece: &Segment, text: &[Range<u64>]) -> bool {
    let end = piece.vaddr + piece.memory_bytes.next_multiple_of(PAGE as u64);
    piece.paddr.is_multiple_of(PAGE as u64)
        && text.iter().any(|section| section.start <= piece.vaddr && end <= section.end)
}

/// The addresses of the large sections of instructions, of which a kernel has one:
/// what it needs only while it starts is small and overwritten afterwards.
fn text_sections(image: &[u8]) -> Result<Vec<Range<u64>>, Box<dyn Error>> {
    let start = usize::try_from(number::<8>(image, 40)?)?;
    let count = usize::try_from(number::<2>(image, 60)?)?;
    let mut text = Vec::new();
    for at in (0..count).map(|index| start + index * SHDR_BYTES) {
        let flags = number::<8>(image, at + 8)?;
        let (address, bytes) = (number::<8>(image, at + 16)?, number::<8>(image, at + 32)?);
        if flags & (SHF_EXECINSTR | SHF_WRITE) == SHF_EXECINSTR && bytes >= LEAST_TEXT_BYTES {
            text.push(address..address + bytes);
        }
    }
    Ok(text)
}

fn segments(image: &[u8]) -> Result<Vec<Segment>, Box<dyn Error>> {
    let start = usize::try_from(number::<8>(image, 32)?)?;
    let count = usize::try_from(number::<2>(image, 56)?)?;
    (0..count).map(|index| segment(image, start + index * PHDR_BYTES)).collect()
}

fn segment(image: &[u8], at: usize) -> Result<Segment, Box<dyn Error>> {
    Ok(Segment {
        kind: u32::try_from(number::<4>(image, at)?)?,
        flags: u32::try_from(number::<4>(image, at + 4)?)?,
        offset: usize::try_from(number::<8>(image, at + 8)?)?,
        vaddr: number::<8>(image, at + 16)?,
        paddr: number::<8>(image, at + 24)?,
        file_bytes: usize::try_from(number::<8>(image, at + 32)?)?,
        memory_bytes: number::<8>(image, at + 40)?,
    })
}

/// The runs of a segment that hold something. Its last page always belongs to
/// one, which also carries what memory the segment has behind its content.
fn split(segment: &Segment, image: &[u8]) -> Result<Vec<Segment>, Box<dyn Error>> {
    let content = content(segment, image)?;
    let mut runs: Vec<Range<usize>> = Vec::new();
    let last = content.len().div_ceil(PAGE).saturating_sub(1);
    for (index, page) in content.chunks(PAGE).enumerate() {
        let empty = page.iter().all(|&byte| byte == 0) || page.iter().all(|&byte| byte == INT3);
        if empty && index != last {
            continue;
        }
        match runs.last_mut() {
            Some(run) if index - run.end < LEAST_HOLE_PAGES => run.end = index + 1,
            _ => runs.push(index..index + 1),
        }
    }
    let pieces = runs.into_iter().map(|run| {
        let start = run.start * PAGE;
        let end = (run.end * PAGE).min(content.len());
        let behind = if end == content.len() { segment.memory_bytes - segment.file_bytes as u64 } else { 0 };
        Segment {
            offset: segment.offset + start,
            vaddr: segment.vaddr + start as u64,
            paddr: segment.paddr + start as u64,
            file_bytes: end - start,
            memory_bytes: (end - start) as u64 + behind,
            ..segment.clone()
        }
    });
    Ok(pieces.collect())
}

fn content<'i>(segment: &Segment, image: &'i [u8]) -> Result<&'i [u8], Box<dyn Error>> {
    let end = segment.offset.checked_add(segment.file_bytes).ok_or("a segment is larger than any file")?;
    Ok(image.get(segment.offset..end).ok_or("a segment lies outside the kernel's file")?)
}

fn write(image: &[u8], pieces: &[Segment]) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut out = image.get(..EHDR_BYTES).ok_or("the kernel's file is too short")?.to_vec();
    out[32..40].copy_from_slice(&(EHDR_BYTES as u64).to_le_bytes());
    out[40..48].fill(0); // no section headers
    out[56..58].copy_from_slice(&u16::try_from(pieces.len())?.to_le_bytes());
    out[58..64].fill(0);
    let mut offset = EHDR_BYTES + pieces.len() * PHDR_BYTES;
    for piece in pieces {
        out.extend(piece.kind.to_le_bytes());
        out.extend(piece.flags.to_le_bytes());
        for field in [
            offset as u64,
            piece.vaddr,
            piece.paddr,
            piece.file_bytes as u64,
            piece.memory_bytes,
            if piece.kind == PT_NOTE { 4 } else { 1 },
        ] {
            out.extend(field.to_le_bytes());
        }
        offset += piece.file_bytes;
    }
    for piece in pieces {
        out.extend_from_slice(content(piece, image)?);
    }
    Ok(out)
}

/// The little-endian number of `N` bytes at `at`.
fn number<const N: usize>(image: &[u8], at: usize) -> Result<u64, Box<dyn Error>> {
    let bytes = image.get(at..at + N).ok_or("the kernel's file ends inside its headers")?;
    Ok(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}
