//! Files to a server's artifact store, through its proxy (`mlflow-artifacts:`): streamed in one
//! request, or, where the server offers it, large ones in parts straight to the storage behind it. Those
//! of a run of Azure ML take another way ([`azure`](crate::azure)).
//!
//! Refused: locations that no server stands before (`s3:`, `file:`, …), which ask for a client of
//! their own.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Client;
use super::address::{ArtifactRoot, query_value};
use super::client::IgnoredObject;
use super::retry::Repeated;
use super::wire::ServerInfo;
use crate::error::at;
use crate::limits::check_artifact_path;
use crate::{Error, Result};

/// A file or folder among the artifacts of a run.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ArtifactInfo {
    /// Its path below the artifact root.
    pub path: String,
    /// Whether it is a folder.
    #[serde(default)]
    pub is_dir: bool,
    /// The length of a file in bytes.
    #[serde(default, deserialize_with = "crate::point::whole::optional")]
    pub file_size: Option<i64>,
}

/// The answer to `mpu/create`.
#[derive(Deserialize)]
struct Upload {
    #[serde(default)]
    upload_id: String,
    credentials: Vec<PartAddress>,
}

#[derive(Deserialize)]
struct PartAddress {
    url: String,
    part_number: u64,
    #[serde(default)]
    headers: std::collections::BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Part {
    part_number: u64,
    etag: String,
    url: String,
}

impl Client {
    /// Puts a file at `path` below an artifact location, as a run or a logged model names it. A
    /// file that is there is replaced.
    ///
    /// # Errors
    /// [`Error::RemoteArtifacts`] if no server stands before the location; a path that would leave
    /// it; what the file system, the server or the way to it answers.
    pub fn upload_artifact(&self, location: &str, path: &str, local: &Path) -> Result<()> {
        check_artifact_path(path)?;
        if let Some(run) = self.address.run_artifacts(location) {
            return self.upload_to_workspace(&run, path, local);
        }
        let root = self.address.artifacts(location);
        let root = root.ok_or_else(|| Error::RemoteArtifacts { uri: location.to_owned() })?;
        let length = local.metadata().map_err(at("read", local))?.len();
        if length >= self.multipart.minimum
            && self.offers_parts(&root)
            && self.upload_in_parts(&root, path, local, length)?
        {
            return Ok(());
        }
        self.http.put_file(&root.file(path), local)
    }

    /// The files and folders directly in a folder of a run's artifacts ("" is the root).
    ///
    /// # Errors
    /// What the server or the way to it answers.
    pub fn artifacts(&self, run_id: &str, path: &str) -> Result<Vec<ArtifactInfo>> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            files: Vec<ArtifactInfo>,
            #[serde(default)]
            next_page_token: String,
        }
        let mut call = format!("artifacts/list?run_id={}", query_value(run_id));
        if !path.is_empty() {
            call += &format!("&path={}", query_value(path));
        }
        let (mut found, mut token) = (Vec::new(), String::new());
        loop {
            let call = match token.as_str() {
                "" => call.clone(),
                token => format!("{call}&page_token={}", query_value(token)),
            };
            let page: Page = self.http.get(&self.url(&call))?;
            found.extend(page.files);
            if page.next_page_token.is_empty() || page.next_page_token == token {
                return Ok(found);
            }
            token = page.next_page_token;
        }
    }

    fn offers_parts(&self, root: &ArtifactRoot) -> bool {
        self.multipart.enabled.unwrap_or_else(|| {
            let url = format!("{}/api/3.0/mlflow/server-info", root.server());
            // A server that says nothing about itself is an older one, which does not.
            self.http.get::<ServerInfo>(&url).is_ok_and(|info| info.multipart_uploads_enabled)
        })
    }

    /// False if the server does not do that after all.
    fn upload_in_parts(
        &self,
        root: &ArtifactRoot,
        path: &str,
        local: &Path,
        length: u64,
    ) -> Result<bool> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let part = self.multipart.part.max(1);
        let body = json!({ "path": name, "num_parts": length.div_ceil(part) });
        let upload: Upload =
            match self.http.send("POST", &root.multipart("create", folder), &body, Repeated::Twice)
            {
                Ok(upload) => upload,
                Err(error) if is_unsupported(&error) => return Ok(false),
                Err(error) => return Err(error),
            };
        let finish = |step: &str, parts: Option<Vec<Part>>| {
            let mut body = json!({ "path": name, "upload_id": upload.upload_id });
            if let Some(parts) = parts {
                body["parts"] = serde_json::to_value(parts).expect("plain data");
            }
            let url = root.multipart(step, folder);
            self.http.send::<IgnoredObject>("POST", &url, &body, Repeated::Harmless)
        };
        let sent = self.send_parts(&upload, local, part, length);
        match sent.and_then(|parts| finish("complete", Some(parts))) {
            Ok(_) => Ok(true),
            Err(error) => {
                // The storage keeps, and bills, parts that belong to nothing.
                if let Err(kept) = finish("abort", None) {
                    tracing::warn!("parts of {path} may be left in the artifact store: {kept}");
                }
                Err(error)
            }
        }
    }

    fn send_parts(
        &self,
        upload: &Upload,
        local: &Path,
        part: u64,
        length: u64,
    ) -> Result<Vec<Part>> {
        let mut sent = Vec::with_capacity(upload.credentials.len());
        for (n, to) in (0..).zip(&upload.credentials) {
            let (start, headers): (u64, Vec<_>) =
                (n * part, to.headers.clone().into_iter().collect());
            let length = part.min(length.saturating_sub(start));
            let (_, etag) = self.http.repeated(|| {
                let mut file = File::open(local).map_err(at("read", local))?;
                file.seek(SeekFrom::Start(start)).map_err(at("read", local))?;
                self.http.put_part(&to.url, &headers, &mut file.take(length), length)
            })?;
            sent.push(Part { part_number: to.part_number, etag, url: to.url.clone() });
        }
        Ok(sent)
    }
}

/// 501, or words to that effect: storage without uploads in parts.
fn is_unsupported(error: &Error) -> bool {
    matches!(error, Error::Refused { status, message, .. }
        if matches!(status, 404 | 501) || message.starts_with("Multipart upload is not supported"))
}
