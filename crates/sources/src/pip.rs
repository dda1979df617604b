//! Which package index pip would ask: `PIP_INDEX_URL`, else `index-url` of its configuration files,
//! else the public one; likewise `PIP_CERT` and `cert`. Of the files a later one wins (system,
//! user, virtual environment, `PIP_CONFIG_FILE`), and within them `[install]` before `[global]`.
//!
//! Extra indices and find-links are left out on purpose: a model must come from the one index that
//! its user trusts.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

const PUBLIC: &str = "https://pypi.org/simple";

/// The index to ask, and whom to trust for it.
pub(crate) struct Index {
    pub url: String,
    pub certificates: Option<PathBuf>,
}

impl Index {
    pub fn find(get: &impl Fn(&str) -> Option<String>, home: &Path) -> Self {
        let mut values = HashMap::new();
        for file in config_files(get, home) {
            // A file that is not there or not text has nothing to say, to pip as to us.
            if let Ok(text) = std::fs::read_to_string(file) {
                read(&text, &mut values);
            }
        }
        let mut setting = |key: &'static str, variable: &str| {
            get(variable)
                .or_else(|| values.remove(&("install", key)))
                .or_else(|| values.remove(&("global", key)))
        };
        let url = setting("index-url", "PIP_INDEX_URL").unwrap_or_else(|| PUBLIC.into());
        Self {
            url: url.trim().trim_end_matches('/').to_owned(),
            certificates: setting("cert", "PIP_CERT").map(PathBuf::from),
        }
    }
}

/// In rising order of precedence.
fn config_files(get: &impl Fn(&str) -> Option<String>, home: &Path) -> Vec<PathBuf> {
    let named = get("PIP_CONFIG_FILE").map(PathBuf::from);
    if named.as_deref() == Some(Path::new("/dev/null")) {
        return Vec::new(); // pip's way to say: no files at all
    }
    let config_home = get("XDG_CONFIG_HOME").map_or_else(|| home.join(".config"), PathBuf::from);
    let mut files = vec![
        PathBuf::from("/etc/xdg/pip/pip.conf"),
        PathBuf::from("/etc/pip.conf"),
        home.join(".pip/pip.conf"),
        config_home.join("pip/pip.conf"),
    ];
    if cfg!(target_os = "macos") {
        files.push(home.join("Library/Application Support/pip/pip.conf"));
    }
    if let Some(roaming) = get("APPDATA") {
        files.push(Path::new(&roaming).join("pip/pip.ini"));
    }
    files.extend(get("VIRTUAL_ENV").map(|folder| Path::new(&folder).join("pip.conf")));
    files.extend(named);
    files
}

/// Collects the settings we know from a file in Python's INI dialect.
fn read(text: &str, values: &mut HashMap<(&'static str, &'static str), String>) {
    let mut section = None;
    for line in text.trim_start_matches('\u{feff}').lines().map(str::trim) {
        if line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = ["global", "install"].into_iter().find(|known| *known == name);
            continue;
        }
        let (Some(section), Some((key, value))) = (section, line.split_once(['=', ':'])) else {
            continue;
        };
        let key = key.trim().to_ascii_lowercase().replace('_', "-");
        let known = ["index-url", "cert"].into_iter().find(|known| *known == key);
        if let Some(key) = known.filter(|_| !value.trim().is_empty()) {
            values.insert((section, key), value.trim().to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(home: &Path, environment: &[(&str, &str)]) -> Index {
        let get = |variable: &str| {
            let found = environment.iter().find(|(name, _)| *name == variable);
            found.map(|(_, value)| (*value).to_owned())
        };
        Index::find(&get, home)
    }

    #[test]
    fn files_sections_and_variables_are_ranked_as_pip_ranks_them() {
        let home = tempfile::tempdir().expect("temporary folder");
        let write = |file: &str, text: &str| {
            let path = home.path().join(file);
            durable::create_folder(path.parent().expect("inside home")).expect("created");
            durable::write(&path, text.as_bytes()).expect("written");
            path
        };
        write(".pip/pip.conf", "[global]\nindex-url = http://legacy/simple\ncert = /legacy.pem\n");
        assert_eq!(find(home.path(), &[]).url, "http://legacy/simple");

        write(".config/pip/pip.conf", "# mine\n[global]\nindex_url: http://user/simple/\n");
        let index = find(home.path(), &[]);
        assert_eq!(index.url, "http://user/simple");
        assert_eq!(index.certificates.as_deref(), Some(Path::new("/legacy.pem")));

        let named = write(
            "named.conf",
            "[other]\nindex-url = http://no\n[install]\nindex-url=http://named\n",
        );
        let named = named.to_str().expect("UTF-8");
        assert_eq!(find(home.path(), &[("PIP_CONFIG_FILE", named)]).url, "http://named");

        let index =
            find(home.path(), &[("PIP_CONFIG_FILE", named), ("PIP_INDEX_URL", "http://env")]);
        assert_eq!(index.url, "http://env");
        assert_eq!(find(home.path(), &[("PIP_CONFIG_FILE", "/dev/null")]).url, PUBLIC);
    }
}
