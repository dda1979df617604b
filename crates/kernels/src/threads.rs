//! The threads that kernels share their work among.
//!
//! An operation of a small model takes a few hundred microseconds, and an encoder runs hundreds of
//! them in turn: to wake a sleeping thread for each costs more than a tenth of the time. The threads
//! of a [`Threads`] therefore watch for the next operation for a moment before they sleep, as
//! OpenMP's do. Items are handed out in turn to whoever is free; kernels cut their work so that no
//! item's bits depend on who computes it.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, iter, thread};

/// How long a thread watches for the next operation before it sleeps.
const WATCH: Duration = Duration::from_micros(200);

/// A fixed number of threads, the one that calls [`run`](Threads::run) among them.
#[derive(Debug)]
pub struct Threads {
    team: Arc<Team>,
    helpers: Vec<JoinHandle<()>>,
}

impl Threads {
    /// As many threads as `count` says, or one per core.
    ///
    /// # Errors
    /// The system starts no more threads.
    pub fn new(count: Option<usize>) -> io::Result<Threads> {
        let count = match count {
            Some(count) => count.max(1),
            None => thread::available_parallelism()?.get(),
        };
        let mut threads = Threads { team: Arc::default(), helpers: Vec::new() };
        for index in 1..count {
            let team = threads.team.clone();
            let name = format!("kernels {index}");
            let helper = thread::Builder::new().name(name).spawn(move || team.help())?;
            threads.helpers.push(helper);
        }
        Ok(threads)
    }

    /// Runs `f` on the calling thread; the kernels that it calls use all of these threads.
    pub fn run<R>(&self, f: impl FnOnce() -> R) -> R {
        with_current(Current { team: &raw const *self.team, count: self.count() }, f)
    }

    /// Number of threads.
    pub fn count(&self) -> usize {
        1 + self.helpers.len()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.team.open(ENDED);
        for helper in self.helpers.drain(..) {
            helper.join().expect("a helper catches the panics of its tasks");
        }
    }
}

/// The team that kernels called on this thread use.
#[derive(Clone, Copy)]
struct Current {
    team: *const Team,
    count: usize,
}

const ALONE: Current = Current { team: std::ptr::null(), count: 1 };

thread_local!(static CURRENT: Cell<Current> = const { Cell::new(ALONE) });

fn with_current<R>(current: Current, f: impl FnOnce() -> R) -> R {
    struct Restore(Current);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    let _restore = Restore(CURRENT.replace(current));
    f()
}

/// Number of threads that [`for_each`] uses here.
pub(crate) fn count() -> usize {
    CURRENT.get().count
}

