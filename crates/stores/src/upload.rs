//! Sending a collection: hashes first, then what is not there yet, then the manifest.

use crate::collection::{Collection, Entry};
use crate::{Error, Result, Store};
use futures_util::future::{AbortHandle, Abortable};
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, TryFutureExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{
    Attribute, AttributeValue, Attributes, GetOptions, MultipartUpload, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::time::Duration;

/// Name of the list of what a collection holds. It is written last, and removed before what it lists
/// is replaced.
pub const MANIFEST: &str = "manifest.json";

/// Larger files are sent in parts of this size, the least that S3 takes.
const PART: usize = 5 << 20;
/// Small files sent at a time, and parts of a large one.
const FILES: usize = 4;
const PARTS: usize = 4;
/// How long an upload that ended early tries to take back the parts that it sent.
const TIDIED_IN: Duration = Duration::from_secs(5);
/// The hash of a file, as metadata of its object.
const HASH: &str = "sha256";

/// What a collection holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// By name.
    pub files: BTreeMap<String, Listed>,
}

/// A file in a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its length.
    pub bytes: u64,
    /// Of its content, in hexadecimal.
    pub sha256: String,
}

/// What an upload tells while it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// How far it is.
    Progress {
        /// Bytes that are in the store.
        done: u64,
        /// Bytes of the collection.
        total: u64,
    },
    /// The manifest that was there is none, and was removed before anything else.
    DamagedManifest {
        /// Where it was.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// What an upload did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uploaded {
    /// Where the collection lies.
    pub location: String,
    /// Files sent.
    pub sent: usize,
    /// Files that were there already.
    pub present: usize,
    /// Bytes of all files.
    pub bytes: u64,
}

impl Store {
    /// Sends what of `collection` the store does not have yet, under the collection's name. `tell`
    /// is called several times a second; where it answers `false`, the upload stops.
    ///
    /// # Errors
    /// A file that cannot be read or changes meanwhile; what the store answers when repeating did not
    /// help; [`Error::Stopped`]. What was sent stays, and the next upload does not send it again.
    pub fn upload(
        &self,
        collection: &Collection,
        mut tell: impl FnMut(News) -> bool,
    ) -> Result<Uploaded> {
        let store = self.patient()?;
        let manifest = manifest(collection)?;
        let total = manifest.files.values().map(|file| file.bytes).sum();
        let sending = Sending {
            store: store.as_ref(),
            place: below(&self.prefix, &collection.name)?,
            location: format!("{}/{}", self.location(), collection.name),
            done: Cell::new(0),
            sent: Cell::new(0),
            listed: RefCell::default(),
            damaged: Cell::default(),
            in_parts: RefCell::default(),
        };
        let mut tell = || {
            let goes_on = sending.damaged.take().is_none_or(&mut tell);
            tell(News::Progress { done: sending.done.get(), total }) && goes_on
        };
        let ended = self.runtime.block_on(async {
            let work = sending.send(collection, &manifest);
            tokio::pin!(work);
            loop {
                tokio::select! {
                    ended = &mut work => break ended,
                    () = tokio::time::sleep(Duration::from_millis(100)) => {
                        if !tell() {
                            if let Some(parts) = sending.in_parts.take() {
                                parts.abort();
                                let _ = tokio::time::timeout(TIDIED_IN, work).await;
                            }
                            break Err(Error::Stopped);
                        }
                    }
                }
            }
        });
        tell();
        ended?;
        let sent = sending.sent.get();
        let present = manifest.files.len() - sent;
        Ok(Uploaded { location: sending.location, sent, present, bytes: total })
    }
}

/// Where a name lies below a place, letter for letter: `Path::join` would keep `%C3%BC` for `ü`.
fn below(place: &Path, name: &str) -> Result<Path> {
    let refused = |_| Error::Name { name: name.to_owned(), reason: "no store keeps it" };
    Path::parse(format!("{place}/{name}")).map_err(refused)
}

