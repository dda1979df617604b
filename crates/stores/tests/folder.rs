//! Uploads to a folder.

use std::error::Error;
use std::fs;
use stores::{Collection, MANIFEST, Manifest, News, Store};

#[test]
fn a_folder_is_a_store_too() -> Result<(), Box<dyn Error>> {
    let place = tempfile::tempdir()?;
    let run = place.path().join("run");
    fs::create_dir_all(run.join("best"))?;
    durable::write(&run.join("best/model.bin"), &vec![7; 6 << 20])?;
    durable::write(&run.join("report.md"), b"# Report\n")?;
    durable::write(&run.join("best/Größe 100 %.json"), b"{}")?;
    let archive = place.path().join("archive");
    let store = Store::open(archive.to_str().ok_or("path")?, [])?;
    store.check()?;
    assert_eq!(fs::read_dir(&archive)?.count(), 0, "a check leaves nothing");

    let collection = Collection::new("naïve-otter", &run, &["best", "report.md"])?;
    let uploaded = store.upload(&collection, |_| true)?;
    assert_eq!((uploaded.sent, uploaded.present), (3, 0));
    let place = archive.join("naïve-otter");
    assert_eq!(fs::read(place.join("best/Größe 100 %.json"))?, b"{}");
    assert_eq!(fs::read(place.join("best/model.bin"))?, vec![7; 6 << 20]);
    let manifest: Manifest = serde_json::from_slice(&fs::read(place.join(MANIFEST))?)?;
    assert_eq!(manifest.files["report.md"].bytes, 9);

    assert_eq!(store.upload(&collection, |_| true)?.sent, 0);
    durable::write(&run.join("report.md"), b"# Report 2\n")?;
    assert_eq!(store.upload(&collection, |_| true)?.sent, 1);
    assert_eq!(fs::read(place.join("report.md"))?, b"# Report 2\n");

    for damaged in ["", "{}", "{\"files\": {\"report.md\": {\"bytes\": 9"] {
        durable::write(&place.join(MANIFEST), damaged.as_bytes())?;
        let mut told = Vec::new();
        let again = store.upload(&collection, |news| {
            told.push(news);
            true
        })?;
        let expected = format!("{}/naïve-otter/{MANIFEST}", archive.display());
        let News::DamagedManifest { place: named, .. } = &told[0] else { panic!("{told:?}") };
        assert_eq!(named, &expected);
        assert_eq!(again.sent, 3, "a folder keeps hashes in the manifest alone");
        let manifest: Manifest = serde_json::from_slice(&fs::read(place.join(MANIFEST))?)?;
        assert_eq!(manifest.files.len(), 3);
    }
    Ok(())
}

#[test]
fn a_place_that_cannot_be_a_folder_is_refused() -> Result<(), Box<dyn Error>> {
    let place = tempfile::tempdir()?;
    let file = place.path().join("file");
    durable::write(&file, b"")?;
    let location = file.join("below");
    let store = Store::open(location.to_str().ok_or("path")?, [])?;
    let refused = store.check().expect_err("refused").to_string();
    assert!(refused.contains("below"), "{refused}");
    for location in ["", "ftp://host/place", "azure://", "s3:///prefix", "gs://bucket/a/../b"] {
        assert!(Store::open(location, []).is_err(), "{location}");
    }
    Ok(())
}
