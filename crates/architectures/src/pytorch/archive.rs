//! The zip archive in which `torch.save` has put weights since 2020: read where it lies, by its
//! central directory. Torch stores every entry as it is; so nothing here unpacks anything.
//!
//! Refuses compressed and encrypted entries, entries that overlap or leave the archive, two of one
//! name, names that climb out of a folder (although no name is ever used as a path), several disks,
//! and anything behind the end of the directory. What an entry holds is checked against its CRC-32
//! when it is read.
//!
//! Source: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 to 4.5.

use super::error::PytorchError;
use std::collections::BTreeMap;
use std::ops::Range;

/// Torch writes one entry a tensor and a few of its own.
const ENTRY_LIMIT: u64 = 1 << 17;
const LOCAL_HEADER: u32 = 0x0403_4b50;
const CENTRAL_HEADER: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END_LENGTH: usize = 22;
const END_64: u32 = 0x0606_4b50;
const END_64_LENGTH: usize = 56;
const LOCATOR_64: u32 = 0x0706_4b50;
const LOCATOR_64_LENGTH: usize = 20;
/// Bits of the flags that say encryption, of contents or of the directory.
const ENCRYPTED: u16 = 1 << 0 | 1 << 6 | 1 << 13;

/// Where an entry's content lies in the archive.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub content: Range<usize>,
    pub crc: u32,
}

/// The entries of an archive by name.
#[derive(Debug)]
pub(super) struct Archive {
    entries: BTreeMap<String, Entry>,
}

/// Whether these bytes begin as an archive does.
pub(super) fn is_archive(bytes: &[u8]) -> bool {
    bytes.starts_with(&LOCAL_HEADER.to_le_bytes())
}

/// Whether an entry's content is what was written.
pub(super) fn is_whole(content: &[u8], crc: u32) -> bool {
    crc32fast::hash(content) == crc
}

impl Archive {
    /// Reads and checks the directory.
    ///
    /// # Errors
    /// See the head of this file.
    pub fn read(bytes: &[u8]) -> Result<Archive, PytorchError> {
        let (directory, count) = directory(bytes)?;
        if count > ENTRY_LIMIT {
            return Err(bad(format!("has {count} entries, the limit is {ENTRY_LIMIT}")));
        }
        let mut fields = Fields { bytes: &bytes[..directory.end], at: directory.start };
        let mut entries = BTreeMap::new();
        // Local header to end of content, to be compared with each other.
        let mut spans = Vec::new();
        for _ in 0..count {
            let listed = fields.central_header().ok_or_else(|| bad("has a damaged directory"))?;
            let name = listed.checked_name()?;
            let content = content(&bytes[..directory.start], &listed, &name)?;
            spans.push((listed.offset, content.end, name.clone()));
            let entry = Entry { content, crc: listed.crc };
            if entries.insert(name.clone(), entry).is_some() {
                return Err(PytorchError::Entry { name, problem: "occurs twice".to_owned() });
            }
        }
        if fields.at != directory.end {
            return Err(bad(format!("lists more than its {count} entries")));
        }
        spans.sort();
        if let Some(pair) = spans.windows(2).find(|pair| pair[1].0 < pair[0].1 as u64) {
            let problem = format!("overlaps {:?}", pair[0].2);
            return Err(PytorchError::Entry { name: pair[1].2.clone(), problem });
        }
        Ok(Archive { entries })
    }

    /// The entry of this name.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// The folder in which torch put everything; named after the file at the time.
    ///
    /// # Errors
    /// There is no one folder with a `data.pkl`.
    pub fn folder(&self) -> Result<&str, PytorchError> {
        let names = self.entries.keys().filter_map(|name| name.strip_suffix("/data.pkl"));
        let mut folders = names.filter(|folder| !folder.contains('/'));
        match (folders.next(), folders.next()) {
            (Some(folder), None) => Ok(folder),
            (None, _) => Err(bad("has no entry `data.pkl` in a folder")),
            (Some(a), Some(b)) => Err(bad(format!("has `data.pkl` in both {a:?} and {b:?}"))),
        }
    }
}

fn bad(problem: impl Into<String>) -> PytorchError {
    PytorchError::Archive { problem: problem.into() }
}

/// Where the central directory lies, and how many entries it should list.
fn directory(bytes: &[u8]) -> Result<(Range<usize>, u64), PytorchError> {
    let end = bytes.len().checked_sub(END_LENGTH);
    let end = end.ok_or_else(|| bad("is shorter than its end record"))?;
    let record = Fields { bytes, at: end }.end_record();
    let Some(record) = record.filter(|record| record.comment == 0) else {
        return Err(bad("does not end in the end record of an archive"));
    };
    let needs_64 = record.entries == u64::from(u16::MAX)
        || [record.length, record.offset].contains(&u64::from(u32::MAX));
    let (record, limit) = if needs_64 {
        let found = end.checked_sub(LOCATOR_64_LENGTH).and_then(|locator| {
            let at = usize::try_from(Fields { bytes, at: locator }.locator_64()?).ok()?;
            let record = Fields { bytes: &bytes[..locator], at }.end_record_64()?;
            Some((record, at))
        });
        found.ok_or_else(|| bad("needs a zip64 end record and has none"))?
    } else {
        (record, end)
    };
    if !record.one_disk {
        return Err(bad("spans several disks"));
    }
    let stop = record.offset.checked_add(record.length).filter(|&stop| stop <= limit as u64);
    match (usize::try_from(record.offset), stop.map(usize::try_from)) {
        (Ok(start), Some(Ok(stop))) => Ok((start..stop, record.entries)),
        _ => Err(bad("has a directory that reaches beyond it")),
    }
}

