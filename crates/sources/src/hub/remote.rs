//! The hub's HTTP protocol: `{endpoint}/{repo}/resolve/{revision}/{file}` answers a HEAD with the
//! commit (X-Repo-Commit), the name of the content (X-Linked-Etag or ETag; for large files its
//! sha256) and its size (X-Linked-Size or Content-Length), and a GET with the content, often by a
//! redirect to another host, which never gets the token.

use std::path::PathBuf;

use serde::Deserialize;
use ureq::http::{HeaderMap, Uri};

use super::{Kind, cache};
use crate::http::{self, Answer, Client, Credential, Expected};
use crate::name::{HubId, is_plain};
use crate::{Error, Progress, Settings};

/// A repository on the hub.
pub(crate) struct Remote<'a> {
    client: Client,
    settings: &'a Settings,
    kind: Kind,
    id: &'a HubId,
}

/// What the hub says about one file.
struct FileInfo {
    commit: String,
    etag: String,
    size: Option<u64>,
}

/// The API's description of a repository at a revision.
#[derive(Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl<'a> Remote<'a> {
    pub fn new(kind: Kind, id: &'a HubId, settings: &'a Settings) -> Result<Self, Error> {
        let origin = http::origin(&http::parse(&settings.endpoint)?);
        let credential = settings
            .token
            .as_ref()
            .map(|token| Credential { origin, header: format!("Bearer {}", token.expose()) });
        let client = Client::new(settings.timeout, None, credential)?;
        Ok(Self { client, settings, kind, id })
    }

    /// The repository's address, as messages show it.
    pub fn place(&self) -> String {
        format!("{} at revision {}", self.address(), self.id.revision)
    }

    /// The commit that the revision means now; `None` when the repository has no such file.
    pub fn commit_of(&self, file: &str) -> Result<Option<String>, Error> {
        Ok(self.info(&self.id.revision, file)?.map(|info| info.commit))
    }

    /// The commit that the revision means now, and every file in it.
    pub fn list(&self) -> Result<(String, Vec<String>), Error> {
        let Self { settings, kind, id, .. } = self;
        let revision = id.revision.replace('/', "%2F");
        let api = format!("{}/api/{}", settings.endpoint, kind.plural());
        let url = http::parse(&format!("{api}/{}/revision/{revision}", id.repo))?;
        let answer = self.client.get(&url, &[])?;
        let Some(answer) = self.found(answer)? else {
            return Err(self.unknown(kind.noun(), id.repo.clone()));
        };
        let listing: Listing = serde_json::from_str(&answer.text()?)
            .map_err(|error| http::bad(&url, &format!("not a repository listing: {error}")))?;
        if !is_plain(&listing.sha) {
            return Err(http::bad(&url, &format!("{:?} is no commit", listing.sha)));
        }
        Ok((listing.sha, listing.siblings.into_iter().map(|file| file.rfilename).collect()))
    }

    fn address(&self) -> String {
        let prefix = if self.kind == Kind::DataSet { "datasets/" } else { "" };
        format!("{}/{prefix}{}", self.settings.endpoint, self.id.repo)
    }

    fn url(&self, revision: &str, file: &str) -> Result<Uri, Error> {
        let revision = revision.replace('/', "%2F");
        http::parse(&format!("{}/resolve/{revision}/{file}", self.address()))
    }

    fn info(&self, revision: &str, file: &str) -> Result<Option<FileInfo>, Error> {
        let url = self.url(revision, file)?;
        // A redirect to the content's host is told from one to a renamed repository by these.
        let describes = |head: &HeaderMap| {
            head.contains_key("x-repo-commit")
                && (head.contains_key("x-linked-etag") || head.contains_key("etag"))
        };
        let Some(answer) = self.found(self.client.head(&url, describes)?)? else {
            return Ok(None);
        };
        let lacks = |what: &str| http::bad(&url, &format!("it lacks {what}; is it a hub?"));
        let commit = answer.header("x-repo-commit").ok_or_else(|| lacks("X-Repo-Commit"))?;
        let linked = answer.header("x-linked-etag");
        let etag = linked.or_else(|| answer.last_header("etag")).ok_or_else(|| lacks("ETag"))?;
        let etag = etag.trim_start_matches("W/").trim_matches('"');
        for value in [commit, etag] {
            if !is_plain(value) {
                return Err(http::bad(&url, &format!("{value:?} cannot be a file's name")));
            }
        }
        let length = match answer.status {
            200 => answer.last_header("content-length"),
            _ => None, // that of a redirect's own text
        };
        let size = answer.header("x-linked-size").or(length).and_then(|text| text.parse().ok());
        Ok(Some(FileInfo { commit: commit.into(), etag: etag.into(), size }))
    }

    /// Sorts out refusals; `None` when the repository is there but not the file.
    fn found(&self, answer: Answer) -> Result<Option<Answer>, Error> {
        let code = answer.header("x-error-code").unwrap_or_default();
        match (answer.status, code) {
            (_, "RevisionNotFound") => {
                Err(self.unknown("revision", format!("{}@{}", self.id.repo, self.id.revision)))
            }
            (404, "EntryNotFound") => Ok(None),
            // The hub hides which private repositories exist, so a wrong name may look like this.
            (401 | 403, _) => Err(Error::Refused {
                name: self.id.repo.clone(),
                url: self.settings.endpoint.clone(),
                status: answer.status,
                hint: match (&self.settings.token, code) {
                    (Some(_), "GatedRepo") => {
                        "the repository is gated; accept its terms on its page with the account \
                         that HF_TOKEN belongs to"
                    }
                    (None, "GatedRepo") => {
                        "the repository is gated; accept its terms on its page and set HF_TOKEN"
                    }
                    (Some(_), _) => "check the name, and that HF_TOKEN may read it",
                    (None, _) => "check the name; if the repository is private, set HF_TOKEN",
                },
            }),
            (404, "RepoNotFound") => Err(self.unknown(self.kind.noun(), self.id.repo.clone())),
            (404, _) => Ok(None),
            (300..=399, _) => Ok(Some(answer)),
            _ => answer.ok().map(Some),
        }
    }

    fn unknown(&self, what: &'static str, name: String) -> Error {
        Error::NotFound { what, name, place: self.settings.endpoint.clone() }
    }
}

