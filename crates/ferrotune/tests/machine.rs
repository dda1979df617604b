//! What the machine and its user decide: who may read the files, and how much memory there is.

mod common;

use common::{Scene, answer};

/// Every file and folder below a folder, with its mode.
#[cfg(unix)]
fn modes(folder: &std::path::Path, found: &mut Vec<(std::path::PathBuf, bool, u32)>) {
    use std::os::unix::fs::PermissionsExt;
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let metadata = std::fs::metadata(&path).expect("there");
        found.push((path.clone(), metadata.is_dir(), metadata.permissions().mode() & 0o777));
        if metadata.is_dir() {
            modes(&path, found);
        }
    }
}

/// The umask decides who may read what a run and `quantize` leave, as for any new file.
#[cfg(unix)]
#[test]
fn files_and_folders_have_the_modes_that_the_umask_leaves() {
    for (umask, file, folder) in [("0077", 0o600, 0o700), ("0002", 0o664, 0o775)] {
        let scene = Scene::new();
        let under_umask = |arguments: &[String]| {
            let mut command = std::process::Command::new("sh");
            scene.isolate(&mut command);
            let script = format!("umask {umask}; exec \"$0\" \"$@\"");
            command.args(["-c", &script, env!("CARGO_BIN_EXE_ferrotune")]).args(arguments);
            let output = command.output().expect("a shell");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        under_umask(&scene.train_arguments(&[&format!("tracking.uri=file:{}", scene.at("store"))]));
        let quantize = ["quantize", "model", "--output", "written/nf4"];
        under_umask(&quantize.map(str::to_owned));
        let mut found = Vec::new();
        for written in ["runs", "store", "written"] {
            modes(&scene.path(written), &mut found);
        }
        assert!(found.iter().filter(|(_, is_folder, _)| !is_folder).count() > 20, "{found:?}");
        for (path, is_folder, mode) in found {
            let expected = if is_folder { folder } else { file };
            assert_eq!(mode, expected, "{} has {mode:o} under {umask}", path.display());
        }
    }
}

/// In a container no variable says who runs what there; the system knows.
#[cfg(unix)]
#[test]
fn a_run_has_its_user_s_name() {
    let scene = Scene::new();
    let user_of_a_run = |named: Option<&str>| {
        let mut command = scene.command();
        for variable in ["LOGNAME", "USER", "LNAME", "USERNAME"] {
            command.env_remove(variable);
        }
        command.envs(named.map(|name| ("USER", name)));
        command.args(scene.train_arguments(&["training.max_epochs=1"]));
        let done = answer(command, b"");
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        let record = scene.read(&format!("{}/run.json", scene.run_folder()));
        let info: serde_json::Value = serde_json::from_slice(&record).expect("JSON");
        std::fs::remove_dir_all(scene.path("runs")).expect("removed");
        info["user"].as_str().expect("a name").to_owned()
    };
    assert_eq!(user_of_a_run(Some("ada")), "ada");
    let id = std::process::Command::new("id").arg("-un").output().expect("id");
    assert_eq!(user_of_a_run(None), String::from_utf8(id.stdout).expect("UTF-8").trim());
}

/// An ALBERT whose layers are used so often that no machine has the memory for what they keep.
#[test]
fn training_that_does_not_fit_is_refused_before_it_begins() {
    let scene = Scene::new();
    let fixture = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../architectures/tests/fixtures/albert/model");
    for name in ["config.json", "model.safetensors"] {
        scene.file(&format!("model/{name}"), std::fs::read(fixture.join(name)).expect("a fixture"));
    }
    scene.edit_json("model/config.json", |config| config["num_hidden_layers"] = 512.into());
    let clause = "we may end your account at any time without notice . ".repeat(5);
    let row = |n: usize| format!("{{\"text\": \"{clause}\", \"label\": {}}}\n", n % 2);
    scene.file("train.jsonl", (0..5_000).map(row).collect::<String>());
    let settings = |more: &'static str| {
        let sizes = ["training.batch_size=5000", "training.tokens_per_micro_batch=1000000"];
        scene.train(&[sizes[0], sizes[1], "data.max_length=60", more])
    };
    settings("training.gradient_checkpointing=false").refused(&[
        "training needs",
        "GiB of memory, of which",
        "lower training.tokens_per_micro_batch (now 1000000) or set",
        "training.gradient_checkpointing=true",
    ]);
    assert!(!scene.has_run());
}
