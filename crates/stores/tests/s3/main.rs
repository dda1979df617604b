//! Uploads to Moto's S3, read back by Amazon's own client.

mod emulator;
#[path = "../suite/mod.rs"]
mod suite;

use emulator::{Moto, SECRET};
use std::time::{Duration, Instant};
use suite::{Service, Tested};

suite!(Moto::start);

#[test]
fn wrong_credentials_and_places_are_refused_without_secrets() -> Tested {
    let (Some(open), Some(closed)) = (Moto::start(), Moto::closed()) else { return Ok(()) };
    let location = "s3://no-such-bucket/runs";
    for (moto, port, said) in [
        (&open, open.port(), "NoSuchBucket"),
        (&closed, closed.port(), "403"),
        (&open, 1, location),
    ] {
        let started = Instant::now();
        let refused = moto.store(location, port)?.check().expect_err("refused").to_string();
        assert!(refused.contains(location) && refused.contains(said), "{refused}");
        assert!(!refused.contains(SECRET), "{refused}");
        assert!(started.elapsed() < Duration::from_secs(30), "{refused}");
    }
    Ok(())
}
