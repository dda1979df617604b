//! What the program refuses, and how it says so: the value, the place, the limit; exit code 2 where
//! nothing was started and 1 where a job failed; never a panic.

mod common;

use common::{Scene, answer, jsonl, tokenizer};
use serde_json::json;
use std::fs::File;
use std::process::{Command, Stdio};

// The data.

#[test]
fn a_missing_text_column_names_what_there_is() {
    let scene = Scene::new();
    scene.file("train.jsonl", jsonl(40).replace("\"text\"", "\"texts\""));
    let known = ["train.jsonl has no column `text`", "`texts`", "did you mean `texts`?"];
    scene.train(&[]).refused(&known);
    assert!(!scene.has_run());
}

#[test]
fn a_missing_label_column_names_what_there_is() {
    let scene = Scene::new();
    scene.file("train.csv", "text,lable\nWe may end.,1\nYou can leave.,0\n");
    let answer = scene.train(&["data.train_file=train.csv"]);
    answer.refused(&["train.csv has no column `label`", "`lable`", "did you mean `lable`?"]);
}

#[test]
fn an_unknown_label_in_validation_names_its_row() {
    let scene = Scene::new();
    let rows = jsonl(10).replacen("\"label\":0", "\"label\":7", 1);
    scene.file("validation.jsonl", rows);
    scene.train(&[]).refused(&["validation.jsonl, row 2", "`7`", "`0`, `1`"]);
}

#[test]
fn an_empty_file_is_named() {
    let scene = Scene::new();
    scene.file("train.jsonl", "");
    scene.train(&[]).refused(&["train.jsonl is empty"]);
    scene.file("train.csv", "text,label\n");
    scene.train(&["data.train_file=train.csv"]).refused(&["train.csv has 0 rows"]);
}

#[test]
fn a_ragged_row_is_named_by_number() {
    let scene = Scene::new();
    scene.file("train.csv", "text,label\nWe may end.,1\nYou can, always leave.,0\n");
    let answer = scene.train(&["data.train_file=train.csv"]);
    answer.refused(&["train.csv, row 2 (line 3)", "3 fields", "header has 2"]);
}

#[test]
fn one_class_only_is_refused() {
    let scene = Scene::new();
    scene.file("train.jsonl", jsonl(40).replace("\"label\":0", "\"label\":1"));
    scene.train(&[]).refused(&["all 40 training rows have the label `1`", "one class only"]);
}

#[test]
fn a_missing_file_is_named() {
    let scene = Scene::new();
    scene.train(&["data.train_file=nowhere.jsonl"]).refused(&["nowhere.jsonl", "No such file"]);
    scene.train(&["data.test_file=gone.csv"]).refused(&["gone.csv", "No such file"]);
}

// The model.

#[test]
fn a_folder_without_config_is_no_model() {
    let scene = Scene::new();
    std::fs::remove_file(scene.path("model/config.json")).expect("it was there");
    scene.train(&[]).refused(&["model", "config.json"]);
    scene.train(&["pretrained_model=./nowhere"]).refused(&["nowhere"]);
}

#[test]
fn an_unsupported_architecture_names_the_supported_ones() {
    let scene = Scene::new();
    scene.edit_json("model/config.json", |config| config["model_type"] = json!("gpt2"));
    let supported = "supported are the encoders albert, bert, big_bird, camembert,";
    scene.train(&[]).refused(&["config.json", "`gpt2` is not supported", supported]);
}

#[test]
fn shapes_that_cannot_be_are_refused_before_allocation() {
    let scene = Scene::new();
    for (key, value, limit) in [
        ("hidden_size", 41, "a multiple of num_attention_heads (4)"),
        ("num_hidden_layers", 1_000_000_000, "in 1..=1024"),
        ("num_attention_heads", 0, "in 1..=4096"),
    ] {
        let whole = scene.read("model/config.json");
        scene.edit_json("model/config.json", |config| config[key] = json!(value));
        scene.train(&[]).refused(&["config.json", &format!("{key} is {value}"), limit]);
        scene.file("model/config.json", whole);
    }
}