/// One commit of a repository in the cache, filled file by file.
pub(crate) struct Snapshot<'a> {
    pub folder: PathBuf,
    pub commit: String,
    remote: &'a Remote<'a>,
    progress: &'a dyn Progress,
    repository: PathBuf,
}

impl<'a> Snapshot<'a> {
    pub fn new(remote: &'a Remote<'a>, commit: String, progress: &'a dyn Progress) -> Self {
        let repository = cache::repository(remote.settings, remote.kind, remote.id);
        let folder = repository.join("snapshots").join(&commit);
        Self { folder, commit, remote, progress, repository }
    }

    /// The file in the cache, downloaded if need be; `None` when the repository lacks it.
    pub fn fetch(&self, file: &str) -> Result<Option<PathBuf>, Error> {
        let target = self.folder.join(file);
        if target.is_file() {
            return Ok(Some(target));
        }
        let absent = self.repository.join(".no_exist").join(&self.commit).join(file);
        if absent.is_file() {
            return Ok(None);
        }
        let Some(info) = self.remote.info(&self.commit, file)? else {
            cache::write_absent(&absent)?;
            return Ok(None);
        };
        let Remote { client, settings, kind, id } = self.remote;
        let blob = self.repository.join("blobs").join(&info.etag);
        let _lock = http::lock(&cache::lock_path(settings, *kind, id, &info.etag))?;
        if !blob.is_file() {
            cache::create_parent(&blob)?;
            let is_sha256 =
                info.etag.len() == 64 && info.etag.bytes().all(|b| b.is_ascii_hexdigit());
            let expected = Expected {
                size: info.size,
                sha256: is_sha256.then(|| info.etag.to_ascii_lowercase()),
            };
            let url = self.remote.url(&self.commit, file)?;
            http::download(client, &url, &blob, &expected, file, self.progress)?;
        }
        cache::place(&blob, &info.etag, &self.folder, file)?;
        Ok(Some(target))
    }
}
