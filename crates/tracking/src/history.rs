//! `metrics.jsonl`, the history of a run's metrics: one point per line, in the order logged; NaN and
//! the infinities are strings.
//!
//! A last line torn by a crash is left out; a damaged line before the last is refused with its
//! number. `undone.jsonl` beside it keeps what a rewind took back: a resumed run computes the same
//! points again, and they then keep the time at which they were first measured, so that a server
//! that has them already has nothing twice.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::at;
use crate::{Error, Metric, Result};

const METRICS: &str = "metrics.jsonl";
const UNDONE: &str = "undone.jsonl";

/// The file of a run folder.
pub(crate) fn path(folder: &Path) -> PathBuf {
    folder.join(METRICS)
}

/// A point as its line.
pub(crate) fn line(metric: &Metric) -> String {
    serde_json::to_string(metric).expect("strings and numbers are JSON") + "\n"
}

/// The points of whole lines, and the length of those lines in bytes.
pub(crate) fn read(path: &Path) -> Result<(Vec<Metric>, u64)> {
    let bytes = fs::read(path).map_err(at("read", path))?;
    let end = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |last| last + 1);
    let (mut history, mut whole) = (Vec::new(), 0);
    for (n, text) in bytes[..end].split_inclusive(|&b| b == b'\n').enumerate() {
        match serde_json::from_slice(text) {
            Ok(metric) => history.push(metric),
            Err(_) if whole + text.len() == bytes.len() => break, // torn in the last write
            Err(error) => {
                let (path, line) = (path.to_path_buf(), Some(n + 1));
                return Err(Error::Damaged { path, line, reason: error.to_string() });
            }
        }
        whole += text.len();
    }
    Ok((history, whole as u64))
}

/// How far a history was read: the bytes before, of which the last line is kept to see whether it
/// is still the same history.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    bytes: u64,
    last: String,
}

/// Up to `limit` points after a place, and the place after them. From the start if the history is
/// no longer the one that the place is of.
pub(crate) fn after(path: &Path, place: &Place, limit: usize) -> Result<(Vec<Metric>, Place)> {
    let mut file = File::open(path).map_err(at("read", path))?;
    let mut place = if is_in(&mut file, place).map_err(at("read", path))? {
        place.clone()
    } else {
        Place::default()
    };
    file.seek(SeekFrom::Start(place.bytes)).map_err(at("read", path))?;
    let (mut reader, mut points, mut text) = (BufReader::new(file), Vec::new(), String::new());
    while points.len() < limit {
        text.clear();
        reader.read_line(&mut text).map_err(at("read", path))?;
        // A line that is being written is read another time.
        let Some(metric) = text.ends_with('\n').then(|| serde_json::from_str(&text)) else { break };
        points.push(metric.map_err(|error: serde_json::Error| Error::Damaged {
            path: path.to_path_buf(),
            line: None,
            reason: format!("{error} at byte {}", place.bytes),
        })?);
        place.bytes += text.len() as u64;
        place.last.clone_from(&text);
    }
    Ok((points, place))
}

fn is_in(file: &mut File, place: &Place) -> std::io::Result<bool> {
    let length = place.last.len() as u64;
    if file.metadata()?.len() < place.bytes || place.bytes < length {
        return Ok(false);
    }
    let mut found = vec![0; place.last.len()];
    file.seek(SeekFrom::Start(place.bytes - length))?;
    file.read_exact(&mut found)?;
    Ok(found == place.last.as_bytes())
}

/// Points that a rewind took back and that were not logged again, by name and step.
#[derive(Debug, Default)]
pub(crate) struct Undone(BTreeMap<(String, i64), Vec<Metric>>);

impl Undone {
    /// Those of a run folder with this history.
    pub fn read(folder: &Path, history: &[Metric]) -> Result<Self> {
        let path = folder.join(UNDONE);
        let mut undone = Self::default();
        if path.exists() {
            undone.extend(read(&path)?.0);
            for metric in history {
                undone.take(metric, true);
            }
        }
        Ok(undone)
    }

    /// Keeps what a rewind is about to take back.
    pub fn keep(&mut self, folder: &Path, points: Vec<Metric>) -> Result<()> {
        if points.is_empty() {
            return Ok(());
        }
        self.extend(points);
        let lines = self.0.values().flatten().map(line).collect::<String>();
        Ok(durable::write(&folder.join(UNDONE), lines.as_bytes())?)
    }

    /// A point about to be logged, at the time it was measured first.
    pub fn redo(&mut self, metric: &Metric) -> Metric {
        self.take(metric, false).unwrap_or_else(|| metric.clone())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn extend(&mut self, points: Vec<Metric>) {
        for metric in points {
            self.0.entry((metric.key.clone(), metric.step)).or_default().push(metric);
        }
    }

    /// Takes out the point with the same name, step and value, and time if that counts.
    fn take(&mut self, metric: &Metric, same_time: bool) -> Option<Metric> {
        let place = (metric.key.clone(), metric.step);
        let kept = self.0.get_mut(&place)?;
        let found = kept.iter().position(|kept| {
            let timestamp_ms = if same_time { metric.timestamp_ms } else { kept.timestamp_ms };
            *kept == Metric { timestamp_ms, ..metric.clone() }
        })?;
        let metric = kept.remove(found);
        if kept.is_empty() {
            self.0.remove(&place);
        }
        Some(metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(steps: std::ops::Range<i64>) -> Vec<Metric> {
        steps
            .map(|step| Metric {
                key: "loss".to_owned(),
                value: 1.0 / step as f64,
                step,
                timestamp_ms: 1000 + step,
            })
            .collect()
    }

    fn write(path: &Path, points: &[Metric], torn: &str) {
        let lines = points.iter().map(line).collect::<String>() + torn;
        durable::write(path, lines.as_bytes()).expect("write");
    }

    #[test]
    fn a_history_is_read_in_pieces_and_anew_when_it_is_another() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("metrics.jsonl");
        write(&path, &points(0..5), "{\"key\":\"lo");
        let (found, place) = after(&path, &Place::default(), 3).expect("read");
        assert_eq!(found, points(0..3));
        let (found, place) = after(&path, &place, 3).expect("read");
        assert_eq!(found, points(3..5), "not the line that is being written");
        write(&path, &points(0..7), "");
        let (found, place) = after(&path, &place, 9).expect("read");
        assert_eq!(found, points(5..7));
        assert_eq!(after(&path, &place, 9).expect("read"), (Vec::new(), place.clone()));
        for other in [points(0..3), points(10..30)] {
            write(&path, &other, "");
            assert_eq!(after(&path, &place, 99).expect("read").0, other);
        }
    }

    #[test]
    fn what_is_done_again_keeps_its_time() {
        let folder = tempfile::tempdir().expect("folder");
        let mut undone = Undone::default();
        undone.keep(folder.path(), points(3..6)).expect("kept");
        let mut undone = Undone::read(folder.path(), &points(3..4)).expect("read");
        let again = |n: usize| Metric { timestamp_ms: 9999, ..points(0..9)[n].clone() };
        assert_eq!(undone.redo(&again(4)), points(0..9)[4]);
        assert_eq!(undone.redo(&again(4)), again(4), "only once");
        let other = Metric { value: 0.5, ..again(5) };
        assert_eq!(undone.redo(&other), other, "another value was measured another time");
        assert!(!undone.is_empty());
        assert_eq!(undone.redo(&again(5)), points(0..9)[5]);
        assert!(undone.is_empty());
    }
}