#[test]
fn a_layer_more_than_the_weights_have_names_the_tensor() {
    let scene = Scene::new();
    scene.edit_json("model/config.json", |config| config["num_hidden_layers"] = json!(4));
    scene.train(&[]).refused(&["model has no tensor", "encoder.layer.3."]);
}

#[test]
fn truncated_weights_are_refused() {
    let scene = Scene::new();
    let whole = scene.read("model/model.safetensors");
    for length in [0, 7, 8, 1000, whole.len() / 2, whole.len() - 1] {
        scene.file("model/model.safetensors", &whole[..length]);
        scene.train(&[]).refused(&["model.safetensors"]);
    }
}

#[test]
fn a_missing_tensor_is_named() {
    let scene = Scene::new();
    let name = "encoder.layer.1.attention.self.query.weight";
    rename_tensor(&scene, name, "encoder.layer.1.attention.self.quern.weight");
    scene.train(&[]).refused(&["model has no tensor", name]);
}

#[test]
fn a_weight_that_is_no_number_is_named() {
    let scene = Scene::new();
    let mut bytes = scene.read("model/model.safetensors");
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    scene.file("model/model.safetensors", bytes);
    scene.train(&[]).refused(&["model.safetensors: tensor `", "holds NaN at index"]);
}

/// Renames a tensor in the header of the scene's weights; both names are of one length.
fn rename_tensor(scene: &Scene, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let mut bytes = scene.read("model/model.safetensors");
    let quoted = format!("\"{from}\"");
    let found = bytes.windows(quoted.len()).position(|window| window == quoted.as_bytes());
    let start = found.expect("the tensor is in the header") + 1;
    bytes[start..start + to.len()].copy_from_slice(to.as_bytes());
    scene.file("model/model.safetensors", bytes);
}

#[test]
fn a_damaged_tokenizer_is_refused() {
    let scene = Scene::new();
    let whole = scene.read("model/tokenizer.json");
    for content in [&b""[..], b"{}", b"[1, 2]", b"\xff\xfe", &whole[..whole.len() / 2]] {
        scene.file("model/tokenizer.json", content);
        scene.train(&[]).refused(&["cannot load the tokenizer", "tokenizer.json"]);
    }
    std::fs::remove_file(scene.path("model/tokenizer.json")).expect("it was there");
    scene.train(&[]).refused(&["tokenizer.json"]);
}

#[test]
fn token_ids_beyond_the_embeddings_are_refused() {
    let scene = Scene::new();
    let words: Vec<String> = (0..117).map(|n| format!("word{n}")).collect();
    let mut all = vec!["[PAD]", "[UNK]", "[CLS]", "[SEP]"];
    all.extend(words.iter().map(String::as_str));
    scene.file("model/tokenizer.json", tokenizer(&all));
    scene.train(&[]).refused(&["the tokenizer of", "token id 120", "120 embeddings"]);
}

// The configuration.

#[test]
fn settings_out_of_range_name_key_value_and_limit() {
    let scene = Scene::new();
    for (setting, parts) in [
        ("lora.r=0", &["lora.r is 0", "in 1..=4096"][..]),
        ("lora.dropout=1.0", &["lora.dropout is 1", "in 0..1"]),
        ("lora.dropout=0.99999999", &["lora.dropout is 0.99999999", "in 0..1"]),
        ("lora.alpha=1e39", &["lora.alpha is 1", "a positive number"]),
        ("training.learning_rate=-1", &["training.learning_rate is -1", "positive"]),
        ("name=", &["name has 0 bytes", "1 to 240"]),
        ("output_dir=", &["output_dir is empty"]),
        ("data.max_length=71", &["data.max_length is 71", "at most 70 tokens"]),
        ("data.max_length=2", &["max_length = 2", "2 special tokens"]),
        ("training.class_weights=[1.0, 2.0, 3.0]", &["has 3 weights", "2 classes"]),
        ("training.batch_size=many", &["training.batch_size", "many"]),
        ("precision=fp8", &["precision", "fp8", "bf16-mixed"]),
    ] {
        scene.train(&[setting]).refused(parts);
    }
    assert!(!scene.has_run());
}

