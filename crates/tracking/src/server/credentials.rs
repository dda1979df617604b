//! Who asks: a user name and password, or a token, and where they come from.
//!
//! In this order, as in MLflow: `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`, each of
//! them from `~/.mlflow/credentials` (section `[mlflow]`) if it is not set; a user name and
//! password in the tracking URI; `MLFLOW_TRACKING_TOKEN`; for an Azure ML workspace, the identity that
//! this machine has there. Refused: `MLFLOW_TRACKING_AUTH` and
//! `MLFLOW_TRACKING_AWS_SIGV4`, which ask for a Python plug-in.

use std::fs;
use std::path::Path;

use super::address::basic;
use super::environment::Environment;
use super::http::Authorization;
use crate::azure::Tokens;
use crate::error::at;
use crate::{Error, Result};

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// How requests are authorised.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Not at all, unless the tracking URI holds a user name and password.
    #[default]
    None,
    /// HTTP Basic.
    User {
        /// The user name.
        name: String,
        /// The password.
        password: Secret,
    },
    /// A bearer token.
    Token(Secret),
    /// Entra ID tokens, for Azure ML workspaces.
    Entra(Tokens),
}

impl Credentials {
    /// Those of an environment and its `~/.mlflow/credentials`.
    ///
    /// # Errors
    /// [`Error::Setting`] for a way to authorise that is not supported; a credentials file that
    /// cannot be read.
    pub fn from_environment(environment: &Environment) -> Result<Self> {
        for name in ["MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4"] {
            let off = environment.text(name).is_none_or(|v| ["false", "0"].contains(&v));
            if !off {
                let reason = "authorisation by a Python plug-in is not supported".to_owned();
                return Err(Error::Setting { name: name.to_owned(), reason });
            }
        }
        let home = environment.path("HOME").or_else(|| environment.path("USERPROFILE"));
        let file = match home {
            Some(home) => Stored::read(&home.join(".mlflow").join("credentials"))?,
            None => Stored::default(),
        };
        let either = |name, stored| environment.text(name).map(str::to_owned).or(stored);
        let name = either("MLFLOW_TRACKING_USERNAME", file.username);
        let password = either("MLFLOW_TRACKING_PASSWORD", file.password);
        Ok(match (name, password, environment.text("MLFLOW_TRACKING_TOKEN")) {
            (Some(name), Some(password), _) => Self::User { name, password: Secret::new(password) },
            (_, _, Some(token)) => Self::Token(Secret::new(token.to_owned())),
            _ => Self::None,
        })
    }

    /// How requests say who asks; `in_uri` is what the tracking URI holds.
    pub(crate) fn authorization(&self, in_uri: Option<Secret>) -> Authorization {
        match (self, in_uri) {
            (Self::User { name, password }, _) => {
                Authorization::Fixed(basic(format!("{name}:{}", password.expose()).as_bytes()))
            }
            (_, Some(header)) => Authorization::Fixed(header),
            (Self::Token(token), None) => {
                Authorization::Fixed(Secret::new(format!("Bearer {}", token.expose())))
            }
            (Self::Entra(tokens), None) => Authorization::Tokens(tokens.clone()),
            (Self::None, None) => Authorization::None,
        }
    }
}

/// The content of `~/.mlflow/credentials`.
#[derive(Default)]
struct Stored {
    username: Option<String>,
    password: Option<String>,
}

impl Stored {
    fn read(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        Ok(Self::parse(&fs::read_to_string(path).map_err(at("read", path))?))
    }

    /// Python's `configparser` rules as far as two one-line values need them: `key = value` or
    /// `key: value`, keys without regard to case, `%%` for a percent sign, whole-line comments.
    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        let mut in_section = false;
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(section) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                in_section = section == "mlflow";
                continue;
            }
            let Some(split) = line.find(['=', ':']).filter(|_| in_section) else { continue };
            let value = line[split + 1..].trim().replace("%%", "%");
            match line[..split].trim().to_ascii_lowercase().as_str() {
                "mlflow_tracking_username" => found.username = Some(value),
                "mlflow_tracking_password" => found.password = Some(value),
                _ => {}
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(variables: &[(&str, &str)], in_uri: Option<&str>) -> Option<String> {
        let environment = variables.iter().copied().collect();
        let credentials = Credentials::from_environment(&environment).expect("credentials");
        assert!(!format!("{credentials:?}").contains("s3cret"));
        let in_uri = in_uri.map(|text| Secret::new(text.to_owned()));
        match credentials.authorization(in_uri) {
            Authorization::Fixed(header) => Some(header.expose().to_owned()),
            Authorization::None | Authorization::Tokens(_) => None,
        }
    }

    #[test]
    fn a_user_goes_before_the_address_before_a_token() {
        let user = ("MLFLOW_TRACKING_USERNAME", "me");
        let password = ("MLFLOW_TRACKING_PASSWORD", "s3cret");
        let token = ("MLFLOW_TRACKING_TOKEN", "s3cret-token");
        let basic = Some("Basic bWU6czNjcmV0".to_owned());
        assert_eq!(header(&[user, password, token], Some("Basic x")), basic);
        assert_eq!(header(&[user, token], Some("Basic x")), Some("Basic x".to_owned()));
        assert_eq!(header(&[user, token], None), Some("Bearer s3cret-token".to_owned()));
        assert_eq!(header(&[user], None), None);
    }

    #[test]
    fn the_credentials_file_fills_what_the_environment_leaves_open() {
        let home = tempfile::tempdir().expect("folder");
        let folder = home.path().join(".mlflow");
        durable::create_folder(&folder).expect("folder");
        let text = "# comment\n[other]\nmlflow_tracking_username = no\n[mlflow]\r\n\
                    MLFLOW_Tracking_Username: file\n; comment\nmlflow_tracking_password = a=%%b:c \n";
        durable::write(&folder.join("credentials"), text.as_bytes()).expect("write");
        let home = ("HOME", home.path().to_str().expect("UTF-8"));
        let expected = |text: &str| Some(basic(text.as_bytes()).expose().to_owned());
        assert_eq!(header(&[home], None), expected("file:a=%b:c"));
        let user = ("MLFLOW_TRACKING_USERNAME", "me");
        assert_eq!(header(&[home, user], None), expected("me:a=%b:c"));
    }

    #[test]
    fn plug_ins_are_refused_by_name() {
        for name in ["MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4"] {
            let refused = Credentials::from_environment(&[(name, "1")].into_iter().collect());
            assert!(refused.expect_err(name).to_string().contains(name));
        }
        let off = [("MLFLOW_TRACKING_AWS_SIGV4", "false")].into_iter().collect();
        assert_eq!(Credentials::from_environment(&off).expect("off"), Credentials::None);
    }
}
