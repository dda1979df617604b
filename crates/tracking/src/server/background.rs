//! [`Server`], the tracker of MLflow servers: a thread that sends what the record has.
//!
//! Nothing that is logged waits for the server: the record is on disk already, and a call here only
//! wakes the thread. An outage is told once and tried over with growing waits, as
//! [`Retry`](super::Retry) says; whatever the server could not be told is in the record, from which
//! [`sync`](super::sync) or a resumed run sends it later.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::sender::Sender;
use super::{Client, Connection, Environment, Placement, Retry};
use crate::azure::{Management, Workspace};
use crate::error::{Failure, at};
use crate::{Dataset, Error, Metric, Model, Result, Status, Tracker};

/// How long the start of a run waits to learn whether the server takes it.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// Points are gathered for this long, so that a fast loop does not make a request of each.
const GATHER: Duration = Duration::from_secs(1);
/// Who was told to stop does not want to wait long.
const PATIENCE_KILLED: Duration = Duration::from_secs(5);
/// How often a wait for the end looks whether someone asks for it.
const LOOK: Duration = Duration::from_millis(100);

/// A run on an MLflow server, fed from the record in its folder.
pub struct Server {
    address: String,
    shared: Arc<Shared>,
    /// Counts what the server took.
    taken: Arc<AtomicU64>,
    patience: Duration,
    /// Whether someone asks the process to end.
    ending: Box<dyn Fn() -> bool + Send>,
}

/// What the thread and its owner tell each other.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Calls that asked for something to be sent, and how many of them a whole pass has served.
    asked: u64,
    served: u64,
    /// The answer to the first request.
    contact: Option<Result<()>>,
    /// Somebody waits for the end: no gathering.
    hurry: bool,
    /// Whether the thread is to end as soon as it can.
    closing: bool,
    /// What the last try ended with, and what was refused for good.
    trouble: Option<String>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps until `ready`, at most until the deadline.
    fn wait_until<'a>(
        &self,
        state: MutexGuard<'a, State>,
        deadline: Instant,
        ready: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout_while(state, left, |state| !ready(state));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Asks a server once whether it takes runs of this experiment, which is created if need be: for
/// before anything costs time.
///
/// # Errors
/// What the server refuses: the credentials, the experiment; certificates that cannot be read. Not
/// that there is no answer within 5 s, or none of MLflow's.
pub fn check_server(connection: &Connection, placement: &Placement) -> Result<()> {
    let mut once = connection.once();
    once.timeout = once.timeout.min(FIRST_ANSWER);
    let client = Client::new(&once)?;
    let placement = placement.clone();
    match answer_within(FIRST_ANSWER, move || placement.find(&client))? {
        Some(Err(error)) if is_fatal(&error) => Err(error),
        _ => Ok(()),
    }
}

/// The answer to a question that may take several requests, to a sign-in as well, if it comes in time. A
/// thread that has none yet is left.
pub(crate) fn answer_within<T: Send + 'static>(
    time: Duration,
    ask: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<Option<Result<T>>> {
    let (answer, answered) = std::sync::mpsc::channel();
    std::thread::Builder::new()
        .name("mlflow-check".to_owned())
        .spawn(move || answer.send(ask()).ok())
        .map_err(at("start a thread for", Path::new("the check of a server")))?;
    Ok(answered.recv_timeout(time).ok())
}

/// Checks what can be checked of a workspace whose address nobody could tell yet.
///
/// # Errors
/// A setting of the environment that cannot be used; an experiment's name that is too long.
pub fn check_workspace(
    workspace: &Workspace,
    environment: &Environment,
    placement: &Placement,
) -> Result<()> {
    placement.check(&workspace.connection(environment)?.address)
}

impl Server {
    /// Sends the run whose record is in `folder` to a server from now on. A run that an earlier
    /// process sent there is the same one there. `patience` is how long the end of a run waits for
    /// a server that does not get on (5 s at most where the run was killed).
    ///
    /// # Errors
    /// What the server refuses: the credentials, the experiment; certificates that cannot be read.
    /// A server that does not answer is none: the user is told, and it is tried again.
    pub fn start(
        folder: &Path,
        connection: &Connection,
        placement: &Placement,
        patience: Duration,
    ) -> Result<Self> {
        let (folder, placement) = (folder.to_path_buf(), placement.clone());
        let once = connection.once();
        let find = move || Sender::new(&folder, &once, &placement);
        let sender = Some(find()?);
        Self::launch(connection.to_string(), sender, find, &connection.retry, patience)
    }

