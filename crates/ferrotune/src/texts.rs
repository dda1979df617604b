//! Texts to classify, some at a time: those of a command line, the rows of a file, or lines of standard
//! input. What waits for lines that are slow to come answers each as it comes; what does not, many together.

use anyhow::{Context, Result, anyhow};
use std::io::{BufRead, Error};
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::vec::IntoIter;

/// The most texts that are answered together; of standard input no more are held in memory than this and
/// as many that wait.
const TOGETHER: usize = 8192;

/// A text, with its row in the file that it is from.
pub type Text = (Option<usize>, String);

/// Where texts come from.
pub enum Texts {
    /// All are there.
    Given(IntoIter<Text>),
    /// Lines of standard input.
    Lines(Lines),
}

/// Lines of standard input, as they come.
pub struct Lines {
    /// Each with its line break.
    lines: Receiver<Result<Vec<u8>, Error>>,
    /// How many were taken.
    taken: usize,
    /// What ended them, while the texts before it are answered.
    ended: Option<anyhow::Error>,
}

impl Texts {
    /// The rows of a file.
    ///
    /// # Errors
    /// It cannot be read, is malformed, or lacks the column.
    pub fn of_file(file: &Path, column: &str) -> Result<Texts> {
        let rows = data::read_texts(file, column)?;
        let rows: Vec<Text> = rows.into_iter().map(|(row, text)| (Some(row), text)).collect();
        Ok(Texts::Given(rows.into_iter()))
    }

    /// Those of a command line.
    pub fn of_arguments(texts: &[String]) -> Texts {
        let texts: Vec<Text> = texts.iter().map(|text| (None, text.clone())).collect();
        Texts::Given(texts.into_iter())
    }

    /// The lines of standard input.
    pub fn of_standard_input() -> Texts {
        let (send, lines) = sync_channel(TOGETHER);
        // It ends with its input, or with the process.
        std::thread::spawn(move || {
            let mut input = std::io::stdin().lock();
            loop {
                let mut line = Vec::new();
                let read = match input.read_until(b'\n', &mut line) {
                    Ok(0) => return,
                    Ok(_) => Ok(line),
                    Err(error) => Err(error),
                };
                let failed = read.is_err();
                if send.send(read).is_err() || failed {
                    return;
                }
            }
        });
        Texts::Lines(Lines { lines, taken: 0, ended: None })
    }

    /// How many there are, where that is known.
    pub fn count(&self) -> Option<usize> {
        match self {
            Texts::Given(texts) => Some(texts.len()),
            Texts::Lines(..) => None,
        }
    }

    /// The next, in order; none at the end.
    ///
    /// # Errors
    /// Standard input cannot be read, or a line of it is not UTF-8: told once the texts before it are taken.
    pub fn next(&mut self) -> Result<Vec<Text>> {
        let lines = match self {
            Texts::Given(texts) => return Ok(texts.take(TOGETHER).collect()),
            Texts::Lines(lines) => lines,
        };
        let mut texts = Vec::new();
        while lines.ended.is_none() && texts.len() < TOGETHER {
            match lines.next(texts.is_empty()) {
                Ok(Some(text)) => texts.push((None, text)),
                Ok(None) => break,
                Err(error) => lines.ended = Some(error),
            }
        }
        match lines.ended.take_if(|_| texts.is_empty()) {
            Some(error) => Err(error),
            None => Ok(texts),
        }
    }
}

impl Lines {
    /// The next line, if there is one; it is waited for if need be.
    fn next(&mut self, wait: bool) -> Result<Option<String>> {
        let line = if wait { self.lines.recv().ok() } else { self.lines.try_recv().ok() };
        let Some(line) = line else { return Ok(None) };
        let mut line = line.context("cannot read standard input")?;
        self.taken += 1;
        if line.pop_if(|last| *last == b'\n').is_some() {
            line.pop_if(|last| *last == b'\r');
        }
        let number = self.taken;
        let text = String::from_utf8(line);
        text.map(Some).map_err(|_| anyhow!("line {number} of standard input is not UTF-8 text"))
    }
}
