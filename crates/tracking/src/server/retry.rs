//! When a failed request is repeated. The rules of MLflow 3.18 (`utils/rest_utils.py`): 408, 429,
//! 500, 502, 503, 504 and broken connections are worth another try; a request that would do its
//! work twice is repeated only where the answer shows that it was not carried out.

use std::time::Duration;

use super::environment::Environment;
use crate::error::Failure;
use crate::{Error, Result};

/// No wait is longer, whatever the server asks for.
const LONGEST: Duration = Duration::from_secs(120);

/// What happens if a request is carried out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeated {
    /// Nothing more than if once.
    Harmless,
    /// Another thing is created.
    Twice,
}

/// How often, and after which waits.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// The most repetitions of one request. 7; MLflow allows 10.
    pub retries: u32,
    /// The first wait in seconds; each later one is twice as long, up to 120 s. 2.
    pub backoff_factor: f64,
    /// Up to so many seconds, at random, are added to a wait, so that clients do not come all at
    /// once. 1.
    pub backoff_jitter: f64,
    /// Whether a server's `Retry-After` in seconds goes before our own wait.
    pub respect_retry_after: bool,
}

impl Default for Retry {
    fn default() -> Self {
        Self { retries: 7, backoff_factor: 2.0, backoff_jitter: 1.0, respect_retry_after: true }
    }
}

impl Retry {
    pub(crate) fn from_environment(environment: &Environment) -> Result<Self> {
        let default = Self::default();
        Ok(Self {
            retries: environment
                .number("MLFLOW_HTTP_REQUEST_MAX_RETRIES", 0..=10)?
                .unwrap_or(default.retries),
            backoff_factor: environment
                .number("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", 0.0..=120.0)?
                .unwrap_or(default.backoff_factor),
            backoff_jitter: environment
                .number("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", 0.0..=120.0)?
                .unwrap_or(default.backoff_jitter),
            respect_retry_after: environment
                .flag("MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER")?
                .unwrap_or(default.respect_retry_after),
        })
    }

    /// Calls until it succeeds or should not be repeated, sleeping in between.
    pub(crate) fn run<T>(
        &self,
        repeated: Repeated,
        mut call: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let mut failures = 0;
        loop {
            let error = match call() {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let again = match error.failure() {
                Failure::NotDone => true,
                // A page of HTML will not be another one in two seconds.
                Failure::Unknown if matches!(error, Error::BadAnswer { .. }) => false,
                Failure::Unknown => repeated == Repeated::Harmless,
                Failure::Credentials | Failure::Final => false,
            };
            if !again || failures == self.retries {
                return Err(error);
            }
            failures += 1;
            std::thread::sleep(self.wait(failures, &error));
        }
    }

    /// How long to wait after this many failures in a row (from 1).
    pub(crate) fn wait(&self, failures: u32, error: &Error) -> Duration {
        if let Error::Refused { retry_after: Some(asked), .. } = error
            && self.respect_retry_after
        {
            return (*asked).min(LONGEST);
        }
        let doubled = self.backoff_factor * 2f64.powi(failures.saturating_sub(1).min(30) as i32);
        let jitter = self.backoff_jitter * rand::random::<f64>();
        Duration::from_secs_f64((doubled + jitter).min(LONGEST.as_secs_f64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, retry_after: Option<u64>) -> Error {
        Error::Refused {
            url: String::new(),
            status,
            code: String::new(),
            message: String::new(),
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    fn unreachable(sent: bool) -> Error {
        Error::Unreachable { url: String::new(), reason: String::new(), sent }
    }

    /// How often a request that always fails is sent.
    fn attempts(repeated: Repeated, error: impl Fn() -> Error) -> u32 {
        let retry =
            Retry { retries: 2, backoff_factor: 0.0, backoff_jitter: 0.0, ..Retry::default() };
        let mut count = 0;
        let failed: Result<()> = retry.run(repeated, || {
            count += 1;
            Err(error())
        });
        failed.expect_err("it always fails");
        count
    }

    #[test]
    fn what_may_have_been_done_is_repeated_only_if_that_is_harmless() {
        use Repeated::{Harmless, Twice};
        for status in [408, 429] {
            assert_eq!(attempts(Harmless, || refused(status, None)), 3);
            assert_eq!(attempts(Twice, || refused(status, None)), 3);
        }
        for status in [500, 502, 503, 504] {
            assert_eq!(attempts(Harmless, || refused(status, None)), 3);
            assert_eq!(attempts(Twice, || refused(status, Some(0))), 1);
        }
        for status in [400, 401, 403, 404, 501] {
            assert_eq!(attempts(Harmless, || refused(status, None)), 1);
        }
        assert_eq!(attempts(Twice, || unreachable(false)), 3);
        assert_eq!(attempts(Twice, || unreachable(true)), 1);
        assert_eq!(attempts(Harmless, || unreachable(true)), 3);
    }

    #[test]
    fn waits_double_up_to_two_minutes_and_servers_may_ask_for_others() {
        let retry = Retry { backoff_jitter: 0.0, ..Retry::default() };
        let waits: Vec<_> =
            [1, 2, 3, 7, 100].map(|n| retry.wait(n, &unreachable(true)).as_secs()).into();
        assert_eq!(waits, [2, 4, 8, 120, 120]);
        assert_eq!(retry.wait(1, &refused(429, Some(9))).as_secs(), 9);
        assert_eq!(retry.wait(1, &refused(429, Some(9999))).as_secs(), 120);
        let deaf = Retry { respect_retry_after: false, ..retry };
        assert_eq!(deaf.wait(1, &refused(429, Some(9))).as_secs(), 2);
    }
}
