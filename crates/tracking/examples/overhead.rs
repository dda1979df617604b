//! What tracking costs a training loop: 2,000 steps of about 5 ms of work on every core, with three
//! points each, kept in a run folder, and the same with an MLflow server that follows.
//!
//!     cargo run --release -p tracking --example overhead -- http://localhost:5000

use std::time::{Duration, Instant};

use tracking::{
    Connection, Environment, Metric, Placement, Run, RunInfo, RunRecord, Server, Status, Tracker,
    now_ms,
};

const STEPS: i64 = 2000;
const STEP: Duration = Duration::from_millis(5);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let uri = std::env::args().nth(1).ok_or("usage: overhead SERVER")?;
    let connection = Connection::from_environment(&uri, &Environment::of_process())?;
    let place = tempfile::tempdir()?;
    let info = RunInfo::new("overhead");
    let start = Instant::now();
    let mut work = 0;
    while start.elapsed() < Duration::from_millis(200) {
        std::hint::black_box(roots(10_000));
        work += 10_000;
    }
    let work = (work as f64 * STEP.as_secs_f64() / start.elapsed().as_secs_f64()) as u64;
    // In turns, since machines do not stay as fast as they are.
    for round in 0..3 {
        let mut totals = Vec::new();
        for (name, follows) in [("record only", false), ("server follows", true)] {
            let folder = place.path().join(format!("{round}-{name}"));
            let mut run = Run::new(RunRecord::create(&folder, &info)?);
            if follows {
                let placement = Placement::ExperimentName(info.experiment_name.clone());
                let patience = Duration::from_secs(60);
                let server = Server::start(&folder, &connection, &placement, patience)?;
                run.follow("server", Box::new(server))?;
            }
            let (total, longest) = steps(&mut run, work)?;
            println!(
                "{name}: {:.3} ms a step, longest call {:.3} ms",
                total.as_secs_f64() * 1e3 / STEPS as f64,
                longest.as_secs_f64() * 1e3
            );
            totals.push(total.as_secs_f64());
            run.finish(Status::Finished, now_ms())?;
            assert!(!run.is_behind(), "the server has everything");
        }
        println!("ratio: {:.4}", totals[1] / totals[0]);
    }
    Ok(())
}

/// The time of all steps, and of the longest call that logged.
fn steps(run: &mut Run, work: u64) -> tracking::Result<(Duration, Duration)> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (start, mut longest) = (Instant::now(), Duration::ZERO);
    for step in 1..=STEPS {
        let value = std::thread::scope(|threads| {
            let others: Vec<_> = (1..cores).map(|_| threads.spawn(|| roots(work))).collect();
            let ours = roots(work);
            others.into_iter().filter_map(|other| other.join().ok()).fold(ours, f64::max)
        });
        let timestamp_ms = now_ms();
        let points = ["Train_Loss_Step", "Learning_Rate", "Gradient_Norm"].map(|key| Metric {
            key: key.to_owned(),
            value,
            step,
            timestamp_ms,
        });
        let logging = Instant::now();
        run.log_metrics(&points)?;
        longest = longest.max(logging.elapsed());
    }
    Ok((start.elapsed(), longest))
}

/// So much work.
fn roots(count: u64) -> f64 {
    (0..count).fold(1.0, |value: f64, n| (value + n as f64).sqrt())
}