#[test]
fn unknown_target_modules_name_the_known_ones() {
    let answer = Scene::new().train(&["lora.target_modules=[\"q_proj\"]"]);
    let known = ["attention.self.query", "attention.self.value", "intermediate.dense"];
    answer.refused(&["lora.target_modules names `q_proj`"]);
    answer.refused(&known);
}

#[test]
fn unknown_keys_and_sections_name_the_nearest_known_one() {
    let scene = Scene::new();
    for (setting, nearest) in [
        ("training.learnig_rate=1e-4", "did you mean `learning_rate`?"),
        ("lora.rank=4", "did you mean `r`?"),
        ("trainig.max_epochs=1", "did you mean `training`?"),
        ("data.text_colum=body", "did you mean `text_column`?"),
    ] {
        let key = setting.split('=').next().unwrap_or_default();
        let unknown = key.rsplit('.').next().unwrap_or_default();
        let unknown = if key.starts_with("trainig.") { "trainig" } else { unknown };
        scene.train(&[setting]).refused(&["unknown configuration key", unknown, nearest]);
    }
    scene.file("run.toml", "[optimiser]\nlr = 1\n");
    scene
        .run(&["train", "--config", "run.toml"])
        .refused(&["unknown configuration key", "optimiser"]);
}

#[test]
fn a_configuration_that_cannot_be_read_is_named() {
    let scene = Scene::new();
    scene.file("run.toml", "seed = 1\n[training\nmax_epochs = 1\n");
    let train = |file: &str| scene.run(&["train", "--config", file]);
    train("run.toml").refused(&["run.toml is not TOML", "line 2"]);
    train("nowhere.toml").refused(&["cannot read the configuration nowhere.toml", "No such file"]);
    scene.file("latin.toml", b"name = \"caf\xe9\"\n");
    train("latin.toml").refused(&["latin.toml", "UTF-8"]);
}

#[test]
fn environment_variables_are_checked_like_keys() {
    let scene = Scene::new();
    let mut command = scene.command();
    command.args(scene.train_arguments(&[])).env("FERROTUNE__TRAINING__EPOCHS", "3");
    answer(command, b"").refused(&["unknown configuration key", "epochs", "max_epochs"]);
    let mut command = scene.command();
    command.args(scene.train_arguments(&[])).env("FERROTUNE_ISA", "sse2");
    answer(command, b"").refused(&["FERROTUNE_ISA", "sse2", "scalar"]);
}

// The run folder.

#[test]
fn an_output_folder_that_cannot_be_made_is_named() {
    let scene = Scene::new();
    scene.file("occupied", "a file");
    scene.train(&["output_dir=occupied/runs"]).refused(&["occupied/runs/tiny-", "Not a directory"]);
}

#[test]
fn a_full_disk_fails_the_job_and_leaves_no_half_checkpoint() {
    let scene = Scene::new();
    // 16 KiB per file: enough for the configuration, too little for a checkpoint.
    let mut command = Command::new("bash");
    scene.isolate(&mut command);
    command.args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\""]);
    command.arg(env!("CARGO_BIN_EXE_ferrotune")).args(scene.train_arguments(&[]));
    let answer = answer(command, b"");
    answer.ended(1, &[".safetensors", "File too large", "hint: no room"]);
    let run = scene.run_folder();
    let left: Vec<_> = walk(run.as_ref());
    assert!(!left.iter().any(|name| name.contains("safetensors")), "{left:?}");
    let status = std::fs::read_to_string(format!("{run}/run.json")).expect("the run's record");
    assert!(status.contains("FAILED"), "{status}");
}

/// Names of all files below a folder.
fn walk(folder: &std::path::Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            names.extend(walk(&path))
        } else {
            names.push(path.display().to_string())
        }
    }
    names
}

