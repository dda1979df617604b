//! The experiment a run belongs to on a server, or the run that it goes on in, and how they are found
//! there.

use serde::{Deserialize, Serialize};

use super::Client;
use super::address::Address;
use super::environment::Environment;
use crate::limits::{MAX_EXPERIMENT_LENGTH, check_length, of_workspace};
use crate::{Error, Result};

/// The experiment a run belongs to, or the run that it goes on in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// The run with this id, which somebody else made: a service that started this process, say.
    Run(String),
    /// The one of this name, which is created if there is none.
    ExperimentName(String),
    /// The one with this id, which must be there.
    ExperimentId(String),
}

impl Placement {
    /// As settings say: the run that `MLFLOW_RUN_ID` names, with the experiment it has; else the
    /// [`experiment`](Self::experiment).
    ///
    /// # Errors
    /// A name longer than MLflow allows.
    pub fn from_environment(name: Option<&str>, environment: &Environment) -> Result<Self> {
        match environment.text("MLFLOW_RUN_ID") {
            Some(id) => Ok(Self::Run(id.to_owned())),
            None => Self::experiment(name, environment),
        }
    }

    /// As settings say: `name` before `MLFLOW_EXPERIMENT_ID` before `MLFLOW_EXPERIMENT_NAME` before
    /// "Default".
    ///
    /// # Errors
    /// A name longer than MLflow allows.
    pub fn experiment(name: Option<&str>, environment: &Environment) -> Result<Self> {
        let id = environment.text("MLFLOW_EXPERIMENT_ID").filter(|_| name.is_none());
        if let Some(id) = id {
            return Ok(Self::ExperimentId(id.to_owned()));
        }
        let name = name.or_else(|| environment.text("MLFLOW_EXPERIMENT_NAME"));
        let name = name.unwrap_or("Default");
        check_length("experiment name", name, MAX_EXPERIMENT_LENGTH)?;
        Ok(Self::ExperimentName(name.to_owned()))
    }

    /// The run that somebody else made, if that is it.
    pub(super) fn run(&self) -> Option<&str> {
        match self {
            Self::Run(id) => Some(id),
            Self::ExperimentName(_) | Self::ExperimentId(_) => None,
        }
    }

    /// Refuses a name that is longer than the server at this address takes.
    pub(super) fn check(&self, address: &Address) -> Result<()> {
        match (self, address.workspace()) {
            (Self::ExperimentName(name), Some(_)) => {
                check_length("experiment name", name, of_workspace::MAX_EXPERIMENT_LENGTH)
            }
            _ => Ok(()),
        }
    }

    /// The id of the experiment, which is created if need be.
    pub(super) fn find(&self, client: &Client) -> Result<String> {
        self.check(&client.address)?;
        let deleted =
            |kind, name| Error::DeletedOnServer { kind, name, url: client.address.to_string() };
        let found = match self {
            Self::Run(id) => {
                let run = client.run(id)?.info;
                return match run.lifecycle_stage.as_str() {
                    "deleted" => Err(deleted("run", id.clone())),
                    _ => Ok(run.experiment_id),
                };
            }
            Self::ExperimentId(id) => client.experiment(id)?,
            Self::ExperimentName(name) => match client.experiment_by_name(name)? {
                Some(found) => found,
                None => match client.create_experiment(name) {
                    Ok(id) => return Ok(id),
                    // Another client was faster.
                    Err(error) if error.is_present() => {
                        client.experiment_by_name(name)?.ok_or(error)?
                    }
                    Err(error) => return Err(error),
                },
            },
        };
        if found.is_deleted() {
            return Err(deleted("experiment", format!("{:?}", found.name)));
        }
        Ok(found.experiment_id)
    }
}

/// As people call it: the name, or an id.
impl std::fmt::Display for Placement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Run(text) | Self::ExperimentName(text) | Self::ExperimentId(text)) = self;
        f.write_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_go_before_an_id_before_a_name() {
        let environment: Environment =
            [("MLFLOW_EXPERIMENT_ID", "7"), ("MLFLOW_EXPERIMENT_NAME", "clauses")]
                .into_iter()
                .collect();
        let name = |name: &str| Placement::ExperimentName(name.to_owned());
        let found = Placement::from_environment(Some("mine"), &environment).expect("a name");
        assert_eq!(found, name("mine"));
        let found = Placement::from_environment(None, &environment).expect("an id");
        assert_eq!(found, Placement::ExperimentId("7".to_owned()));
        let environment = [("MLFLOW_EXPERIMENT_NAME", "clauses")].into_iter().collect();
        let found = Placement::from_environment(None, &environment).expect("a name");
        assert_eq!(found, name("clauses"));
        let empty = Environment::default();
        assert_eq!(Placement::from_environment(None, &empty).expect("any"), name("Default"));
        assert!(Placement::from_environment(Some(&"x".repeat(501)), &empty).is_err());
        let environment = [("MLFLOW_RUN_ID", "r"), ("MLFLOW_EXPERIMENT_ID", "7")];
        let environment = environment.into_iter().collect();
        let found = Placement::from_environment(Some("mine"), &environment).expect("a run");
        assert_eq!(found.run(), Some("r"));
        assert_eq!(
            Placement::experiment(Some("mine"), &environment).expect("a name"),
            name("mine")
        );
    }
}
