//! Where a run is tracked besides its folder: the section `[tracking]` of the configuration, and
//! MLflow's environment variables for what it leaves open.
//!
//! `tracking.uri` goes before `MLFLOW_TRACKING_URI`; `tracking.experiment_name` before
//! `MLFLOW_EXPERIMENT_ID` before `MLFLOW_EXPERIMENT_NAME`; a run that `MLFLOW_RUN_ID` names before all
//! of them. An empty `tracking.uri` switches tracking off. How a server is reached, and with which
//! credentials, is in the environment alone.

use crate::interrupt::Interrupt;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::path::Path;
use std::time::Duration;
use tracking::azure::{self, Workspace};
use tracking::{
    Connection, Environment, FileStore, Placement, Run, RunRecord, Server, SystemMetrics, Tracker,
};

/// No end of a run waits longer.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// Where the run is recorded besides its folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrackingConfig {
    /// `http://…` or `https://…`: an MLflow server; `azureml://…`, `azureml` for that of a
    /// `config.json`, or `azureml:ID`: a workspace of Azure ML; `file:FOLDER`: MLflow's file store.
    pub uri: Option<Uri>,
    /// MLflow experiment; `Default` by default.
    pub experiment_name: Option<String>,
    /// How long the end of a run waits for a server that does not answer: `60s`, `5m`.
    pub patience: String,
    /// Sample the machine's load and memory into `system/…` metrics;
    /// `MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING` by default.
    pub log_system_metrics: Option<bool>,
    /// Registered model that the best model becomes a version of; needs `mlflow` among
    /// `export.formats`.
    pub registered_model_name: Option<String>,
    /// Alias of the registered model that then points at that version.
    pub registered_model_alias: Option<String>,
}

impl Default for TrackingConfig {
    fn default() -> Self {
        TrackingConfig {
            uri: None,
            experiment_name: None,
            patience: "60s".to_owned(),
            log_system_metrics: None,
            registered_model_name: None,
            registered_model_alias: None,
        }
    }
}

/// A tracking URI. Wherever it is written or shown, it has no user name and password.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct Uri(String);

impl Uri {
    fn shown(&self) -> String {
        if azure::is_reference(&self.0) {
            return self.0.clone();
        }
        let is_server = tracking::is_server(&self.0) && !self.0.starts_with("azureml:");
        match is_server.then(|| Connection::new(&self.0)) {
            Some(Ok(connection)) => connection.to_string(),
            _ => tracking::without_user(&self.0),
        }
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shown())
    }
}

impl Serialize for Uri {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.shown())
    }
}

impl TrackingConfig {
    /// Names another place.
    pub fn set_uri(&mut self, uri: &str) {
        self.uri = Some(Uri(uri.to_owned()));
    }

    /// For a job of Azure ML, which the service tells where its run is; other servers stay.
    pub fn leave_to_job(&mut self) {
        self.uri = self.uri.take().filter(|uri| !uri.0.starts_with("azureml"));
    }

    /// Makes a folder's path absolute, and names the workspace of a `config.json` by its id.
    ///
    /// # Errors
    /// A URI that names neither a server nor a folder; there is no `config.json`.
    pub fn pin(&mut self) -> Result<()> {
        if let Some(uri) = self.uri.as_mut().filter(|uri| !uri.0.is_empty()) {
            uri.0 = tracking::absolute_uri(&uri.0).context("tracking.uri cannot be used")?;
        }
        Ok(())
    }

    /// Checks what the text alone tells.
    ///
    /// # Errors
    /// A URI that names neither a server nor a folder; a patience that is no time.
    pub fn check(&self) -> Result<()> {
        if let Some(uri) = self.uri.as_ref().filter(|uri| !uri.0.is_empty()) {
            tracking::check_uri(&uri.0).context("tracking.uri cannot be used")?;
        }
        self.patience()?;
        if self.registered_model_alias.is_some() && self.registered_model_name.is_none() {
            bail!("tracking.registered_model_alias needs tracking.registered_model_name");
        }
        Ok(())
    }

    /// Name and alias of the registered model.
    pub fn registered_model(&self) -> (Option<String>, Option<String>) {
        (self.registered_model_name.clone(), self.registered_model_alias.clone())
    }

