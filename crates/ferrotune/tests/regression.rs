//! One test per bug that was found by hand.

mod common;

use common::Scene;

#[test]
fn answers_that_are_not_finite_end_the_run() {
    // One step an epoch: the step itself is finite, and the weights it leaves are not.
    let scene = Scene::new();
    let settings = ["training.batch_size=40", "training.learning_rate=1e38"];
    scene.train(&settings).ended(1, &["logit of NaN"]);
}

#[test]
fn a_time_limit_ends_with_a_tested_model_and_can_be_resumed() {
    let scene = Scene::new();
    let answer = scene.train(&["training.max_time=1ms"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert!(answer.stderr.contains("max_time reached after epoch 1"), "{}", answer.stderr);
    let again = scene.run(&["train", "--resume", &scene.run_folder()]);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert_eq!(answer.stdout, again.stdout);
}

#[test]
fn an_adapter_tensor_that_no_layer_reads_is_refused() {
    let scene = Scene::new();
    let run = scene.trained();
    let weights = std::path::Path::new(&run).join("best/adapter_model.safetensors");
    let file = architectures::TensorFile::open(&weights).expect("an adapter");
    let mut tensors: Vec<_> = file
        .names()
        .expect("names")
        .into_iter()
        .map(|name| {
            let (shape, data) = file.tensor(&name).expect("readable").expect("there");
            architectures::NamedTensor::new(name, shape, move || data.clone())
        })
        .collect();
    let extra = "base_model.model.bert.pooler.dense.lora_A.weight";
    tensors.push(architectures::NamedTensor::new(extra.to_owned(), vec![1, 2], || vec![0.5; 2]));
    architectures::write_tensors(&weights, tensors).expect("written");
    scene.run(&["predict", &run, "we may end"]).refused(&[extra, "no part of this model"]);
}

#[test]
fn test_gives_the_figures_that_training_printed() {
    let scene = Scene::new();
    let answer = scene.train(&["precision=32-true", "seed=7"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let tested = scene.run(&["test", &scene.run_folder()]);
    assert_eq!(tested.code, Some(0), "{}", tested.stderr);
    let best = |table: &str| -> Vec<String> {
        let cell = |line: &str| line.split(['│', '┆']).nth(2).map(|c| c.trim().to_owned());
        table.lines().skip(3).filter_map(cell).collect()
    };
    assert_eq!(best(&answer.stdout), best(&tested.stdout));
    assert!(!best(&answer.stdout).is_empty());
}

#[test]
fn numbers_that_would_overflow_or_flood_the_machine_are_refused() {
    let scene = Scene::new();
    for (setting, part) in [
        ("training.batch_size=4611686018427387904", "training.batch_size is 4611686018427387904"),
        ("threads=1000000", "threads is 1000000"),
        ("seed=18446744073709551615", "seed is 18446744073709551615"),
    ] {
        scene.train(&[setting]).refused(&[part, "at most"]);
        assert!(!scene.has_run());
    }
}

#[test]
fn other_training_rows_are_refused_on_resume() {
    let scene = Scene::new();
    let run = scene.trained();
    let rows = String::from_utf8(scene.read("train.jsonl")).expect("text");
    scene.file("train.jsonl", rows.replacen("\"label\":1", "\"label\":0", 1));
    scene.run(&["train", "--resume", &run]).ended(2, &["training rows are not those"]);
}

#[test]
fn targets_in_the_head_alone_are_refused() {
    let scene = Scene::new();
    scene.train(&["lora.target_modules=[\"pooler.dense\"]"]).refused(&[
        "lora.target_modules",
        "pooler.dense",
        "a layer of the encoder",
    ]);
}

#[cfg(unix)]
#[test]
fn predictions_are_written_through_a_link() {
    let scene = Scene::new();
    let run = scene.trained();
    let (target, link) = (scene.file("target.jsonl", "old"), scene.path("link.jsonl"));
    std::os::unix::fs::symlink(target, &link).expect("a link");
    let link = link.display().to_string();
    let answer = scene.run(&["predict", &run, "we may end", "--output", &link]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert!(scene.path("link.jsonl").is_symlink());
    assert!(scene.read("target.jsonl").starts_with(b"{\"text\":\"we may end\",\"label\":"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_standard_output_fails_the_run_after_its_report() {
    let scene = Scene::new();
    let full = std::fs::File::options().write(true).open("/dev/full").expect("the full device");
    let mut command = scene.command();
    command.args(scene.train_arguments(&[])).stdout(full).stderr(std::process::Stdio::piped());
    let output = command.output().expect("the program");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("standard output") && !stderr.contains("panicked"), "{stderr}");
    assert!(std::path::Path::new(&scene.run_folder()).join("report.html").is_file());
}

#[cfg(unix)]
#[test]
fn an_environment_variable_that_is_no_text_is_none_of_ours() {
    use std::os::unix::ffi::OsStrExt;
    let scene = Scene::new();
    let mut command = scene.command();
    command.args(scene.train_arguments(&[])).env("FOO", std::ffi::OsStr::from_bytes(&[0xff]));
    let answer = common::answer(command, b"");
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
}

#[test]
fn a_hub_data_set_is_pinned_to_the_commit_it_was_read_at() {
    let scene = Scene::new();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let cached = "cache/hub/datasets--tos--unfair_tos";
    for folder in ["refs", &format!("snapshots/{commit}")] {
        durable::create_folder(&scene.path(&format!("{cached}/{folder}"))).expect("a cache");
    }
    scene.file(&format!("{cached}/refs/main"), commit);
    for (split, rows) in [("train", 40), ("validation", 10), ("test", 10)] {
        let rows = common::jsonl(rows).replace("\"label\":1", "\"label\":[3]");
        let rows = rows.replace("\"label\":0", "\"label\":[]");
        scene.file(&format!("{cached}/snapshots/{commit}/{split}.jsonl"), rows);
    }
    let mut command = scene.command();
    command.env("HF_HOME", scene.path("cache"));
    let settings = [
        "pretrained_model=model",
        "output_dir=runs",
        "training.max_epochs=1",
        "data.dataset=tos/unfair_tos",
        "data.max_length=32",
    ];
    command.arg("train");
    for setting in settings {
        command.args(["--set", setting]);
    }
    let answer = common::answer(command, b"");
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let run = scene.run_folder();
    let config = std::fs::read_to_string(format!("{run}/config.toml")).expect("a configuration");
    assert!(config.contains(&format!("dataset = \"tos/unfair_tos@{commit}\"")), "{config}");

    let mut command = scene.command();
    command.env("HF_HOME", scene.path("cache")).args(["test", &run, "--json"]);
    let answer = common::answer(command, b"");
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let card = std::fs::read_to_string(format!("{run}/best/ferrotune.json")).expect("a card");
    assert!(card.contains("\"unfair\""), "{card}");
}

#[test]
fn a_model_between_two_renames_still_answers() {
    let scene = Scene::new();
    let run = scene.trained();
    std::fs::rename(format!("{run}/best"), format!("{run}/best.old")).expect("renamed");
    let answer = scene.run(&["predict", &run, "we may end"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
}

#[test]
fn dense_weights_do_not_claim_to_be_quantised() {
    let scene = Scene::new();
    scene.edit_json("model/config.json", |config| {
        config["quantization_config"] = serde_json::json!({"quant_method": "bitsandbytes"});
    });
    let answer = scene.train(&["method=full", "training.max_epochs=1"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let config = std::fs::read_to_string(format!("{}/best/config.json", scene.run_folder()));
    assert!(!config.expect("a configuration").contains("quantization_config"));
}

#[test]
fn bench_measures_a_configuration_and_refuses_what_train_refuses() {
    let scene = Scene::new();
    let settings = scene.train_arguments(&[]);
    let bench = |more: &[&str]| {
        let mut arguments = vec!["bench", "epoch", "--repeats", "2", "--json"];
        arguments.extend(settings[1..].iter().map(String::as_str).chain(more.iter().copied()));
        scene.run(&arguments)
    };
    let answer = bench(&[]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let figures: serde_json::Value = serde_json::from_str(&answer.stdout).expect("JSON");
    assert_eq!(figures["sequences"], 40);
    assert!(figures["median_seconds"].as_f64() > Some(0.0));
    bench(&["--set", "data.max_length=4096"]).refused(&["data.max_length is 4096", "at most"]);
    bench(&["--set", "training.batch_size=0"]).refused(&["training.batch_size is 0"]);
}

#[test]
fn quantised_runs_are_tested_as_they_were_trained() {
    for quantization in ["nf4", "int8"] {
        let scene = Scene::new();
        let answer = scene.train(&[&format!("quantization={quantization}"), "precision=32-true"]);
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        assert!(answer.stderr.contains("memory: "), "{}", answer.stderr);
        let best = |table: &str| -> Vec<String> {
            let cell = |line: &str| line.split(['│', '┆']).nth(2).map(|c| c.trim().to_owned());
            table.lines().skip(3).filter_map(cell).collect()
        };
        let tested = scene.run(&["test", &scene.run_folder()]);
        assert_eq!(best(&answer.stdout), best(&tested.stdout));
        scene
            .train(&[&format!("quantization={quantization}"), "method=full"])
            .refused(&[&format!("quantization is `{quantization}`"), "only frozen weights"]);
    }
}

/// Any run answers with other weights than it was trained with, whole models too; and with none again.
#[test]
fn a_run_answers_in_8_bits_where_it_is_asked_to() {
    for method in ["lora", "full"] {
        let scene = Scene::new();
        let answer = scene.train(&[&format!("method={method}"), "precision=32-true"]);
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        let run = scene.run_folder();
        let probabilities = |quantization: &[&str]| -> Vec<f64> {
            let mut arguments = vec!["predict", &run, "--file", "test.jsonl"];
            arguments.extend(quantization);
            let answer = scene.run(&arguments);
            assert_eq!(answer.code, Some(0), "{}", answer.stderr);
            let score = |line: &str| {
                let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
                line["score"].as_f64().expect("a score")
            };
            answer.stdout.lines().map(score).collect()
        };
        let as_trained = probabilities(&[]);
        assert_eq!(as_trained, probabilities(&["--quantization", "none"]), "{method}");
        let in_8_bits = probabilities(&["--quantization", "int8"]);
        assert_ne!(as_trained, in_8_bits, "{method}");
        for (x, y) in as_trained.iter().zip(&in_8_bits) {
            assert!((x - y).abs() < 0.05, "{method}: {x} {y}");
        }
        let tested = scene.run(&["test", &run, "--quantization", "int8", "--json"]);
        assert_eq!(tested.code, Some(0), "{}", tested.stderr);
        scene.run(&["test", &run, "--quantization", "fp4"]).refused(&["fp4", "int8"]);
    }
}
