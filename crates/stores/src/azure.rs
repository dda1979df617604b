//! Azure Blob Storage's credentials: a connection string, as the portal shows it and Azure's SDKs read
//! it, or the variables that `object_store` knows (account key, shared access signature, client
//! secret, workload identity, managed identity, the CLI's login).

use crate::location::configured;
use crate::{Error, Result};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};

const CONNECTION_STRING: &str = "AZURE_STORAGE_CONNECTION_STRING";

/// A builder with what the environment says.
pub(crate) fn builder(environment: &[(String, String)]) -> Result<MicrosoftAzureBuilder> {
    let with = |builder: MicrosoftAzureBuilder, key, value: &str| builder.with_config(key, value);
    let builder = MicrosoftAzureBuilder::new();
    let builder = configured(environment, "azure_", builder, AzureConfigKey::Client, with);
    match environment.iter().find(|(name, _)| name == CONNECTION_STRING) {
        Some((_, text)) => with_connection_string(builder, text),
        None => Ok(builder),
    }
}

/// What a connection string says goes before everything else.
fn with_connection_string(
    mut builder: MicrosoftAzureBuilder,
    text: &str,
) -> Result<MicrosoftAzureBuilder> {
    let refused = |reason: String| Error::Credential { variable: CONNECTION_STRING, reason };
    let (mut protocol, mut account, mut suffix, mut endpoint) = ("https", None, None, None);
    for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| refused("its parts are not all of the form Key=Value".to_owned()))?;
        match key.to_ascii_lowercase().as_str() {
            "defaultendpointsprotocol" => protocol = value,
            "accountname" => account = Some(value),
            "accountkey" => builder = builder.with_access_key(value),
            "sharedaccesssignature" => {
                builder = builder.with_config(AzureConfigKey::SasKey, value);
            }
            "endpointsuffix" => suffix = Some(value),
            "blobendpoint" => endpoint = Some(value.trim_end_matches('/').to_owned()),
            "usedevelopmentstorage" => builder = builder.with_use_emulator(true),
            // Of other services.
            key if key.ends_with("endpoint") => {}
            key => return Err(refused(format!("it has a part {key:?}, which is not known"))),
        }
    }
    if !["http", "https"].contains(&protocol) {
        return Err(refused("DefaultEndpointsProtocol is neither http nor https".to_owned()));
    }
    if let Some(account) = account {
        builder = builder.with_account(account);
        endpoint = endpoint
            .or_else(|| suffix.map(|suffix| format!("{protocol}://{account}.blob.{suffix}")));
    }
    if let Some(endpoint) = endpoint {
        if account.is_none() {
            // The account is the first label of the host's name.
            let host = endpoint.split("://").nth(1).unwrap_or_default();
            builder = builder.with_account(host.split(['.', '/']).next().unwrap_or_default());
        }
        let plain = endpoint.starts_with("http://");
        builder = builder.with_endpoint(endpoint).with_allow_http(plain);
    }
    Ok(builder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(text: &str) -> Result<MicrosoftAzureBuilder> {
        builder(&[(CONNECTION_STRING.to_owned(), text.to_owned())])
    }

    #[test]
    fn connection_strings_as_the_portal_shows_them() -> Result<()> {
        let azure = built(
            "DefaultEndpointsProtocol=https;AccountName=tos;AccountKey=a2V5==;\
             EndpointSuffix=core.windows.net",
        )?;
        let value = |key| azure.get_config_value(&key);
        assert_eq!(value(AzureConfigKey::AccountName).as_deref(), Some("tos"));
        assert_eq!(value(AzureConfigKey::AccessKey).as_deref(), Some("a2V5=="));
        assert_eq!(
            value(AzureConfigKey::Endpoint).as_deref(),
            Some("https://tos.blob.core.windows.net")
        );

        let azure = built(
            "BlobEndpoint=https://tos.blob.core.windows.net/;QueueEndpoint=https://q;\
             SharedAccessSignature=sv=2022&sig=abc%3D",
        )?;
        let value = |key| azure.get_config_value(&key);
        assert_eq!(value(AzureConfigKey::AccountName).as_deref(), Some("tos"));
        assert_eq!(value(AzureConfigKey::SasKey).as_deref(), Some("sv=2022&sig=abc%3D"));
        Ok(())
    }

    #[test]
    fn what_is_no_connection_string_is_refused_without_its_text() {
        for text in ["SECRET", "AccountName=a;SECRET=b", "DefaultEndpointsProtocol=ftp"] {
            let refused = built(text).map(drop).expect_err("refused").to_string();
            assert!(refused.contains(CONNECTION_STRING), "{refused}");
            assert!(!refused.contains("SECRET"), "{refused}");
        }
    }
}