/// Where the content of a listed entry lies in what comes before the directory.
fn content(bytes: &[u8], listed: &Listed<'_>, name: &str) -> Result<Range<usize>, PytorchError> {
    let bad = |problem: String| PytorchError::Entry { name: name.to_owned(), problem };
    if listed.flags & ENCRYPTED != 0 {
        return Err(bad("is encrypted".to_owned()));
    }
    if listed.method != 0 {
        return Err(bad(format!(
            "is compressed (method {}); only stored entries are read",
            listed.method
        )));
    }
    if listed.compressed != listed.length {
        let (stored, length) = (listed.compressed, listed.length);
        return Err(bad(format!("is stored as it is, but says {stored} bytes become {length}")));
    }
    let local = usize::try_from(listed.offset)
        .ok()
        .and_then(|at| Fields { bytes, at }.local_header())
        .ok_or_else(|| bad("has no local header where the directory says".to_owned()))?;
    if local.name != listed.name || local.method != 0 || local.flags & ENCRYPTED != 0 {
        return Err(bad("has a local header that contradicts the directory".to_owned()));
    }
    let end = (local.content as u64).checked_add(listed.length);
    match end.filter(|&end| end <= bytes.len() as u64) {
        Some(end) => Ok(local.content..end as usize),
        None => Err(bad(format!("says {} bytes, which reach beyond the archive", listed.length))),
    }
}

/// An end record of either size.
struct EndRecord {
    one_disk: bool,
    entries: u64,
    length: u64,
    offset: u64,
    comment: u16,
}

/// An entry in the directory.
struct Listed<'a> {
    flags: u16,
    method: u16,
    crc: u32,
    compressed: u64,
    length: u64,
    offset: u64,
    name: &'a [u8],
}

impl Listed<'_> {
    fn checked_name(&self) -> Result<String, PytorchError> {
        let shown = String::from_utf8_lossy(self.name).into_owned();
        let inside = |name: &str| {
            !name.contains(['\\', '\0', ':'])
                && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
        };
        if std::str::from_utf8(self.name).is_ok_and(inside) {
            return Ok(shown);
        }
        Err(PytorchError::Entry { name: shown, problem: "is no path inside a folder".to_owned() })
    }
}

/// An entry's own header.
struct Local<'a> {
    flags: u16,
    method: u16,
    name: &'a [u8],
    /// Where the content begins.
    content: usize,
}

/// Little-endian fields, one after the other; `None` at the end of the bytes.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn signature(&mut self, expected: u32) -> Option<()> {
        (self.u32()? == expected).then_some(())
    }

    fn end_record(&mut self) -> Option<EndRecord> {
        self.signature(END)?;
        let (disk, first, here) = (self.u16()?, self.u16()?, self.u16()?);
        let entries = self.u16()?;
        let one_disk = disk == 0 && first == 0 && here == entries;
        let (length, offset) = (self.u32()?.into(), self.u32()?.into());
        Some(EndRecord { one_disk, entries: entries.into(), length, offset, comment: self.u16()? })
    }

    fn locator_64(&mut self) -> Option<u64> {
        self.signature(LOCATOR_64)?;
        self.u32()?;
        self.u64()
    }

    fn end_record_64(&mut self) -> Option<EndRecord> {
        self.signature(END_64)?;
        // The record's length behind this field, and the versions.
        if self.u64()? < END_64_LENGTH as u64 - 12 {
            return None;
        }
        self.take(4)?;
        let (disk, first, here) = (self.u32()?, self.u32()?, self.u64()?);
        let entries = self.u64()?;
        let one_disk = disk == 0 && first == 0 && here == entries;
        Some(EndRecord { one_disk, entries, length: self.u64()?, offset: self.u64()?, comment: 0 })
    }

    fn central_header(&mut self) -> Option<Listed<'a>> {
        self.signature(CENTRAL_HEADER)?;
        self.take(4)?; // versions
        let (flags, method) = (self.u16()?, self.u16()?);
        self.take(4)?; // time
        let crc = self.u32()?;
        let (mut compressed, mut length) = (self.u32()?.into(), self.u32()?.into());
        let (name, extra, comment) = (self.u16()?, self.u16()?, self.u16()?);
        self.take(8)?; // disk, attributes
        let mut offset = self.u32()?.into();
        let name = self.take(name.into())?;
        let extra = Fields { bytes: self.take(extra.into())?, at: 0 };
        self.take(comment.into())?;
        extra.widen([&mut length, &mut compressed, &mut offset])?;
        Some(Listed { flags, method, crc, compressed, length, offset, name })
    }

    /// Takes those fields that did not fit 32 bits from the zip64 extra field.
    fn widen(mut self, fields: [&mut u64; 3]) -> Option<()> {
        let mut wanted =
            fields.into_iter().filter(|field| **field == u64::from(u32::MAX)).peekable();
        while wanted.peek().is_some() {
            let (kind, length) = (self.u16()?, self.u16()?);
            let mut body = Fields { bytes: self.take(length.into())?, at: 0 };
            if kind == 1 {
                for field in wanted.by_ref() {
                    *field = body.u64()?;
                }
            }
        }
        Some(())
    }

    fn local_header(&mut self) -> Option<Local<'a>> {
        self.signature(LOCAL_HEADER)?;
        self.take(2)?; // version
        let (flags, method) = (self.u16()?, self.u16()?);
        self.take(16)?; // time; check sum and lengths, which may stand behind the content instead
        let (name, extra) = (self.u16()?, self.u16()?);
        let name = self.take(name.into())?;
        self.take(extra.into())?;
        Some(Local { flags, method, name, content: self.at })
    }
}