    /// What samples the machine while the run of this record goes on, if that is wanted.
    ///
    /// # Errors
    /// A setting of the environment that cannot be used; the record cannot be read.
    pub fn system_metrics(&self, record: &RunRecord) -> Result<Option<SystemMetrics>> {
        if self.log_system_metrics != Some(true) {
            return Ok(None);
        }
        let interval = SystemMetrics::interval(&Environment::of_process())?;
        let history = record.history()?;
        let of_machine = history.iter().filter(|metric| metric.key.starts_with("system/"));
        let first = of_machine.map(|metric| metric.step + 1).max().unwrap_or(0);
        Ok(Some(SystemMetrics::new(interval, first)))
    }

    fn patience(&self) -> Result<Duration> {
        match humantime::parse_duration(&self.patience) {
            Ok(time) if time <= LONGEST => Ok(time),
            Ok(_) => bail!("tracking.patience is `{}`, but must be at most 30days", self.patience),
            Err(_) => {
                bail!("tracking.patience is `{}`, but must be like 60s or 5m", self.patience)
            }
        }
    }

    /// Takes from the environment what the configuration leaves open, so that a copy of it tells
    /// all but the secrets.
    ///
    /// # Errors
    /// `MLFLOW_TRACKING_URI` names neither a server nor a folder.
    pub fn complete(&mut self, environment: &Environment) -> Result<()> {
        if self.uri.is_none()
            && let Some(uri) = environment.tracking_uri()
        {
            tracking::check_uri(uri).context("MLFLOW_TRACKING_URI cannot be used")?;
            self.uri = Some(Uri(uri.to_owned()));
        }
        if self.log_system_metrics.is_none() {
            self.log_system_metrics = Some(SystemMetrics::wanted(environment)?);
        }
        let placement = Placement::experiment(self.experiment_name.as_deref(), environment)?;
        if let Placement::ExperimentName(name) = placement {
            self.experiment_name = Some(name);
        }
        Ok(())
    }

    /// Puts the address of a workspace that its `config.json` names in the place of that name.
    ///
    /// # Errors
    /// [`tracking::Error`]: there is no such file or no such workspace, nobody answers, or this identity
    /// is refused.
    pub fn locate(&mut self, environment: &Environment) -> Result<()> {
        if let Some(workspace) = self.reference()? {
            let found = workspace.tracking_uri(environment).with_context(|| {
                format!("cannot find the tracking address of the workspace {workspace}")
            })?;
            self.uri = Some(Uri(found));
        }
        Ok(())
    }

    /// The same, but an address that cannot be had now is left to be found while the run goes on, which
    /// tells of it.
    ///
    /// # Errors
    /// As for [`locate`](Self::locate), where waiting will not help.
    pub fn locate_or_wait(&mut self, environment: &Environment) -> Result<()> {
        match self.locate(environment) {
            Err(error) if is_passing(&error) => Ok(()),
            located => located,
        }
    }

    /// The workspace, where its `config.json` names it.
    fn reference(&self) -> Result<Option<Workspace>> {
        let uri = self.uri.as_ref().filter(|uri| azure::is_reference(&uri.0));
        Ok(uri.map(|uri| Workspace::find(&uri.0)).transpose()?)
    }

    /// Where to track, if anywhere.
    ///
    /// # Errors
    /// Settings of the environment that cannot be used.
    pub fn place(&self, environment: &Environment) -> Result<Option<Place>> {
        let Some(Uri(uri)) = self.uri.as_ref().filter(|uri| !uri.0.is_empty()) else {
            return Ok(None);
        };
        let workspace = self.reference()?;
        if !tracking::is_server(uri) && workspace.is_none() {
            return Ok(Some(Place::Folder(uri.clone())));
        }
        // A copy of the configuration has no credentials, the environment may have them.
        let same = |theirs: &&str| -> Result<bool> {
            Ok(tracking::is_server(theirs)
                && Connection::new(theirs)?.to_string() == Connection::new(uri)?.to_string())
        };
        let theirs = environment.tracking_uri();
        let of_environment = match &theirs {
            Some(theirs) if azure::is_reference(theirs) => Some(uri.starts_with("azureml:")),
            // Were it the same workspace, its address would be known.
            Some(_) if workspace.is_some() => Some(false),
            theirs => theirs.as_ref().map(same).transpose()?,
        };
        let uri = match theirs.filter(|theirs| tracking::is_server(theirs)) {
            Some(theirs) if !uri.contains('@') && of_environment == Some(true) => theirs,
            _ => uri,
        };
        let name = self.experiment_name.as_deref();
        let placement = match of_environment {
            // A run that the environment names is one of the environment's server.
            Some(false) => Placement::experiment(name, environment)?,
            _ => Placement::from_environment(name, environment)?,
        };
        let patience = self.patience()?;
        Ok(Some(match workspace {
            Some(workspace) => {
                let environment = environment.clone();
                Place::Workspace { workspace, environment, placement, patience }
            }
            None => {
                let connection = Box::new(Connection::from_environment(uri, environment)?);
                Place::Server { connection, placement, patience }
            }
        }))
    }