    /// The same for a workspace whose address nobody could tell yet: it is asked for until it is known.
    ///
    /// # Errors
    /// What is answered within 5 s: that there is no such workspace, or not for this identity.
    pub fn start_in_workspace(
        folder: &Path,
        workspace: &Workspace,
        environment: &Environment,
        placement: &Placement,
        patience: Duration,
    ) -> Result<Self> {
        let (folder, workspace) = (folder.to_path_buf(), workspace.clone());
        let (environment, placement) = (environment.clone(), placement.clone());
        let retry = Retry::from_environment(&environment)?;
        let address = format!("the workspace {workspace}");
        let mut management = None;
        let find = move || {
            let asked = match &mut management {
                Some(asked) => asked,
                None => management.insert(Management::new(&workspace, &environment)?),
            };
            let connection = Connection::from_environment(&asked.tracking_uri()?, &environment)?;
            Sender::new(&folder, &connection.once(), &placement)
        };
        Self::launch(address, None, find, &retry, patience)
    }

    /// Starts the thread, which decides when to try again, so that it can be woken.
    fn launch(
        address: String,
        sender: Option<Sender>,
        find: impl FnMut() -> Result<Sender> + Send + 'static,
        retry: &Retry,
        patience: Duration,
    ) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let taken = sender.as_ref().map(|sender| Arc::clone(&sender.taken)).unwrap_or_default();
        let mut sending = Sending {
            address: address.clone(),
            sender,
            find: Box::new(find),
            taken: Arc::clone(&taken),
            retry: retry.clone(),
            shared: Arc::clone(&shared),
        };
        std::thread::Builder::new()
            .name("mlflow".to_owned())
            .spawn(move || sending.run())
            .map_err(at("start a thread for", Path::new(&address)))?;
        let server = Self { address, shared, taken, patience, ending: Box::new(|| false) };
        let deadline = Instant::now() + FIRST_ANSWER.min(patience);
        let mut state = server
            .shared
            .wait_until(server.shared.lock(), deadline, |state| state.contact.is_some());
        match state.contact.take() {
            Some(Err(error)) if is_fatal(&error) => return Err(error),
            Some(Err(error)) => state.trouble = Some(tell(&server.address, &error.to_string())),
            Some(Ok(())) => {}
            None => {
                let reason =
                    format!("no answer for {} s", FIRST_ANSWER.min(patience).as_secs_f64());
                state.trouble = Some(tell(&server.address, &reason));
            }
        }
        drop(state);
        Ok(server)
    }

    /// How it is known, at the end of a run, that someone asks the process to end: the server then has
    /// 5 s more, whatever the patience.
    #[must_use]
    pub fn unless(mut self, ending: impl Fn() -> bool + Send + 'static) -> Self {
        self.ending = Box::new(ending);
        self
    }

    /// Waits until the server has all that was logged so far; as long as it takes what it is sent,
    /// or at most for `patience` where that is all there is.
    ///
    /// # Errors
    /// [`Error::Behind`] when nothing got on for `patience`, when there was no more time, or when the
    /// server refuses a part.
    pub fn drain(&self, patience: Duration, at_most: bool) -> Result<()> {
        let mut state = self.shared.lock();
        state.asked += 1;
        state.hurry = true;
        let asked = state.asked;
        self.shared.changed.notify_all();
        let start = Instant::now();
        let (mut taken, mut deadline) = (self.taken.load(Ordering::Relaxed), start + patience);
        let mut last = at_most;
        while state.served < asked && Instant::now() < deadline {
            if !last && (self.ending)() {
                last = true;
                deadline = deadline.min(Instant::now() + PATIENCE_KILLED);
            }
            let look = deadline.min(Instant::now() + LOOK);
            state = self.shared.wait_until(state, look, |s| s.served >= asked);
            let now_taken = self.taken.load(Ordering::Relaxed);
            if !last && now_taken != taken {
                (taken, deadline) = (now_taken, Instant::now() + patience);
            }
        }
        state.hurry = false;
        let reason = match (state.served >= asked, &state.trouble) {
            (true, None) => return Ok(()),
            (_, Some(trouble)) => trouble.clone(),
            (false, None) => {
                format!("not all is sent after {:.1} s", start.elapsed().as_secs_f64())
            }
        };
        Err(Error::Behind { url: self.address.clone(), reason })
    }

    fn wake(&self) {
        self.shared.lock().asked += 1;
        self.shared.changed.notify_all();
    }
}

/// The thread ends by itself; a request under way is left to it.
impl Drop for Server {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.changed.notify_all();
    }
}

/// The record has it: all that is left to do is to send it.
impl Tracker for Server {
    fn log_params(&mut self, _: &[(String, String)]) -> Result<()> {
        self.wake();
        Ok(())
    }

