//! Entra ID access tokens: asked for where the machine has an identity, kept until shortly before they
//! end, asked for anew.
//!
//! The sources are asked in the order of Azure's SDKs: client secret, workload identity, managed
//! identity, the login of the Azure CLI. The first that has an identity decides: if it is refused, that
//! is an error, and no other identity is put in its place.

use std::sync::{Arc, Mutex, PoisonError};

use super::cli_login::CliLogin;
use super::cloud::Cloud;
use super::sources::{Refusal, Source, Transport};
use crate::server::{Environment, Secret};
use crate::{Error, Result, now_ms};

/// Seconds before its end at which a token is replaced; of short ones, half their life.
const MARGIN: i64 = 300;
/// Seconds for which a token that could not be replaced, but has not ended, is used.
const RESPITE: i64 = 30;

/// Access tokens for Azure's resource manager and the services of a workspace. Clones share them.
#[derive(Clone)]
pub struct Tokens(Arc<Shared>);

struct Shared {
    environment: Environment,
    sources: Vec<Source>,
    transport: Transport,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    cloud: Option<Cloud>,
    /// The source that had an identity.
    source: Option<usize>,
    last: Option<Token>,
    /// Someone was refused with the last token.
    refused: bool,
}

/// An access token and its times, in seconds since 1970.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub secret: Secret,
    ends: Option<i64>,
    replaced: i64,
}

impl Token {
    /// A token that ends then; without an end, when it is refused.
    pub fn new(secret: Secret, ends: Option<i64>) -> Self {
        let now = now_ms() / 1000;
        let replaced = match ends {
            Some(ends) => ends - MARGIN.min((ends - now) / 2),
            None => i64::MAX,
        };
        Self { secret, ends, replaced }
    }
}

impl Tokens {
    /// Tokens of this machine's identity. `subscription` tells which of several logins of the Azure CLI
    /// is meant; its default one otherwise. Nothing is asked yet.
    #[must_use]
    pub fn new(environment: &Environment, subscription: Option<&str>) -> Self {
        let sources = vec![
            Source::ClientSecret,
            Source::WorkloadIdentity,
            Source::ManagedIdentity,
            Source::CliLogin(CliLogin::new(environment, subscription)),
        ];
        Self::of(environment, sources)
    }

    /// The tokens of an Azure ML job: the one it was given, then those had at `renewal` for it.
    pub(crate) fn of_job(
        environment: &Environment,
        first: Secret,
        renewal: Option<String>,
    ) -> Self {
        Self::of(environment, vec![Source::Job { first, renewal }])
    }

    fn of(environment: &Environment, sources: Vec<Source>) -> Self {
        // Whoever reaches a server with it refuses a setting that is no time.
        let timeout = environment.request_timeout().ok().flatten();
        let (environment, transport) = (environment.clone(), Transport::new(timeout));
        Self(Arc::new(Shared { environment, sources, transport, state: Mutex::default() }))
    }

    /// The `Authorization` header, with a token that has not ended.
    ///
    /// # Errors
    /// [`Error::NoToken`] with what was tried; [`Error::TokenRefused`]; no answer from who gives tokens.
    pub(crate) fn header(&self) -> Result<Secret> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now_ms() / 1000;
        let fresh = state.last.as_ref().is_some_and(|token| token.replaced > now);
        if !fresh || state.refused {
            match self.0.ask(&mut state) {
                Ok(token) => {
                    state.last = Some(token);
                    state.refused = false;
                }
                Err(error) => {
                    let usable = !state.refused;
                    let lasts = |token: &&mut Token| token.ends.is_none_or(|ends| ends > now);
                    let Some(last) = state.last.as_mut().filter(|_| usable).filter(lasts) else {
                        return Err(error);
                    };
                    tracing::debug!("an access token is not replaced yet: {error}");
                    last.replaced = now + RESPITE;
                }
            }
        }
        let token = state.last.as_ref().expect("asked for above");
        Ok(Secret::new(format!("Bearer {}", token.secret.expose())))
    }

    /// The last token was refused although it has not ended: the next is another one.
    pub(crate) fn renew(&self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).refused = true;
    }

    /// Where these tokens are for.
    pub(super) fn cloud(&self) -> Result<Cloud> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.cloud(&mut state)
    }
}

impl Shared {
    fn cloud(&self, state: &mut State) -> Result<Cloud> {
        if state.cloud.is_none() {
            state.cloud = Some(Cloud::find(&self.environment, &self.transport)?);
        }
        Ok(state.cloud.clone().expect("found above"))
    }

    fn ask(&self, state: &mut State) -> Result<Token> {
        let cloud = self.cloud(state)?;
        let mut tried = Vec::new();
        for (number, source) in self.sources.iter().enumerate() {
            if state.source.is_some_and(|known| known != number) {
                continue;
            }
            let last = state.last.as_ref();
            match source.token(&self.environment, &cloud, &self.transport, last) {
                Ok(token) => {
                    tracing::debug!("access token from: {}", source.name());
                    state.source = Some(number);
                    return Ok(token);
                }
                Err(Refusal::Absent(reason)) => tried.push((source.name(), reason)),
                Err(Refusal::Refused(reason)) => {
                    return Err(Error::TokenRefused { by: source.name(), reason });
                }
                Err(Refusal::Later(error)) => return Err(error),
            }
        }
        Err(Error::NoToken { tried })
    }
}

/// The same tokens.
impl PartialEq for Tokens {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Tokens {}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.0.sources.iter().map(Source::name).collect();
        f.debug_tuple("Tokens").field(&names).finish()
    }
}