    /// The experiment as the record names it.
    pub fn experiment(&self) -> &str {
        self.experiment_name.as_deref().unwrap_or("Default")
    }
}

/// Whether it may be over later, and is no fault of the settings.
pub fn is_passing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<tracking::Error>().is_some_and(tracking::Error::is_passing)
}

/// A place that runs are tracked at.
#[derive(Debug)]
pub enum Place {
    /// MLflow's file store.
    Folder(String),
    /// An MLflow server.
    Server {
        /// How it is reached.
        connection: Box<Connection>,
        /// The experiment.
        placement: Placement,
        /// How long the end of a run waits for it.
        patience: Duration,
    },
    /// A workspace of Azure ML whose address nobody could tell yet.
    Workspace {
        /// Its names.
        workspace: Workspace,
        /// What says who asks for the address, and how the server there is reached.
        environment: Environment,
        /// The experiment.
        placement: Placement,
        /// How long the end of a run waits for it.
        patience: Duration,
    },
}

impl Place {
    /// Asks a server whether it takes runs.
    ///
    /// # Errors
    /// It refuses the credentials or the experiment. Not that it cannot be reached.
    pub fn check(&self) -> Result<()> {
        match self {
            Place::Folder(_) => Ok(()),
            Place::Server { connection, placement, .. } => {
                Ok(tracking::check_server(connection, placement)?)
            }
            Place::Workspace { workspace, environment, placement, .. } => {
                Ok(tracking::check_workspace(workspace, environment, placement)?)
            }
        }
    }

    /// Lets the place follow a run, whose record is in `folder`. An interrupt ends the wait for a server
    /// at the run's end.
    ///
    /// # Errors
    /// The folder cannot be written, or the server refuses the run.
    pub fn follow(&self, run: &mut Run, folder: &Path, interrupt: &Interrupt) -> Result<()> {
        let until_interrupted = |server: Server| -> Box<dyn Tracker> {
            let interrupt = interrupt.clone();
            Box::new(server.unless(move || interrupt.requested()))
        };
        let tracker = match self {
            Place::Folder(uri) => Box::new(FileStore::open_uri(uri, run.record().info())?),
            Place::Server { connection, placement, patience } => {
                until_interrupted(Server::start(folder, connection, placement, *patience)?)
            }
            Place::Workspace { workspace, environment, placement, patience } => until_interrupted(
                Server::start_in_workspace(folder, workspace, environment, placement, *patience)?,
            ),
        };
        Ok(run.follow(&self.to_string(), tracker)?)
    }
}