#[test]
fn a_full_standard_output_fails_the_job() {
    let Ok(full) = File::options().write(true).open("/dev/full") else {
        println!("skipped: this system has no /dev/full");
        return;
    };
    let scene = Scene::new();
    let run = scene.trained();
    let mut command = scene.command();
    command.args(["predict", &run, "we may end your account"]);
    let output = command.stdout(full).stderr(Stdio::piped()).output().expect("the program");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("cannot write to standard output"), "{stderr}");
    assert!(stderr.contains("No space left on device"), "{stderr}");
}

#[test]
fn only_a_run_folder_is_resumed() {
    let scene = Scene::new();
    let resume = |run: &str| scene.run(&["train", "--resume", run]);
    resume("model").refused(&["model is not a run folder", "no config.toml", "hint: "]);
    resume("nowhere").refused(&["nowhere is not a run folder"]);
    let both = scene.run(&["train", "--resume", "model", "--seed", "1"]);
    both.refused(&["--resume", "--seed"]);
}

#[test]
fn a_run_that_another_process_holds_is_not_resumed() {
    let scene = Scene::new();
    let run = scene.trained();
    let lock = File::options().write(true).open(format!("{run}/.lock")).expect("the lock file");
    lock.try_lock().expect("nobody holds it any more");
    let answer = scene.run(&["train", "--resume", &run]);
    answer.refused(&["another process is working in run folder", &run]);
}

#[test]
fn a_run_whose_configuration_was_edited_is_not_resumed() {
    let scene = Scene::new();
    let run = scene.trained();
    let config = std::fs::read_to_string(format!("{run}/config.toml")).expect("it is there");
    let edited = config.replace("max_epochs = 2", "max_epochs = 3");
    assert_ne!(edited, config);
    durable::write(format!("{run}/config.toml").as_ref(), edited.as_bytes()).expect("an edit");
    let answer = scene.run(&["train", "--resume", &run]);
    answer.refused(&["the configuration in", &run, "not the one the checkpoint was trained with"]);
}

#[test]
fn a_damaged_checkpoint_is_not_resumed() {
    let scene = Scene::new();
    let run = scene.trained();
    for name in ["adapter_model.safetensors", "optimizer.safetensors", "trainer_state.json"] {
        let path = format!("{run}/last/{name}");
        let whole = std::fs::read(&path).expect("a checkpoint's file");
        durable::write(path.as_ref(), &whole[..whole.len() / 2]).expect("a damaged file");
        scene.run(&["train", "--resume", &run]).refused(&[name]);
        durable::write(path.as_ref(), &whole).expect("the whole file");
    }
    assert_eq!(scene.run(&["train", "--resume", &run]).code, Some(0));
}

#[test]
fn diverging_training_stops_with_step_and_tensor() {
    let scene = Scene::new();
    let answer = scene.train(&["training.learning_rate=1e30"]);
    answer.ended(1, &["training diverged at step 2", "first in bert.", "lower learning rate"]);
}

#[test]
fn a_tracking_address_that_cannot_be_used_leaves_no_run() {
    let scene = Scene::new();
    let answer = scene.train(&["tracking.uri=ftp://host/runs"]);
    answer.refused(&["tracking.uri", "ftp://host/runs"]);
    assert!(!scene.has_run());
}

#[test]
fn rows_too_alike_to_be_split_are_refused_with_their_count() {
    let scene = Scene::new();
    let rows =
        "{\"text\":\"We may end.\",\"label\":1}\n{\"text\":\"You can leave.\",\"label\":0}\n";
    scene.file("same.jsonl", rows.repeat(20));
    let settings = ["pretrained_model=model", "data.train_file=same.jsonl", "output_dir=runs"];
    let mut arguments = vec!["train"];
    settings.iter().for_each(|setting| arguments.extend(["--set", setting]));
    scene.run(&arguments).refused(&["validation split of 0.1", "40 rows", "2 different texts"]);
}

// Test and predict.

