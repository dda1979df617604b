//! MLflow's REST API, one method per call: experiments, runs, and what is logged to them.
//!
//! A client blocks, and repeats failed requests as its [`Retry`](super::Retry) says. It serves
//! MLflow 2.x and 3.x servers and what speaks their API. Not covered: traces, prompts, evaluation
//! data sets, users and permissions.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use super::address::{Address, query_value};
use super::http::Http;
use super::retry::Repeated::{Harmless, Twice};
use super::wire::{Batch, Experiment, NewRun, Pair, ServerInfo, ServerRun};
use super::{Connection, Multipart};
use crate::{Metric, Result, Status};

/// The most points of a history that are asked for at once; MLflow's own limit.
const HISTORY_PAGE: usize = 25_000;

/// A connection to an MLflow server.
pub struct Client {
    pub(super) address: Address,
    pub(crate) http: Http,
    pub(crate) multipart: Multipart,
    /// Where the model registry is, if elsewhere.
    pub(super) registry: Option<Box<Client>>,
}

impl Client {
    /// Prepares requests to a server; nothing is sent yet.
    ///
    /// # Errors
    /// Certificates that cannot be read.
    pub fn new(connection: &Connection) -> Result<Self> {
        let one = |connection: &Connection, registry| -> Result<Self> {
            Ok(Self {
                address: connection.address.clone(),
                http: Http::new(connection)?,
                multipart: connection.multipart.clone(),
                registry,
            })
        };
        let registry = match &connection.registry {
            Some(_) => Some(Box::new(one(&connection.for_registry(), None)?)),
            None => None,
        };
        one(connection, registry)
    }

    /// What the server says about itself.
    ///
    /// # Errors
    /// A server before 3.10 answers 404.
    pub fn server_info(&self) -> Result<ServerInfo> {
        self.http.get(&self.address.call("/api/3.0/mlflow/server-info"))
    }

    /// The experiment with this id.
    ///
    /// # Errors
    /// 404 `RESOURCE_DOES_NOT_EXIST` if there is none; what the server or the way to it answers.
    pub fn experiment(&self, experiment_id: &str) -> Result<Experiment> {
        let call = format!("experiments/get?experiment_id={}", query_value(experiment_id));
        let answer: OneExperiment = self.http.get(&self.url(&call))?;
        Ok(answer.experiment)
    }

    /// The experiment of this name, deleted or not.
    ///
    /// # Errors
    /// What the server or the way to it answers.
    pub fn experiment_by_name(&self, name: &str) -> Result<Option<Experiment>> {
        let call = format!("experiments/get-by-name?experiment_name={}", query_value(name));
        match self.http.get::<OneExperiment>(&self.url(&call)) {
            Ok(answer) => Ok(Some(answer.experiment)),
            // A server that does not know the call answers 404 as well, without this code.
            Err(error) if is_absent_resource(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates an experiment and gives its id.
    ///
    /// # Errors
    /// 400 `RESOURCE_ALREADY_EXISTS` if the name is taken, be it by a deleted one.
    pub fn create_experiment(&self, name: &str) -> Result<String> {
        #[derive(Deserialize)]
        struct Answer {
            experiment_id: String,
        }
        let url = self.url("experiments/create");
        let answer: Answer = self.http.send("POST", &url, &json!({ "name": name }), Twice)?;
        Ok(answer.experiment_id)
    }

    /// Creates a run. Sent twice it creates two: look for a tag of your own before trying again.
    ///
    /// # Errors
    /// What the server or the way to it answers.
    pub fn create_run(&self, run: &NewRun<'_>) -> Result<ServerRun> {
        let answer: OneRun = self.http.send("POST", &self.url("runs/create"), run, Twice)?;
        Ok(answer.run)
    }

    /// The run with this id.
    ///
    /// # Errors
    /// 404 `RESOURCE_DOES_NOT_EXIST` if there is none; what the server or the way to it answers.
    pub fn run(&self, run_id: &str) -> Result<ServerRun> {
        let call = format!("runs/get?run_id={}", query_value(run_id));
        let answer: OneRun = self.http.get(&self.url(&call))?;
        Ok(answer.run)
    }

    /// The active runs of an experiment with this value of a tag, the oldest first.
    ///
    /// # Errors
    /// What the server or the way to it answers.
    pub fn runs_with_tag(
        &self,
        experiment_id: &str,
        key: &str,
        value: &str,
    ) -> Result<Vec<ServerRun>> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            runs: Vec<ServerRun>,
        }
        let body = json!({
            "experiment_ids": [experiment_id],
            "filter": format!("tags.`{key}` = '{value}'"),
            "run_view_type": "ACTIVE_ONLY",
            "order_by": ["attributes.start_time ASC"],
            "max_results": 100,
        });
        let answer: Answer = self.http.send("POST", &self.url("runs/search"), &body, Harmless)?;
        Ok(answer.runs)
    }

    /// Sets the status of a run; a final one with the time it ended.
    ///
    /// # Errors
    /// What the server or the way to it answers.
    pub fn update_run(&self, run_id: &str, status: Status, end_time_ms: Option<i64>) -> Result<()> {
        let mut body = json!({ "run_id": run_id, "status": status });
        if let Some(end_time_ms) = end_time_ms {
            body["end_time"] = end_time_ms.into();
        }
        self.post("runs/update", &body)
    }

    /// Moves a run to the server's trash.
    ///
    /// # Errors
    /// What the server or the way to it answers.
    pub fn delete_run(&self, run_id: &str) -> Result<()> {
        self.post("runs/delete", &json!({ "run_id": run_id }))
    }

    /// Logs metrics, parameters and tags at once. A point that the run has already changes nothing,
    /// nor does a parameter with the value it has. (MLflow 2 refuses a NaN that the run has.)
    ///
    /// # Errors
    /// 400 `INVALID_PARAMETER_VALUE` if anything in it is refused; nothing of it is logged then.
    pub fn log_batch(&self, run_id: &str, batch: &Batch) -> Result<()> {
        #[derive(serde::Serialize)]
        struct Body<'a> {
            run_id: &'a str,
            #[serde(flatten)]
            batch: &'a Batch,
        }
        self.post("runs/log-batch", &Body { run_id, batch })
    }