    fn set_tags(&mut self, _: &[(String, String)]) -> Result<()> {
        self.wake();
        Ok(())
    }

    fn log_metrics(&mut self, _: &[Metric]) -> Result<()> {
        self.wake();
        Ok(())
    }

    fn log_dataset(&mut self, _: &Dataset) -> Result<()> {
        self.wake();
        Ok(())
    }

    fn log_artifact(&mut self, _: &Path, _: &str) -> Result<()> {
        self.wake();
        Ok(())
    }

    fn log_model(&mut self, _: &Model) -> Result<()> {
        self.wake();
        Ok(())
    }

    fn rewind(&mut self, _: &[Metric]) -> Result<()> {
        self.wake();
        Ok(())
    }

    /// The record is safe, and so is what the server is to get.
    fn sync(&mut self) -> Result<()> {
        self.wake();
        Ok(())
    }

    fn finish(&mut self, status: Status, _: i64) -> Result<()> {
        match status {
            Status::Killed => self.drain(self.patience.min(PATIENCE_KILLED), true),
            _ => self.drain(self.patience, false),
        }
    }
}

/// What the thread works with.
struct Sending {
    /// What messages call the place.
    address: String,
    /// What sends, once it is known where to; until then, `find` makes it.
    sender: Option<Sender>,
    find: Box<dyn FnMut() -> Result<Sender> + Send>,
    taken: Arc<AtomicU64>,
    retry: Retry,
    shared: Arc<Shared>,
}

impl Sending {
    fn run(&mut self) {
        let shared = Arc::clone(&self.shared);
        let contact = self.sender().and_then(Sender::contact);
        let lost = contact.is_err();
        shared.lock().contact = Some(contact);
        shared.changed.notify_all();
        let mut failures = u32::from(lost);
        let mut told = lost;
        if lost {
            // Somebody reads of it as the answer to the first request.
            pause(&shared, self.retry.backoff_factor);
        }
        loop {
            let mut state = shared.lock();
            let far = Instant::now() + Duration::from_secs(3600);
            state = shared.wait_until(state, far, |s| s.closing || s.asked > s.served);
            if state.closing {
                return;
            }
            let asked = state.asked;
            drop(state);
            let taken = self.taken.load(Ordering::Relaxed);
            let sent = self.pass();
            if taken != self.taken.load(Ordering::Relaxed) {
                // What fails now is another thing than before.
                failures = 0;
            }
            let mut state = shared.lock();
            match sent {
                Ok(refusal) => {
                    failures = 0;
                    state.served = asked;
                    state.trouble = refusal;
                    shared.changed.notify_all();
                    let deadline = Instant::now() + GATHER;
                    drop(shared.wait_until(state, deadline, |s| s.closing || s.hurry));
                }
                Err(error) => {
                    failures += 1;
                    let text = error.to_string();
                    state.trouble = Some(if told { text } else { tell(&self.address, &text) });
                    told = true;
                    // Somebody who waits for the end is not left waiting for a long pause to pass.
                    let hurry = state.hurry;
                    let deadline = Instant::now() + self.retry.wait(failures, &error);
                    let state =
                        shared.wait_until(state, deadline, |s| s.closing || (s.hurry && !hurry));
                    if state.hurry && !hurry {
                        failures = 0;
                    }
                }
            }
        }
    }

    /// Sends what there is, and tells what is refused for good.
    fn pass(&mut self) -> Result<Option<String>> {
        let sender = self.sender()?;
        sender.pass()?;
        Ok(sender.refusals().next().map(|(part, error)| format!("{part}: {error}")))
    }

    fn sender(&mut self) -> Result<&mut Sender> {
        let sender = match self.sender.take() {
            Some(known) => known,
            None => {
                let mut found = (self.find)()?;
                found.taken = Arc::clone(&self.taken);
                found
            }
        };
        Ok(self.sender.insert(sender))
    }
}

fn pause(shared: &Shared, seconds: f64) {
    let deadline = Instant::now() + Duration::from_secs_f64(seconds);
    drop(shared.wait_until(shared.lock(), deadline, |s| s.closing || s.hurry));
}

/// Whether a run should not start: someone is there, and says no.
fn is_fatal(error: &Error) -> bool {
    matches!(error.failure(), Failure::Credentials | Failure::Final)
}

/// Tells people once that the server does not get what is logged.
fn tell(address: &str, reason: &str) -> String {
    tracing::warn!(
        "{address} does not take the run now ({reason}); the run goes on, and is sent from its \
         folder once that is over"
    );
    reason.to_owned()
}