/// Lengths and hashes of all files.
fn manifest(collection: &Collection) -> Result<Manifest> {
    let mut files = BTreeMap::new();
    for Entry { path, name } in &collection.entries {
        let read = |source| Error::Read { path: path.clone(), source };
        let mut file = File::open(path).map_err(read)?;
        let (mut hash, mut bytes) = (Sha256::new(), 0);
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = file.read(&mut buffer).map_err(read)?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            bytes += count as u64;
        }
        files.insert(name.clone(), Listed { bytes, sha256: hex(&hash.finalize()) });
    }
    Ok(Manifest { files })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An upload under way.
struct Sending<'a> {
    store: &'a dyn ObjectStore,
    place: Path,
    /// The same for people.
    location: String,
    done: Cell<u64>,
    sent: Cell<usize>,
    /// What the store's manifest lists.
    listed: RefCell<Manifest>,
    /// What nobody was told yet of one that is none.
    damaged: Cell<Option<News>>,
    /// What ends the file that is sent in parts, while one is.
    in_parts: RefCell<Option<AbortHandle>>,
}

impl Sending<'_> {
    async fn send(&self, collection: &Collection, manifest: &Manifest) -> Result<()> {
        let place = self.place.clone().join(MANIFEST);
        match self.there(&place).await? {
            // Everything may be there; a file that is gone is found missing and sent again.
            Some(Ok(listed)) if listed == *manifest => *self.listed.borrow_mut() = listed,
            Some(found) => {
                self.answer("remove", MANIFEST, self.store.delete(&place).await)?;
                match found {
                    Ok(listed) => *self.listed.borrow_mut() = listed,
                    Err(error) => self.damaged.set(Some(News::DamagedManifest {
                        place: format!("{}/{MANIFEST}", self.location),
                        reason: error.to_string(),
                    })),
                }
            }
            None => {}
        }
        // Large files go one after another: all parts under way share the line, and a request of each
        // must end in its time.
        let listed = |entry: &Entry| &manifest.files[&entry.name];
        let (large, small): (Vec<_>, Vec<_>) =
            collection.entries.iter().partition(|entry| listed(entry).bytes > PART as u64);
        stream::iter(small)
            .map(Ok)
            .try_for_each_concurrent(FILES, |entry| self.file(entry, listed(entry)))
            .await?;
        for entry in large {
            self.file(entry, listed(entry)).await?;
        }
        let json = serde_json::to_vec_pretty(manifest).expect("a manifest is plain data");
        let put = self.put(&place, "application/json", None, json).await;
        self.answer("write", MANIFEST, put)
    }

    /// The manifest that is there, or what is wrong with it.
    async fn there(&self, place: &Path) -> Result<Option<serde_json::Result<Manifest>>> {
        let bytes = match self.store.get(place).await {
            Ok(found) => found.bytes().await,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => Err(error),
        };
        let bytes = self.answer("read", MANIFEST, bytes)?;
        Ok(Some(serde_json::from_slice(&bytes)))
    }

    /// Sends one file, unless it is there.
    async fn file(&self, entry: &Entry, listed: &Listed) -> Result<()> {
        let place = below(&self.place, &entry.name)?;
        if self.is_there(&place, &entry.name, listed).await? {
            self.done.set(self.done.get() + listed.bytes);
            return Ok(());
        }
        let read = |source| Error::Read { path: entry.path.clone(), source };
        let mut file = File::open(&entry.path).map_err(read)?;
        if listed.bytes <= PART as u64 {
            let mut bytes = Vec::with_capacity(listed.bytes as usize + 1);
            file.by_ref().take(PART as u64 + 1).read_to_end(&mut bytes).map_err(read)?;
            if hex(&Sha256::digest(&bytes)) != listed.sha256 {
                return Err(Error::Changed(entry.path.clone()));
            }
            let put = self.put(&place, media_type(&entry.name), Some(listed), bytes).await;
            self.answer("write", &entry.name, put)?;
            self.done.set(self.done.get() + listed.bytes);
        } else {
            self.in_parts(&place, entry, listed, file).await?;
        }
        self.sent.set(self.sent.get() + 1);
        Ok(())
    }

    /// Nothing is visible before the last part is there and the whole is put together.
    async fn in_parts(
        &self,
        place: &Path,
        entry: &Entry,
        listed: &Listed,
        file: File,
    ) -> Result<()> {
        let options = PutMultipartOptions {
            attributes: self.attributes(media_type(&entry.name), Some(listed)),
            ..PutMultipartOptions::default()
        };
        let (handle, registration) = AbortHandle::new_pair();
        self.in_parts.replace(Some(handle.clone()));
        let begun = self.store.put_multipart_opts(place, options).await;
        let mut upload = self.answer("write", &entry.name, begun)?;
        let parts = Abortable::new(self.parts(&mut *upload, entry, listed, file), registration);
        let sent = parts.await.unwrap_or(Err(Error::Stopped));
        if sent.is_err() {
            // Stores keep parts that belong to nothing, and S3 sends a bill for them.
            let _ = tokio::time::timeout(TIDIED_IN, upload.abort()).await;
        }
        self.in_parts.take();
        // Stopped at the very end of one file, it does not begin the next.
        if handle.is_aborted() { Err(Error::Stopped) } else { sent }
    }

    async fn parts(
        &self,
        upload: &mut dyn MultipartUpload,
        entry: &Entry,
        listed: &Listed,
        mut file: File,
    ) -> Result<()> {
        let mut hash = Sha256::new();
        let mut left = listed.bytes;
        let mut under_way = FuturesUnordered::new();
        loop {
            while left > 0 && under_way.len() < PARTS {
                let mut part = vec![0; (PART as u64).min(left) as usize];
                file.read_exact(&mut part).map_err(|source| match source.kind() {
                    // It is shorter than it was.
                    ErrorKind::UnexpectedEof => Error::Changed(entry.path.clone()),
                    _ => Error::Read { path: entry.path.clone(), source },
                })?;
                hash.update(&part);
                let bytes = part.len() as u64;
                left -= bytes;
                under_way.push(upload.put_part(part.into()).map_ok(move |()| bytes));
            }
            let Some(arrived) = under_way.next().await else { break };
            let arrived = self.answer("write", &entry.name, arrived)?;
            self.done.set(self.done.get() + arrived);
        }
        if hex(&hash.finalize()) != listed.sha256 {
            return Err(Error::Changed(entry.path.clone()));
        }
        self.answer("write", &entry.name, upload.complete().await).map(drop)
    }

    /// Whether the store has this content under this name: by the manifest, or by the hash kept with
    /// the object where an upload ended before its manifest.
    async fn is_there(&self, place: &Path, name: &str, listed: &Listed) -> Result<bool> {
        let head = GetOptions { head: true, ..GetOptions::default() };
        let found = match self.store.get_opts(place, head).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(false),
            found => self.answer("look for", name, found)?,
        };
        let kept = found.attributes.get(&Attribute::Metadata(HASH.into()));
        let known = match kept {
            Some(hash) => hash.as_ref() == listed.sha256,
            None => self.listed.borrow().files.get(name) == Some(listed),
        };
        Ok(known && found.meta.size == listed.bytes)
    }

    async fn put(
        &self,
        place: &Path,
        media_type: &'static str,
        listed: Option<&Listed>,
        bytes: Vec<u8>,
    ) -> object_store::Result<()> {
        let attributes = self.attributes(media_type, listed);
        let options = PutOptions { attributes, ..PutOptions::default() };
        self.store.put_opts(place, bytes.into(), options).await.map(drop)
    }

    /// Folders keep none.
    fn attributes(&self, media_type: &'static str, listed: Option<&Listed>) -> Attributes {
        let mut attributes = Attributes::new();
        if !self.store.to_string().starts_with("LocalFileSystem") {
            attributes.insert(Attribute::ContentType, AttributeValue::from(media_type));
            if let Some(listed) = listed {
                let hash = AttributeValue::from(listed.sha256.clone());
                attributes.insert(Attribute::Metadata(HASH.into()), hash);
            }
        }
        attributes
    }

    fn answer<T>(
        &self,
        action: &'static str,
        name: &str,
        answer: object_store::Result<T>,
    ) -> Result<T> {
        answer.map_err(|error| Error::store(action, format!("{}/{name}", self.location), &error))
    }
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("json") => "application/json",
        Some("html") => "text/html; charset=utf-8",
        Some("md") => "text/markdown; charset=utf-8",
        Some("jsonl" | "toml" | "txt" | "yaml") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}
