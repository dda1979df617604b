//! The login of the Azure CLI (`az login`): read from its folder, `~/.azure` or `AZURE_CONFIG_DIR`,
//! never written.
//!
//! `azureProfile.json` tells which tenant and account a subscription is of, `msal_token_cache.json`
//! (MSAL's unified cache schema) holds the account's refresh token, `service_principal_entries.json`
//! the secret of a service principal. A refresh token goes to the sign-in that gave it and to no other.
//! Refused: caches that are encrypted, as on Windows.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::cloud::Cloud;
use super::sources::{Refusal, Transport, login_file};
use super::tokens::Token;
use crate::now_ms;
use crate::server::{Environment, Secret};

/// The CLI's own id as a client.
const CLI: &str = "04b07795-8ddb-461a-bbee-02f9e1bf7b46";
/// Microsoft's own clients share their refresh tokens under this name.
const FAMILY: &str = "1";
/// Seconds that a cached token must still last.
const LEFT: i64 = 300;

/// Where the CLI keeps its login, and which one is meant.
#[derive(Debug, Clone)]
pub(super) struct CliLogin {
    folder: Option<PathBuf>,
    subscription: Option<String>,
}

#[derive(Deserialize)]
struct Profile {
    #[serde(default)]
    subscriptions: Vec<Subscription>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subscription {
    id: String,
    tenant_id: String,
    user: User,
    #[serde(default)]
    is_default: bool,
}

#[derive(Deserialize)]
struct User {
    name: String,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Cache {
    #[serde(default)]
    account: BTreeMap<String, Account>,
    #[serde(default)]
    access_token: BTreeMap<String, Cached>,
    #[serde(default)]
    refresh_token: BTreeMap<String, Cached>,
}

#[derive(Deserialize)]
struct Account {
    home_account_id: String,
    environment: String,
    #[serde(default)]
    username: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Cached {
    home_account_id: String,
    environment: String,
    client_id: String,
    family_id: Option<String>,
    /// The tenant.
    realm: Option<String>,
    /// Scopes.
    target: Option<String>,
    expires_on: Option<String>,
    secret: String,
}

#[derive(Deserialize)]
struct Principal {
    client_id: String,
    tenant: String,
    client_secret: Option<String>,
}

impl CliLogin {
    pub fn new(environment: &Environment, subscription: Option<&str>) -> Self {
        let home = || environment.path("HOME").or_else(|| environment.path("USERPROFILE"));
        let folder = environment.path("AZURE_CONFIG_DIR");
        let folder = folder.or_else(|| home().map(|home| home.join(".azure")));
        Self { folder, subscription: subscription.map(str::to_owned) }
    }

    /// A token of the account that the subscription is of.
    pub fn token(&self, cloud: &Cloud, transport: &Transport) -> Result<Token, Refusal> {
        let absent = |reason: &str| Refusal::Absent(format!("{reason}: run `az login`"));
        let profile: Profile = self.read("azureProfile.json")?;
        let mut subscriptions = profile.subscriptions.iter();
        let found = match &self.subscription {
            Some(id) => subscriptions.find(|known| known.id.eq_ignore_ascii_case(id)),
            None => subscriptions.find(|known| known.is_default),
        };
        // An account may reach a subscription that it was not told of.
        let found = found.or_else(|| profile.subscriptions.iter().find(|known| known.is_default));
        let found = found.ok_or_else(|| absent("nobody is logged in"))?;
        match found.user.kind.as_str() {
            "user" => self.of_user(found, cloud, transport),
            "servicePrincipal" => self.of_principal(found, cloud, transport),
            kind => Err(absent(&format!("the login is of a {kind:?}, which is not supported"))),
        }
    }

    fn of_user(
        &self,
        subscription: &Subscription,
        cloud: &Cloud,
        transport: &Transport,
    ) -> Result<Token, Refusal> {
        let cache: Cache = self.read("msal_token_cache.json")?;
        let authority = cloud.authority.split("://").nth(1).unwrap_or_default();
        let account = cache.account.values().find(|account| {
            account.username.eq_ignore_ascii_case(&subscription.user.name)
                && account.environment == authority
        });
        let login = || format!("run `az login --tenant {}`", subscription.tenant_id);
        let Some(account) = account else {
            let (name, login) = (&subscription.user.name, login());
            return Err(Refusal::Absent(format!(
                "{name} is not logged in at {authority}: {login}"
            )));
        };
        let theirs = |token: &&Cached| {
            token.home_account_id == account.home_account_id && token.environment == authority
        };
        let now = now_ms() / 1000;
        let for_us = |token: &&Cached| {
            let target = token.target.as_deref().unwrap_or_default();
            token.realm.as_ref() == Some(&subscription.tenant_id)
                && target.split(' ').any(|scope| scope.starts_with(&cloud.resource_manager))
        };
        for token in cache.access_token.values().filter(theirs).filter(for_us) {
            let ends = token.expires_on.as_deref().and_then(|text| text.parse().ok());
            if ends.is_some_and(|ends: i64| ends > now + LEFT) {
                return Ok(Token::new(Secret::new(token.secret.clone()), ends));
            }
        }
        let refresh = cache
            .refresh_token
            .values()
            .filter(theirs)
            .find(|token| token.client_id == CLI || token.family_id.as_deref() == Some(FAMILY));
        let Some(refresh) = refresh else {
            return Err(Refusal::Absent(format!("the login has no refresh token: {}", login())));
        };
        let form = [("client_id", CLI), ("refresh_token", refresh.secret.as_str())];
        let token = transport.grant(cloud, &subscription.tenant_id, "refresh_token", &form);
        token.map_err(|refusal| match refusal {
            Refusal::Refused(reason) => Refusal::Refused(format!("{reason}; {}", login())),
            other => other,
        })
    }

    fn of_principal(
        &self,
        subscription: &Subscription,
        cloud: &Cloud,
        transport: &Transport,
    ) -> Result<Token, Refusal> {
        let entries: Vec<Principal> = self.read("service_principal_entries.json")?;
        let name = &subscription.user.name;
        let entry = entries.iter().find(|entry| {
            entry.client_id.eq_ignore_ascii_case(name) && entry.tenant == subscription.tenant_id
        });
        let Some(secret) = entry.and_then(|entry| entry.client_secret.as_deref()) else {
            return Err(Refusal::Absent(format!("the login of {name} is not by a client secret")));
        };
        let form = [("client_id", name.as_str()), ("client_secret", secret)];
        transport.grant(cloud, &subscription.tenant_id, "client_credentials", &form)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<T, Refusal> {
        let Some(folder) = &self.folder else {
            return Err(Refusal::Absent("there is no home folder".to_owned()));
        };
        let path = folder.join(name);
        if !path.exists() && path.with_extension("bin").exists() {
            let path = path.with_extension("bin");
            return Err(Refusal::Absent(format!("{} is encrypted", path.display())));
        }
        // Messages of the parser could show what is in the file.
        serde_json::from_str(&login_file(&path)?)
            .map_err(|_| Refusal::Absent(format!("{} cannot be read", path.display())))
    }
}
