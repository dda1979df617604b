//! Which Azure: the public cloud or a sovereign one, and where its sign-in and its resource manager
//! are.
//!
//! `AZURE_AUTHORITY_HOST` names the sign-in as for Azure's SDKs; `AZUREML_CURRENT_CLOUD` and
//! `ARM_CLOUD_METADATA_URL` the cloud as for Azure Machine Learning's own packages. Refused: addresses
//! without TLS, but for those of this machine and its link (where managed identities answer).

use std::net::{IpAddr, Ipv4Addr};

use serde::Deserialize;
use ureq::http::Uri;

use super::sources::{Refusal, Transport};
use crate::server::Environment;
use crate::{Error, Result};

const AUTHORITY: &str = "AZURE_AUTHORITY_HOST";
const METADATA: &str = "ARM_CLOUD_METADATA_URL";
const NAME: &str = "AZUREML_CURRENT_CLOUD";

/// Name, sign-in, resource manager.
const KNOWN: [(&str, &str, &str); 3] = [
    ("AzureCloud", "https://login.microsoftonline.com", "https://management.azure.com"),
    (
        "AzureChinaCloud",
        "https://login.partner.microsoftonline.cn",
        "https://management.chinacloudapi.cn",
    ),
    (
        "AzureUSGovernment",
        "https://login.microsoftonline.us",
        "https://management.usgovcloudapi.net",
    ),
];
/// Other names of the sign-ins.
const ALIASES: [(&str, &str); 2] = [
    ("https://login.chinacloudapi.cn", "https://login.partner.microsoftonline.cn"),
    ("https://login.windows.net", "https://login.microsoftonline.com"),
];

/// The addresses of a cloud; no slash at their ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cloud {
    /// Where tokens are given.
    pub authority: String,
    /// Where resources are managed.
    pub resource_manager: String,
}

/// A cloud as `ARM_CLOUD_METADATA_URL` lists it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    name: String,
    resource_manager: String,
    authentication: Authentication,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Authentication {
    login_endpoint: String,
}

impl Cloud {
    /// The cloud that the environment says.
    pub fn find(environment: &Environment, transport: &Transport) -> Result<Self> {
        let authority =
            environment.text(AUTHORITY).map(|text| endpoint(AUTHORITY, text)).transpose()?;
        let mut cloud = match environment.text(METADATA) {
            Some(url) => Self::listed(&endpoint(METADATA, url)?, environment, transport)?,
            None => Self::known(environment.text(NAME), authority.as_deref())?,
        };
        cloud.authority = authority.unwrap_or(cloud.authority);
        Ok(cloud)
    }

    /// What a token is asked for: this holds for a workspace's services as well.
    pub fn scope(&self) -> String {
        format!("{}/.default", self.resource_manager)
    }

    fn known(name: Option<&str>, authority: Option<&str>) -> Result<Self> {
        let found = match name {
            Some(name) => {
                let found = KNOWN.iter().find(|(known, ..)| *known == name);
                found.ok_or_else(|| {
                    let names = KNOWN.map(|(known, ..)| known).join(", ");
                    setting(NAME, format!("it is {name:?}, but must be one of {names}"))
                })?
            }
            None => {
                let alias = ALIASES.iter().find(|(alias, _)| Some(*alias) == authority);
                let authority = alias.map(|(_, main)| *main).or(authority);
                KNOWN.iter().find(|(_, at, _)| Some(*at) == authority).unwrap_or(&KNOWN[0])
            }
        };
        let (_, authority, resource_manager) = *found;
        Ok(Self { authority: authority.into(), resource_manager: resource_manager.into() })
    }

    fn listed(url: &str, environment: &Environment, transport: &Transport) -> Result<Self> {
        let answer = transport.get(url, &[]).map_err(|refusal| match refusal {
            Refusal::Absent(reason) | Refusal::Refused(reason) => setting(METADATA, reason),
            Refusal::Later(error) => error,
        })?;
        let clouds: Vec<Listed> = serde_json::from_value(answer)
            .map_err(|error| setting(METADATA, format!("it lists no clouds: {error}")))?;
        let wanted = environment.text(NAME);
        let mut clouds = clouds.into_iter();
        let found = clouds.find(|cloud| wanted.is_none_or(|name| name == cloud.name));
        let found = found.ok_or_else(|| {
            setting(METADATA, format!("it lists no cloud {:?}", wanted.unwrap_or_default()))
        })?;
        Ok(Self {
            authority: endpoint(METADATA, &found.authentication.login_endpoint)?,
            resource_manager: endpoint(METADATA, &found.resource_manager)?,
        })
    }
}

/// An address from a setting, which tokens or secrets are sent to: `https:`, or `http:` on this
/// machine or its link.
pub(super) fn endpoint(name: &str, text: &str) -> Result<String> {
    let text = text.trim();
    let text = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let host = text.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
    let Some(host) = host else {
        return Err(setting(name, "it is no address".to_owned()));
    };
    if text.starts_with("https://") || (text.starts_with("http://") && is_near(&host)) {
        return Ok(text.trim_end_matches('/').to_owned());
    }
    Err(setting(name, "it must start with https:// (http:// goes to this machine only)".to_owned()))
}

/// Whether a host is this machine, or reached over its link alone.
fn is_near(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse();
    crate::server::is_loopback(host)
        || matches!(address, Ok(IpAddr::V4(address)) if Ipv4Addr::is_link_local(&address))
}

fn setting(name: &str, reason: String) -> Error {
    Error::Setting { name: name.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cloud(variables: &[(&str, &str)]) -> Result<Cloud> {
        Cloud::find(&variables.iter().copied().collect(), &Transport::new(None))
    }

    #[test]
    fn clouds_are_known_by_name_and_by_sign_in() {
        for (variables, authority, scope) in [
            (&[][..], "https://login.microsoftonline.com", "https://management.azure.com/.default"),
            (
                &[(NAME, "AzureUSGovernment")],
                "https://login.microsoftonline.us",
                "https://management.usgovcloudapi.net/.default",
            ),
            (
                &[(AUTHORITY, "login.chinacloudapi.cn/")],
                "https://login.chinacloudapi.cn",
                "https://management.chinacloudapi.cn/.default",
            ),
            (
                &[(AUTHORITY, "https://login.elsewhere.example")],
                "https://login.elsewhere.example",
                "https://management.azure.com/.default",
            ),
        ] {
            let cloud = cloud(variables).expect("settings");
            assert_eq!((cloud.authority.as_str(), cloud.scope().as_str()), (authority, scope));
        }
        let error = cloud(&[(NAME, "Atlantis")]).expect_err("no such cloud").to_string();
        assert!(error.contains("Atlantis") && error.contains("AzureChinaCloud"), "{error}");
    }

    #[test]
    fn secrets_are_sent_with_tls_or_nowhere_far() {
        for near in ["http://127.0.0.1:8", "http://localhost/msi/", "http://169.254.169.254"] {
            endpoint("X", near).expect(near);
        }
        for far in ["http://login.example", "ftp://localhost", "http://10.0.0.1", "https://", ""] {
            let error = endpoint("AZURE_X", far).expect_err(far).to_string();
            assert!(error.contains("AZURE_X"), "{error}");
        }
    }
}
