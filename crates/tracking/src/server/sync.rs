//! Brings a server to equality with a record, and makes sure of it by reading back what it has.

use std::collections::BTreeSet;
use std::path::Path;

use super::progress::Progress;
use super::sender::Sender;
use super::{Client, Connection, Placement};
use crate::history;
use crate::{Error, Metric, Result};

/// What a server has after a [`sync`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced {
    /// The run as the server calls it.
    pub run_id: String,
    /// Where a browser shows it.
    pub page: Option<String>,
    /// Metric points of the record, all of which the server has.
    pub points: usize,
}

/// Sends whatever a server lacks of the run in `folder`, and compares. With `replace`, all of it as
/// a new run, after which the one that was there is deleted: a server takes no point back, so that
/// is the way to be rid of points that the record does not have (any more).
///
/// # Errors
/// [`Error::Differs`] if the server has other points than the record; a part that the server
/// refuses; what the record, the server or the way to it answers.
pub fn sync(
    folder: &Path,
    connection: &Connection,
    placement: &Placement,
    replace: bool,
) -> Result<Synced> {
    // Whoever waits is told soon that nobody is there.
    let mut twice = connection.clone();
    twice.retry.retries = twice.retry.retries.min(1);
    let mut sender = Sender::new(folder, &twice, placement)?;
    sender.contact()?;
    sender.client = Client::new(connection)?;
    if let (true, Some(id)) = (replace, sender.progress.placement.run()) {
        return Err(Error::Setting {
            name: "MLFLOW_RUN_ID".to_owned(),
            reason: format!("run {id} was made by somebody else and is not replaced"),
        });
    }
    // One that was begun and broken off goes on.
    if replace && sender.progress.replaces.is_none() {
        let old = std::mem::replace(
            &mut sender.progress,
            Progress::new(&connection.to_string(), placement),
        );
        sender.progress.placement = old.placement;
        sender.progress.experiment_id = old.experiment_id;
        sender.progress.replaces = old.run.map(|run| run.run_id);
    }
    sender.pass()?;
    let difference = difference(&sender)?;
    if let Some((_, error)) = sender.take_refusals().into_iter().next() {
        return Err(error);
    }
    if let Some(old) = sender.progress.replaces.take() {
        sender.client.delete_run(&old)?;
        sender.progress.save(&sender.folder)?;
    }
    let Difference { run_id, points, .. } = difference.refuse(&sender.progress.address)?;
    Ok(Synced { run_id, page: sender.progress.page(), points })
}

/// Refuses a server whose metrics are not the record's.
pub(super) fn compare(sender: &Sender) -> Result<()> {
    difference(sender)?.refuse(&sender.progress.address).map(drop)
}

/// How the metrics of a run on a server differ from the record.
struct Difference {
    run_id: String,
    points: usize,
    /// Points of the record that the server lacks.
    missing: usize,
    /// Points of the server that are not in the record.
    extra: usize,
}

impl Difference {
    fn refuse(self, address: &str) -> Result<Self> {
        let Self { ref run_id, missing, extra, .. } = self;
        if missing + extra > 0 {
            let (run_id, url) = (run_id.clone(), address.to_owned());
            return Err(Error::Differs { run_id, url, missing, extra });
        }
        Ok(self)
    }
}

fn difference(sender: &Sender) -> Result<Difference> {
    let run_id = sender.progress.run.as_ref().map(|run| run.run_id.clone()).unwrap_or_default();
    let (history, _) = history::read(&history::path(&sender.folder))?;
    let run = sender.client.run(&run_id)?;
    let ours: BTreeSet<_> = history.iter().map(stored).collect();
    // Who made the run may have metrics of their own in it.
    let all_ours = sender.progress.placement.run().is_none();
    let theirs = run.data.metrics.iter().filter(|_| all_ours);
    let keys: BTreeSet<_> = history.iter().chain(theirs).map(|m| m.key.as_str()).collect();
    let mut theirs = BTreeSet::new();
    for key in keys {
        theirs.extend(sender.client.metric_history(&run_id, key)?.iter().map(stored));
    }
    Ok(Difference {
        run_id,
        points: history.len(),
        missing: ours.difference(&theirs).count(),
        extra: theirs.difference(&ours).count(),
    })
}

/// A point as MLflow's database keeps it: once, without infinities, without a negative zero.
fn stored(metric: &Metric) -> (String, i64, i64, u64) {
    let value = match metric.value {
        value if value.is_nan() => f64::NAN,
        value => value.clamp(f64::MIN, f64::MAX) + 0.0,
    };
    (metric.key.clone(), metric.step, metric.timestamp_ms, value.to_bits())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_compared_as_a_database_keeps_them() {
        let point = |value| Metric { key: "a".to_owned(), value, step: 1, timestamp_ms: 2 };
        assert_eq!(stored(&point(-0.0)), stored(&point(0.0)));
        assert_eq!(stored(&point(f64::INFINITY)), stored(&point(f64::MAX)));
        assert_eq!(stored(&point(f64::NEG_INFINITY)), stored(&point(f64::MIN)));
        assert_eq!(stored(&point(f64::NAN)), stored(&point(-f64::NAN)));
        assert_ne!(stored(&point(0.1)), stored(&point(0.2)));
    }
}
