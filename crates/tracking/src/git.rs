//! What a git checkout says about itself, read from its files: commit, branch, remote URL.
//!
//! Covers a plain checkout, worktrees and submodules (`.git` as a file), loose and packed
//! references. Not covered: whether the checkout is dirty (needs the index and every file), and
//! references kept in a reftable. Whatever cannot be read is left out: a tag is no reason to fail.

use std::fs;
use std::path::{Path, PathBuf};

/// The state of a checkout.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Checkout {
    pub commit: String,
    /// None when HEAD is detached.
    pub branch: Option<String>,
    /// The first remote's URL, without user name and password.
    pub url: Option<String>,
}

/// Reads the checkout that `folder` lies in, if it lies in one that has a commit.
pub(crate) fn read(folder: &Path) -> Option<Checkout> {
    let folder = std::path::absolute(folder).ok()?;
    let git = folder.ancestors().find_map(git_folder)?;
    // A worktree shares references and configuration with its main checkout.
    let common = match fs::read_to_string(git.join("commondir")) {
        Ok(relative) => git.join(relative.trim_end()),
        Err(_) => git.clone(),
    };
    let head = fs::read_to_string(git.join("HEAD")).ok()?;
    let (reference, commit) = match head.trim().strip_prefix("ref: ") {
        Some(name) => (Some(name), resolve(&git, &common, name)?),
        None => (None, hash(&head)?),
    };
    Some(Checkout {
        commit,
        branch: reference.and_then(|name| name.strip_prefix("refs/heads/")).map(str::to_owned),
        url: fs::read_to_string(common.join("config")).ok().and_then(|text| remote_url(&text)),
    })
}

fn git_folder(folder: &Path) -> Option<PathBuf> {
    let git = folder.join(".git");
    if git.is_dir() {
        return Some(git);
    }
    let text = fs::read_to_string(&git).ok()?;
    Some(folder.join(text.trim_end().strip_prefix("gitdir: ")?))
}

fn resolve(git: &Path, common: &Path, name: &str) -> Option<String> {
    if !name.starts_with("refs/") || name.split('/').any(|part| part == "..") {
        return None;
    }
    let loose = |folder: &Path| hash(&fs::read_to_string(folder.join(name)).ok()?);
    loose(git).or_else(|| loose(common)).or_else(|| {
        let packed = fs::read_to_string(common.join("packed-refs")).ok()?;
        packed.lines().find_map(|line| hash(line.strip_suffix(name)?.strip_suffix(' ')?))
    })
}

/// A commit's name: 40 (SHA-1) or 64 (SHA-256) hexadecimal digits.
fn hash(text: &str) -> Option<String> {
    let text = text.trim();
    let right = [40, 64].contains(&text.len()) && text.bytes().all(|c| c.is_ascii_hexdigit());
    right.then(|| text.to_owned())
}

fn remote_url(config: &str) -> Option<String> {
    let mut in_remote = false;
    for line in config.lines().map(str::trim) {
        if line.starts_with('[') {
            in_remote = line.starts_with("[remote ");
        } else if let Some((key, url)) = line.split_once('=').filter(|_| in_remote)
            && key.trim() == "url"
        {
            return Some(without_credentials(url.trim().trim_matches('"')));
        }
    }
    None
}

fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "1111111111111111111111111111111111111111";
    const TWO: &str = "2222222222222222222222222222222222222222";

    fn write(path: &Path, text: &str) {
        durable::create_folder(path.parent().expect("a file")).expect("folder");
        durable::write(path, text.as_bytes()).expect("write");
    }

    #[test]
    fn a_checkout_its_packed_references_and_its_worktree_are_read() {
        let place = tempfile::tempdir().expect("folder");
        let (main, tree) = (place.path().join("main"), place.path().join("tree"));
        let git = main.join(".git");
        write(&git.join("HEAD"), "ref: refs/heads/feature/x\n");
        assert_eq!(read(&main), None, "no commit yet");

        write(&git.join("packed-refs"), &format!("# pack-refs\n{TWO} refs/heads/feature/x\n"));
        write(
            &git.join("config"),
            "[core]\n\turl = no\n[remote \"origin\"]\n\turl = https://me:secret@example.org/a/b.git\n",
        );
        let inner = main.join("deep/er");
        durable::create_folder(&inner).expect("folder");
        let found = read(&inner).expect("a checkout");
        assert_eq!(found.commit, TWO);
        assert_eq!(found.branch.as_deref(), Some("feature/x"));
        assert_eq!(found.url.as_deref(), Some("https://example.org/a/b.git"));

        write(&git.join("refs/heads/feature/x"), &format!("{ONE}\n"));
        assert_eq!(read(&main).expect("a checkout").commit, ONE, "loose before packed");

        write(&tree.join(".git"), &format!("gitdir: {}\n", git.join("worktrees/tree").display()));
        write(&git.join("worktrees/tree/HEAD"), &format!("{TWO}\n"));
        write(&git.join("worktrees/tree/commondir"), "../..\n");
        let detached = read(&tree).expect("a worktree");
        assert_eq!((detached.commit.as_str(), detached.branch), (TWO, None));
        assert_eq!(detached.url, found.url);
    }

    #[test]
    fn urls_keep_no_secrets() {
        assert_eq!(without_credentials("https://u:p@h:1/x@y"), "https://h:1/x@y");
        assert_eq!(without_credentials("git@h:x/y.git"), "git@h:x/y.git");
        assert_eq!(hash("../../etc/passwd"), None);
    }
}
