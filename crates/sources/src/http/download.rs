//! A file fetched into `<name>.incomplete`, resumed where an earlier attempt was cut (in this
//! process or another), checked against its announced size and sha256, then moved to its place.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use ureq::http::Uri;

use super::{Answer, Client, bad, public};
use crate::{Error, Progress};

/// Attempts in a row that may end without one new byte.
const FRUITLESS: u32 = 3;

/// What the server announced about a file.
pub(crate) struct Expected {
    pub size: Option<u64>,
    pub sha256: Option<String>,
}

/// Holds `path` against other processes until dropped; the hub's own client takes the same lock.
pub(crate) fn lock(path: &Path) -> Result<File, Error> {
    if let Some(folder) = path.parent() {
        durable::create_folder(folder)?;
    }
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(Error::io("open the lock", path))?;
    file.lock().map_err(Error::io("lock", path))?;
    Ok(file)
}

/// Downloads `url` to `target`. The caller holds a lock that keeps others from the same target.
pub(crate) fn download(
    client: &Client,
    url: &Uri,
    target: &Path,
    expected: &Expected,
    what: &str,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let mut name = target.file_name().unwrap_or_default().to_os_string();
    name.push(".incomplete");
    let mut partial = Partial::open(target.with_file_name(name))?;
    progress.start(what, expected.size);
    progress.advance(partial.length);
    let outcome = partial.fill(client, url, expected, progress);
    progress.finish();
    outcome?;

    if let Some(announced) = &expected.sha256 {
        let found = hex(&std::mem::take(&mut partial.hash).finalize());
        if !found.eq_ignore_ascii_case(announced) {
            partial.discard()?;
            return Err(mismatch(url, "sha256", announced, &found));
        }
    }
    partial.file.sync_all().map_err(Error::io("sync", &partial.path))?;
    fs::rename(&partial.path, target).map_err(Error::io("move into place", target))
}

/// The bytes so far: the file, its length and its running hash always agree.
struct Partial {
    path: PathBuf,
    file: File,
    length: u64,
    hash: Sha256,
}

impl Partial {
    fn open(path: PathBuf) -> Result<Self, Error> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        let mut hash = Sha256::new();
        let length = hash_rest(&mut file, &mut hash).map_err(Error::io("read", &path))?;
        Ok(Self { path, file, length, hash })
    }

    fn restart(&mut self) -> Result<(), Error> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(Error::io("truncate", &self.path))?;
        self.length = 0;
        self.hash = Sha256::new();
        Ok(())
    }

    fn discard(&self) -> Result<(), Error> {
        fs::remove_file(&self.path).map_err(Error::io("remove", &self.path))
    }

    /// Asks for the rest until it is whole.
    fn fill(
        &mut self,
        client: &Client,
        url: &Uri,
        expected: &Expected,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        if expected.size.is_some_and(|size| self.length > size) {
            self.restart()?;
        }
        let (mut fruitless, mut furthest) = (0, self.length);
        loop {
            // A whole file left by an earlier process needs no request; an empty one does.
            if self.length > 0 && expected.size == Some(self.length) {
                return Ok(());
            }
            let cut = match self.ask(client, url, expected, progress) {
                Ok(()) => return Ok(()),
                Err(error @ Error::Unreachable { .. }) => error,
                Err(error) => return Err(error),
            };
            fruitless = if self.length > furthest { 0 } else { fruitless + 1 };
            furthest = furthest.max(self.length);
            if fruitless == FRUITLESS {
                return Err(cut);
            }
            tracing::debug!("{cut}; resuming at byte {}", self.length);
            std::thread::sleep(Duration::from_millis(200) * (fruitless + 1));
        }
    }

    /// One request; `Unreachable` when the body was cut.
    fn ask(
        &mut self,
        client: &Client,
        url: &Uri,
        expected: &Expected,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        let range = format!("bytes={}-", self.length);
        let headers: &[(&str, &str)] =
            if self.length > 0 { &[("range", range.as_str())] } else { &[] };
        let answer = client.get(url, headers)?;
        if answer.status == 416 {
            self.restart()?;
            let reason = "the partial file is not a beginning of this one".into();
            return Err(Error::Unreachable { url: public(url), reason });
        }
        let mut answer = answer.ok()?;
        if answer.status != 206 {
            self.restart()?; // the server sends the file from its beginning
        } else if resumes_at(&answer) != Some(self.length) {
            return Err(bad(url, "it continues at another byte than the one asked for"));
        }
        let announced = expected.size.unwrap_or(u64::MAX);
        let ended = self.receive(&mut answer, announced, progress)?;
        if self.length > announced {
            self.discard()?;
            let found = format!("at least {}", self.length);
            return Err(mismatch(url, "size", &announced.to_string(), &found));
        }
        match ended {
            Some(reason) => Err(Error::Unreachable { url: public(url), reason }),
            None if expected.size.is_some_and(|size| self.length < size) => {
                let reason = format!("it ended after {} of {announced} bytes", self.length);
                Err(Error::Unreachable { url: public(url), reason })
            }
            None => Ok(()),
        }
    }

    /// Appends the body, at most one byte more than announced; says why it broke off, if it did.
    fn receive(
        &mut self,
        answer: &mut Answer,
        announced: u64,
        progress: &dyn Progress,
    ) -> Result<Option<String>, Error> {
        let room = announced.saturating_sub(self.length).saturating_add(1);
        let mut body = answer.body.as_reader().take(room);
        let mut buffer = vec![0; 1 << 18];
        loop {
            let read = match body.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Some(error.to_string())),
            };
            self.file.write_all(&buffer[..read]).map_err(Error::io("write", &self.path))?;
            self.hash.update(&buffer[..read]);
            self.length += read as u64;
            progress.advance(read as u64);
        }
    }
}

fn resumes_at(answer: &Answer) -> Option<u64> {
    let range = answer.last_header("content-range")?.strip_prefix("bytes ")?;
    range.split_once('-')?.0.trim().parse().ok()
}

fn hash_rest(from: &mut impl Read, hash: &mut Sha256) -> io::Result<u64> {
    let mut buffer = vec![0; 1 << 18];
    let mut length = 0;
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(length),
            read => {
                hash.update(&buffer[..read]);
                length += read as u64;
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn mismatch(url: &Uri, what: &'static str, expected: &str, found: &str) -> Error {
    Error::Mismatch { url: public(url), what, expected: expected.into(), found: found.into() }
}