    /// Sets a tag of a run.
    ///
    /// # Errors
    /// What the server or the way to it answers.
    pub fn set_tag(&self, run_id: &str, tag: &Pair) -> Result<()> {
        let body = json!({ "run_id": run_id, "key": tag.key, "value": tag.value });
        self.post("runs/set-tag", &body)
    }

    /// All points of one metric of a run.
    ///
    /// # Errors
    /// What the server or the way to it answers.
    pub fn metric_history(&self, run_id: &str, key: &str) -> Result<Vec<Metric>> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            metrics: Vec<Metric>,
            #[serde(default)]
            next_page_token: String,
        }
        let (run_id, key) = (query_value(run_id), query_value(key));
        let call = format!(
            "metrics/get-history?run_id={run_id}&metric_key={key}&max_results={HISTORY_PAGE}"
        );
        let (mut history, mut token) = (Vec::new(), String::new());
        loop {
            let call = match token.as_str() {
                "" => call.clone(),
                token => format!("{call}&page_token={}", query_value(token)),
            };
            let page: Page = self.http.get(&self.url(&call))?;
            history.extend(page.metrics);
            if page.next_page_token.is_empty() || page.next_page_token == token {
                return Ok(history);
            }
            token = page.next_page_token;
        }
    }

    /// The address of a call of the 2.0 API.
    pub(super) fn url(&self, call: &str) -> String {
        self.address.call(&format!("/api/2.0/mlflow/{call}"))
    }

    /// A call that can be repeated and whose answer says nothing.
    pub(super) fn post(&self, call: &str, body: &impl serde::Serialize) -> Result<()> {
        let _: IgnoredObject = self.http.send("POST", &self.url(call), body, Harmless)?;
        Ok(())
    }

    /// A call that deletes; what is not there (any more) is deleted.
    pub(super) fn delete(&self, call: &str, body: &impl serde::Serialize) -> Result<()> {
        let answer = self.http.send("DELETE", &self.url(call), body, Harmless);
        match answer.map(|_: IgnoredObject| ()) {
            Err(error) if is_absent_resource(&error) => Ok(()),
            answer => answer,
        }
    }
}

/// The server knows the call, but not what it asks for.
pub(super) fn is_absent_resource(error: &crate::Error) -> bool {
    matches!(error, crate::Error::Refused { status: 404, code, .. } if code == "RESOURCE_DOES_NOT_EXIST")
}

/// 404 from a server that does not know the call, rather than what it asks for.
pub(super) fn is_unknown_call(error: &crate::Error) -> bool {
    matches!(error, crate::Error::Refused { status: 404, .. }) && !is_absent_resource(error)
}

/// A JSON object in which nothing matters; HTML is none.
pub(super) type IgnoredObject = std::collections::BTreeMap<String, IgnoredAny>;

#[derive(Deserialize)]
struct OneExperiment {
    experiment: Experiment,
}

#[derive(Deserialize)]
struct OneRun {
    run: ServerRun,
}
