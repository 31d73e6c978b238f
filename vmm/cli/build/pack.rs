//! Takes a `vmlinux` apart before it is put into the binary.
//!
//! The linker aligns the kernel's segments to 2 MiB in the file and fills the
//! end of the text with `int3`: 9 of 18 MB. What is loaded into fresh guest
//! memory needs neither, so only the pages with content are kept:
//!
//! - those of the text that no boot changes as runs of pages that the machine maps
//!   into the guest's memory; constants are touched all over during a boot, which
//!   costs a fault a page where they are mapped, and they are less to copy,
//! - the others in an ELF file with the same program headers' worth of content
//!   and no sections, which the machine loads.

use std::collections::BTreeSet;
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
/// So many pages in a row that no boot patches are worth a mapping.
const LEAST_MAPPED_PAGES: u64 = 64;
const ALT_INSTR_BYTES: u64 = 14;
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
    let patched = patched_pages(image)?;
    let mut loaded = Vec::new();
    let mut mapped = Vec::new();
    for segment in segments(image)? {
        match segment.kind {
            PT_LOAD => {
                for piece in split(&segment, image)? {
                    if !is_text(&piece, &text) {
                        loaded.push(piece);
                        continue;
                    }
                    for (run, is_patched) in runs(&piece, &patched) {
                        if is_patched {
                            loaded.push(run);
                        } else {
                            let mut pages = content(&run, image)?.to_vec();
                            pages.resize(pages.len().next_multiple_of(PAGE), 0);
                            mapped.push((run.paddr, pages));
                        }
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
fn is_text(piece: &Segment, text: &[Range<u64>]) -> bool {
    let end = piece.vaddr + piece.memory_bytes.next_multiple_of(PAGE as u64);
    piece.paddr.is_multiple_of(PAGE as u64)
        && text.iter().any(|section| section.start <= piece.vaddr && end <= section.end)
}

/// The piece's runs of pages that the kernel patches while it starts, and of those
/// that it does not, in their order. Too few of the latter are not worth a mapping.
fn runs(piece: &Segment, patched: &BTreeSet<u64>) -> Vec<(Segment, bool)> {
    let first = piece.vaddr / PAGE as u64;
    let end = first + piece.file_bytes.div_ceil(PAGE) as u64;
    let run = |pages: Range<u64>| {
        let bytes = |page: u64| (usize::try_from(page - first).unwrap_or(usize::MAX)).saturating_mul(PAGE);
        part(piece, bytes(pages.start)..bytes(pages.end).min(piece.file_bytes))
    };
    let mut runs = Vec::new();
    let (mut pending, mut clean) = (first, first);
    for page in patched.range(first..end).copied().chain([end]) {
        if page - clean >= LEAST_MAPPED_PAGES {
            if clean > pending {
                runs.push((run(pending..clean), true));
            }
            runs.push((run(clean..page), false));
            pending = page;
        }
        clean = page + 1;
    }
    if end > pending {
        runs.push((run(pending..end), true));
    }
    runs
}

/// Numbers of the pages that hold an instruction of which the kernel chooses a
/// variant that fits the CPU: the entries of `.altinstructions`
/// (`struct alt_instr`, arch/x86/include/asm/alternative.h).
fn patched_pages(image: &[u8]) -> Result<BTreeSet<u64>, Box<dyn Error>> {
    let sections = sections(image)?;
    let Some(table) = sections.iter().find(|section| section.name == b".altinstructions") else {
        return Ok(BTreeSet::new());
    };
    let pages = (0..table.bytes / ALT_INSTR_BYTES).map(|index| {
        let entry = index * ALT_INSTR_BYTES;
        // A signed number, relative to the entry.
        let offset =
            u32::try_from(number::<4>(image, table.offset + usize::try_from(entry)?)?)?.cast_signed();
        Ok((table.address + entry).wrapping_add_signed(offset.into()) / PAGE as u64)
    });
    pages.collect()
}

/// The addresses of the large sections of instructions, of which a kernel has one:
/// what it needs only while it starts is small and overwritten afterwards.
fn text_sections(image: &[u8]) -> Result<Vec<Range<u64>>, Box<dyn Error>> {
    let text = sections(image)?.into_iter().filter(|section| {
        section.flags & (SHF_EXECINSTR | SHF_WRITE) == SHF_EXECINSTR && section.bytes >= LEAST_TEXT_BYTES
    });
    Ok(text.map(|section| section.address..section.address + section.bytes).collect())
}

/// A section header (`Elf64_Shdr`), its fields as they are in the file.
struct Section<'i> {
    name: &'i [u8],
    flags: u64,
    address: u64,
    offset: usize,
    bytes: u64,
}

fn sections(image: &[u8]) -> Result<Vec<Section<'_>>, Box<dyn Error>> {
    let start = usize::try_from(number::<8>(image, 40)?)?;
    let count = usize::try_from(number::<2>(image, 60)?)?;
    let names = usize::try_from(number::<2>(image, 62)?)?;
    let names = usize::try_from(number::<8>(image, start + names * SHDR_BYTES + 24)?)?;
    let section = |at| {
        let name = names + usize::try_from(number::<4>(image, at)?)?;
        let name = image.get(name..).ok_or("a section's name lies outside the kernel's file")?;
        Ok(Section {
            name: name.split(|&byte| byte == 0).next().unwrap_or_default(),
            flags: number::<8>(image, at + 8)?,
            address: number::<8>(image, at + 16)?,
            offset: usize::try_from(number::<8>(image, at + 24)?)?,
            bytes: number::<8>(image, at + 32)?,
        })
    };
    (0..count).map(|index| section(start + index * SHDR_BYTES)).collect()
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
    let pieces =
        runs.into_iter().map(|run| part(segment, run.start * PAGE..(run.end * PAGE).min(content.len())));
    Ok(pieces.collect())
}

/// These bytes of a segment's content; the last ones carry what memory the segment
/// has behind them.
fn part(segment: &Segment, bytes: Range<usize>) -> Segment {
    let file_bytes = bytes.len();
    let is_last = bytes.end == segment.file_bytes;
    Segment {
        offset: segment.offset + bytes.start,
        vaddr: segment.vaddr + bytes.start as u64,
        paddr: segment.paddr + bytes.start as u64,
        file_bytes,
        memory_bytes: if is_last { segment.memory_bytes - bytes.start as u64 } else { file_bytes as u64 },
        ..segment.clone()
    }
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