/// Calls `f` for every item, on the current threads; on this one alone outside [`Threads::run`]
/// and inside another `for_each`.
pub(crate) fn for_each<T: Send>(mut items: impl Iterator<Item = T> + Send, f: impl Fn(T) + Sync) {
    let current = CURRENT.get();
    if current.count == 1 {
        return items.for_each(f);
    }
    let (Some(first), second) = (items.next(), items.next()) else { return };
    if second.is_none() {
        return f(first);
    }
    let items = Mutex::new(iter::once(first).chain(second).chain(items));
    let work = || {
        loop {
            // The lock is held while the item is taken, not while it is worked on.
            let item = locked(&items).next();
            match item {
                Some(item) => f(item),
                None => return,
            }
        }
    };
    // SAFETY: `Threads::run` keeps the team alive and takes it from `CURRENT` when it returns.
    unsafe { (*current.team).share(&work) };
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Number that `Team::round` never reaches: the end of the team.
const ENDED: u64 = u64::MAX;
/// `Team::round` between operations.
const CLOSED: u64 = 0;

/// What the threads of a team see of each other.
#[derive(Default)]
struct Team {
    /// One operation at a time; its number, counted from 1.
    turn: Mutex<u64>,
    /// The operation that helpers may join, or [`CLOSED`], or [`ENDED`].
    round: AtomicU64,
    /// Valid while an operation is open or has helpers.
    work: UnsafeCell<Option<*const (dyn Fn() + Sync)>>,
    /// Helpers inside the open operation.
    inside: AtomicUsize,
    sleeping: AtomicUsize,
    bed: Mutex<()>,
    bell: Condvar,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `work` is written by the thread that holds `turn` while the operation is closed and no
// helper is inside, and read by helpers that are inside an open one.
unsafe impl Send for Team {}
// SAFETY: as above.
unsafe impl Sync for Team {}

impl std::fmt::Debug for Team {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Team").finish_non_exhaustive()
    }
}

impl Team {
    /// Runs `work` on this thread and on whichever helpers come in time; returns when all have left.
    fn share(&self, work: &(dyn Fn() + Sync)) {
        struct Close<'a>(&'a Team);
        impl Drop for Close<'_> {
            fn drop(&mut self) {
                self.0.round.store(CLOSED, SeqCst);
                // A helper that comes from now on finds the operation closed and leaves at once.
                while self.0.inside.load(SeqCst) > 0 {
                    std::hint::spin_loop();
                }
            }
        }
        let mut turn = locked(&self.turn);
        *turn += 1;
        *locked(&self.panic) = None;
        // SAFETY: only the lifetime is taken from the type; `Close` waits until no helper holds the
        // reference. Nobody else touches `work`: the operation is closed and its helpers left.
        unsafe {
            let work: *const (dyn Fn() + Sync) = std::mem::transmute(&raw const *work);
            *self.work.get() = Some(work);
        }
        self.open(*turn);
        let close = Close(self);
        alone(work);
        drop(close);
        drop(turn);
        let panic = locked(&self.panic).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Sets `round` and wakes who sleeps.
    fn open(&self, round: u64) {
        self.round.store(round, SeqCst);
        // A helper counts itself as sleeping before it looks at `round` for the last time: either
        // it sees the new one, or it is seen here.
        if self.sleeping.load(SeqCst) > 0 {
            drop(locked(&self.bed));
            self.bell.notify_all();
        }
    }

    /// A helper's life.
    fn help(&self) {
        let mut last = CLOSED;
        loop {
            last = self.next_round(last);
            if last == ENDED {
                return;
            }
            self.inside.fetch_add(1, SeqCst);
            // Whoever closes the operation sees this helper inside, or this helper sees it closed.
            if self.round.load(SeqCst) == last {
                // SAFETY: the operation is open, so `work` is valid until this helper leaves.
                let work = unsafe { (*self.work.get()).map(|work| &*work) };
                if let Some(work) = work
                    && let Err(panic) = catch_unwind(AssertUnwindSafe(|| alone(work)))
                {
                    *locked(&self.panic) = Some(panic);
                }
            }
            self.inside.fetch_sub(1, SeqCst);
        }
    }

    /// Waits for an operation other than `last`.
    fn next_round(&self, last: u64) -> u64 {
        let new = || {
            let round = self.round.load(SeqCst);
            (round != CLOSED && round != last).then_some(round)
        };
        let start = Instant::now();
        while start.elapsed() < WATCH {
            for _ in 0..64 {
                if let Some(round) = new() {
                    return round;
                }
                std::hint::spin_loop();
            }
            // Where threads are more than cores, another one may be what everybody waits for.
            thread::yield_now();
        }
        let mut bed = locked(&self.bed);
        self.sleeping.fetch_add(1, SeqCst);
        let round = loop {
            if let Some(round) = new() {
                break round;
            }
            bed = self.bell.wait(bed).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleeping.fetch_sub(1, SeqCst);
        round
    }
}

/// Runs a member's part, inside which every further operation stays on its thread.
fn alone(work: &(dyn Fn() + Sync)) {
    with_current(ALONE, work);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each of `count` items was handed out.
    fn handed_out(count: usize) -> Vec<usize> {
        let seen: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
        for_each(0..count, |item| {
            seen[item].fetch_add(1, SeqCst);
        });
        seen.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_item_is_handed_out_once() {
        for threads in [1, 2, 5] {
            let threads = Threads::new(Some(threads)).unwrap();
            for count in [0, 1, 2, 3, 100, 1000] {
                assert_eq!(threads.run(|| handed_out(count)), vec![1; count]);
            }
        }
    }

    #[test]
    fn helpers_come_back_from_sleep() {
        let threads = Threads::new(Some(3)).unwrap();
        threads.run(|| {
            for round in 0..200 {
                if round % 20 == 0 {
                    thread::sleep(2 * WATCH);
                }
                assert_eq!(handed_out(7), [1; 7]);
            }
        });
    }

    #[test]
    fn all_threads_take_part() {
        let threads = Threads::new(Some(3)).unwrap();
        let barrier = std::sync::Barrier::new(3);
        // Hangs if one thread is given two items.
        threads.run(|| {
            for_each(0..3, |_| {
                barrier.wait();
            })
        });
    }

    #[test]
    fn an_operation_inside_another_stays_on_its_thread() {
        let threads = Threads::new(Some(2)).unwrap();
        threads.run(|| {
            for_each(0..8, |_| {
                let here = thread::current().id();
                for_each(0..8, |_| assert_eq!(thread::current().id(), here));
            });
            assert_eq!(count(), 2);
        });
        assert_eq!(count(), 1);
    }

    #[test]
    fn two_callers_take_turns() {
        let threads = Threads::new(Some(2)).unwrap();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    threads.run(|| (0..500).for_each(|_| assert_eq!(handed_out(5), [1; 5])));
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_threads_go_on() {
        let threads = Threads::new(Some(2)).unwrap();
        for bad in 0..6 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                threads.run(|| for_each(0..6, |item| assert_ne!(item, bad)));
            }));
            assert!(result.is_err());
            assert_eq!(threads.run(|| handed_out(6)), [1; 6]);
        }
    }
}