#[test]
fn a_model_folder_offers_no_choice_of_models() {
    let scene = Scene::new();
    let run = scene.trained();
    let best = format!("{run}/best");
    let answer = scene.run(&["predict", &best, "we may end", "--model", "last"]);
    answer.refused(&["best is one model", "--model last"]);
    assert_eq!(scene.run(&["predict", &best, "we may end"]).code, Some(0));
}

/// Else a new head would answer, by chance.
#[test]
fn a_head_for_other_labels_cannot_answer() {
    for method in ["full", "lora"] {
        let scene = Scene::new();
        let answer = scene.train(&[&format!("method={method}")]);
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        let run = scene.run_folder();
        scene.edit_json(&format!("{run}/best/ferrotune.json"), |card| {
            card["labels"] = json!({"names": ["a", "b", "c"], "task": "multiclass"})
        });
        let refused = ["classifier.weight` has shape [2, 40], expected [3, 40]"];
        scene.run(&["predict", &run, "we may end"]).refused(&refused);
        for format in ["merged", "onnx"] {
            let export = scene.run(&["export", &run, "--format", format]);
            export.refused(&["config.json has 2 labels, ferrotune.json has 3"]);
        }
    }
}

#[test]
fn a_folder_without_model_cannot_answer() {
    let scene = Scene::new();
    for command in ["predict", "test"] {
        let answer = scene.run(&[command, "model"]);
        answer.refused(&["no trained model in model", "best/ferrotune.json"]);
    }
}

#[test]
fn texts_that_are_not_utf8_are_refused() {
    let scene = Scene::new();
    let run = scene.trained();
    let answer = scene.run_with_input(&["predict", &run], b"we may end\n\xff\xfe\nyou may\n");
    answer.ended(2, &["line 2 of standard input is not UTF-8"]);
    // What came before it is answered, whether or not it came at once.
    assert_eq!(answer.stdout.lines().count(), 1, "{}", answer.stdout);
    assert!(answer.stdout.contains("we may end"), "{}", answer.stdout);
}

#[test]
fn predicting_a_file_names_its_columns() {
    let scene = Scene::new();
    let run = scene.trained();
    let file = scene.file("rows.csv", "clause\nWe may end.\n");
    scene.run(&["predict", &run, "--file", &file]).refused(&["no column `text`", "`clause`"]);
    let column = ["predict", &run, "--file", &file, "--text-column", "clause"];
    let to = |output: &str| scene.run(&[&column[..], &["--output", output]].concat());
    to("nowhere/answers.jsonl")
        .refused(&["--output is nowhere/answers.jsonl", "no folder nowhere"]);
    let before = scene.read("rows.csv");
    to("./rows.csv").refused(&["--output is ./", "which --file reads"]);
    assert_eq!(scene.read("rows.csv"), before);
    let answered = scene.run(&column);
    assert_eq!(answered.code, Some(0));
    assert!(!answered.stderr.contains("longer"), "{}", answered.stderr);
    let long = scene.run(&["predict", &run, &"may ".repeat(40), "we may end"]);
    let said = "warning: 1 of 2 texts are longer than 32 tokens: what follows has no say";
    assert!(long.stderr.contains(said), "{}", long.stderr);
}

#[test]
fn testing_needs_labels_that_the_model_knows() {
    let scene = Scene::new();
    let trained = scene.train(&[]);
    let said = "positive class: 1, the last of data.label_names";
    assert!(trained.stderr.contains(said), "{}", trained.stderr);
    assert!(trained.stdout.contains("rows; positive: 1 "), "{}", trained.stdout);
    let run = scene.run_folder();
    let file = scene.file("bare.jsonl", "{\"text\": \"We may end.\"}\n");
    scene.run(&["test", &run, "--file", &file]).refused(&["bare.jsonl has no column", "`text`"]);
    let file = scene.file("other.jsonl", "{\"text\": \"We may end.\", \"label\": 5}\n");
    let answer = scene.run(&["test", &run, "--file", &file]);
    answer.refused(&["other.jsonl, row 1", "unknown label `5`", "`0`, `1`"]);
}
