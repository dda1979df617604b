//! A file into Azure Blob Storage, at an address that authorises itself (a shared access signature):
//! Put Blob, or Put Block and Put Block List for large ones. The address is a secret.

use std::fs::File;
use std::io::{Cursor, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::at;
use crate::server::http::Http;
use crate::server::{Secret, query_value};
use crate::{Error, Result};

/// Of the service's API.
const VERSION: &str = "2021-12-02";
/// The most blocks that a blob can have.
const MOST_BLOCKS: u64 = 50_000;

impl Http {
    /// Makes the blob hold what the file does; one that is there is replaced, as a whole and at the end.
    /// A file of more than `block` bytes goes in blocks of so many, or of more where that would be too
    /// many blocks.
    pub(super) fn put_blob(&self, address: &Secret, local: &Path, block: u64) -> Result<()> {
        let length = local.metadata().map_err(at("read", local))?.len();
        let block = block.max(length.div_ceil(MOST_BLOCKS)).max(1);
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let version = header("x-ms-version", VERSION);
        if length <= block {
            let headers = [version, header("x-ms-blob-type", "BlockBlob")];
            return self.put_piece(address.expose(), &headers, local, 0, length);
        }
        let headers = [version];
        let mut list = String::from("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>");
        for number in 0..length.div_ceil(block) {
            // Names of one length, as the service asks for.
            let name = STANDARD.encode(format!("{number:08}"));
            list += &format!("<Latest>{name}</Latest>");
            let name = query_value(&name);
            let url = format!("{}&comp=block&blockid={name}", address.expose());
            let start = number * block;
            self.put_piece(&url, &headers, local, start, block.min(length - start))?;
        }
        list += "</BlockList>";
        let url = format!("{}&comp=blocklist", address.expose());
        self.repeated(|| {
            let length = list.len() as u64;
            created(&url, self.put_part(&url, &headers, &mut Cursor::new(&list), length)?)
        })
    }

    fn put_piece(
        &self,
        url: &str,
        headers: &[(String, String)],
        local: &Path,
        start: u64,
        length: u64,
    ) -> Result<()> {
        self.repeated(|| {
            let mut file = File::open(local).map_err(at("read", local))?;
            file.seek(SeekFrom::Start(start)).map_err(at("read", local))?;
            created(url, self.put_part(url, headers, &mut file.take(length), length)?)
        })
    }
}

/// Only this status says that the storage has it: a page of a sign-in is no yes.
fn created(url: &str, (status, _): (u16, String)) -> Result<()> {
    if status == 201 {
        return Ok(());
    }
    let url = url.split('?').next().unwrap_or_default().to_owned();
    Err(Error::BadAnswer { url, reason: format!("{status} instead of 201 Created") })
}