/// As messages call it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Folder(uri) => f.write_str(uri),
            Place::Server { connection, .. } => connection.fmt(f),
            Place::Workspace { workspace, .. } => write!(f, "the workspace {workspace}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(config: &TrackingConfig, environment: &[(&str, &str)]) -> String {
        let environment = environment.iter().copied().collect();
        match config.place(&environment).expect("settings").expect("a place") {
            Place::Server { connection, placement, .. } => {
                format!("{connection} {placement} {connection:?}")
            }
            place => panic!("{place:?}"),
        }
    }

    #[test]
    fn passwords_are_used_and_never_shown() {
        let uri = "https://me:s3cret@host/mlflow";
        let config = TrackingConfig { uri: Some(Uri(uri.to_owned())), ..TrackingConfig::default() };
        let copy = toml::to_string(&config).expect("plain data");
        assert!(copy.contains("\"https://host/mlflow\""), "{copy}");
        for text in [copy.clone(), format!("{config:?}"), server(&config, &[])] {
            assert!(!text.contains("s3cret") && !text.contains("//me"), "{text}");
        }
        assert!(server(&config, &[]).contains("in_uri: Some"));
        // A resumed run finds them in the environment.
        let copy: TrackingConfig = toml::from_str(&copy).expect("as written");
        assert!(server(&copy, &[]).contains("in_uri: None"));
        assert!(server(&copy, &[("MLFLOW_TRACKING_URI", uri)]).contains("in_uri: Some"));
        let other = [("MLFLOW_TRACKING_URI", "https://me:s3cret@other/mlflow")];
        assert!(server(&copy, &other).contains("in_uri: None"));
        // There is none in what names a workspace, whatever its file is called.
        let file = TrackingConfig {
            uri: Some(Uri("azureml:/home/me@corp/ws.json".to_owned())),
            ..TrackingConfig::default()
        };
        assert!(toml::to_string(&file).expect("plain data").contains("me@corp/ws.json"));
        // Refusals show none either.
        for uri in ["htp://me:s3cret@host", "http://me:s3cret@", "https://me:s3cret@h/?x"] {
            let config =
                TrackingConfig { uri: Some(Uri(uri.to_owned())), ..TrackingConfig::default() };
            let error = format!("{:?} {config:?}", config.check().expect_err(uri));
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn the_environment_fills_what_is_open() {
        let environment: Environment =
            [("MLFLOW_TRACKING_URI", "http://theirs:5000"), ("MLFLOW_EXPERIMENT_NAME", "clauses")]
                .into_iter()
                .collect();
        let mut config = TrackingConfig::default();
        config.complete(&environment).expect("settings");
        assert_eq!(config.uri, Some(Uri("http://theirs:5000".to_owned())));
        assert_eq!(config.experiment(), "clauses");

        let mut config = TrackingConfig {
            uri: Some(Uri(String::new())),
            experiment_name: Some("mine".to_owned()),
            ..TrackingConfig::default()
        };
        config.complete(&environment).expect("settings");
        assert!(config.place(&environment).expect("settings").is_none(), "switched off");
        config.uri = Some(Uri("file:mlruns".to_owned()));
        assert!(matches!(config.place(&environment), Ok(Some(Place::Folder(_)))));
        assert_eq!(config.experiment(), "mine");

        let uri = "azureml://h.api.azureml.ms/mlflow/v1.0/subscriptions/s/workspaces/w";
        let job = [("MLFLOW_TRACKING_URI", uri), ("MLFLOW_RUN_ID", "the-job")];
        let mut config = TrackingConfig::default();
        config.complete(&job.into_iter().collect()).expect("settings");
        assert_eq!(config.uri, Some(Uri(uri.to_owned())), "as it is named");
        assert!(server(&config, &job).contains(" the-job "));
        config.uri = Some(Uri("http://ours:5000".to_owned()));
        assert!(server(&config, &job).contains("http://ours:5000 Default "));
        // A workspace that nobody told the address of is another than those whose address is known.
        let id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w";
        config.uri = Some(Uri(format!("azureml:{id}")));
        for theirs in ["http://theirs:5000", uri] {
            let job = [("MLFLOW_TRACKING_URI", theirs), ("MLFLOW_RUN_ID", "the-job")];
            match config.place(&job.into_iter().collect()).expect("settings") {
                Some(Place::Workspace { placement, .. }) => {
                    assert_eq!(placement.to_string(), "Default", "not the job's run");
                }
                place => panic!("{place:?}"),
            }
        }
        // Where it is known, nobody is asked.
        let known = format!("azureml://h.api.azureml.ms/mlflow/v1.0{id}");
        let job = [("MLFLOW_TRACKING_URI", known.as_str()), ("MLFLOW_RUN_ID", "the-job")];
        config.locate(&job.into_iter().collect()).expect("known");
        assert_eq!(config.uri, Some(Uri(known.clone())));
        assert!(server(&config, &job).contains(" the-job "));

        let sqlite = [("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")].into_iter().collect();
        let error = TrackingConfig::default().complete(&sqlite).expect_err("no server, no folder");
        assert!(format!("{error:#}").contains("MLFLOW_TRACKING_URI"), "{error:#}");
    }
}
