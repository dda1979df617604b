//! What can go wrong on the way to a store. No message holds a secret: addresses lose their queries,
//! where shared access signatures are.

use std::path::PathBuf;

/// A step towards a store that was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A location that names no store.
    #[error("artifact location {location:?} is refused: {reason}")]
    Location {
        /// As given, without what may be secret.
        location: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A credential of the environment that cannot be used.
    #[error("{variable} is refused: {reason}")]
    Credential {
        /// The environment variable.
        variable: &'static str,
        /// What is wrong with it; never its value.
        reason: String,
    },
    /// The store refused or could not be reached.
    #[error("cannot {action} {place}: {reason}")]
    Store {
        /// What was to be done.
        action: &'static str,
        /// Where, without secrets.
        place: String,
        /// What the store answered, without secrets.
        reason: String,
    },
    /// A name that could leave the collection's place, or that no store keeps.
    #[error("artifact name {name:?} is refused: {reason}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A symbolic link, or what is neither file nor folder.
    #[error("{} is not sent: it is neither a file nor a folder of its own", .0.display())]
    Link(PathBuf),
    /// A file that is another than when the upload began.
    #[error("{} changed while it was sent", .0.display())]
    Changed(PathBuf),
    /// The caller asked to stop.
    #[error("the upload was stopped; what was sent stays, and the next one goes on from there")]
    Stopped,
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The machinery of the upload cannot be started.
    #[error("cannot start the upload")]
    Start(#[source] std::io::Error),
}

/// The result of a step towards a store.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// What `object_store` says, cause by cause, without addresses' queries.
    pub(crate) fn store(
        action: &'static str,
        place: impl Into<String>,
        error: &object_store::Error,
    ) -> Error {
        let mut parts: Vec<String> = Vec::new();
        let mut cause: Option<&dyn std::error::Error> = Some(error);
        while let Some(error) = cause {
            let text = without_queries(error.to_string().trim());
            // Most causes repeat what is below them.
            if !parts.last().is_some_and(|last| last.contains(&text)) {
                parts.push(text);
            }
            cause = error.source();
        }
        Error::Store { action, place: place.into(), reason: parts.join(": ") }
    }
}

/// The text, with the query of every address in it left out.
fn without_queries(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("://") {
        let (before, address) = rest.split_at(start + 3);
        kept.push_str(before);
        let ends = |c: char| c.is_whitespace() || "\"'<>(){}[]|".contains(c);
        let (address, after) = address.split_at(address.find(ends).unwrap_or(address.len()));
        match address.split_once('?') {
            Some((place, _)) => {
                kept.push_str(place);
                kept.push_str("?…");
            }
            None => kept.push_str(address),
        }
        rest = after;
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    use super::without_queries;

    #[test]
    fn queries_of_addresses_are_left_out_and_nothing_else() {
        for (text, expected) in [
            ("no address? none", "no address? none"),
            (
                "error for url (https://a.blob/c/x?sv=1&sig=SECRET): timed out?",
                "error for url (https://a.blob/c/x?…): timed out?",
            ),
            ("http://a/b?sig=X https://c/d?sig=Y", "http://a/b?… https://c/d?…"),
            ("https://a/b", "https://a/b"),
        ] {
            assert_eq!(without_queries(text), expected);
        }
    }
}
