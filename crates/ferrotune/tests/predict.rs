//! `predict` from the command line: answers that come while texts do, and that are the same whatever comes
//! beside them.

mod common;

use common::Scene;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

/// The program, reading a pipe.
fn child(scene: &Scene, run: &str) -> std::process::Child {
    let mut command = scene.command();
    command.args(["predict", run]).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.stderr(Stdio::piped()).spawn().expect("the program")
}

#[test]
fn each_line_is_answered_before_the_next_is_there() {
    let scene = Scene::new();
    let run = scene.trained();
    let texts: Vec<String> =
        (0..20).map(|n| format!("we may end{}", " may".repeat(n * 3))).collect();
    let together = scene.run_with_input(&["predict", &run], texts.join("\n").as_bytes());
    assert_eq!(together.code, Some(0), "{}", together.stderr);
    assert_eq!(together.stdout.lines().count(), texts.len());

    let mut child = child(&scene, &run);
    let mut input = child.stdin.take().expect("a pipe");
    let mut answers = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut one_by_one = String::new();
    for (number, text) in texts.iter().enumerate() {
        let line_break = if number % 2 == 0 { "\n" } else { "\r\n" };
        input.write_all(format!("{text}{line_break}").as_bytes()).expect("it reads");
        answers.read_line(&mut one_by_one).expect("an answer");
    }
    drop(input);
    assert_eq!(answers.read_to_string(&mut one_by_one).expect("its end"), 0);
    assert_eq!(one_by_one, together.stdout, "what comes beside a text changes nothing");
    let told = child.wait_with_output().expect("it ends");
    let told = String::from_utf8(told.stderr).expect("text");
    let cut = texts.iter().filter(|text| text.split(' ').count() > 30).count();
    let said = format!("warning: {cut} of 20 texts are longer than 32 tokens");
    assert!(told.contains(&said) && together.stderr.contains(&said), "{told}");
}

#[test]
fn whoever_has_read_enough_ends_it() {
    let scene = Scene::new();
    let run = scene.trained();
    let mut child = child(&scene, &run);
    let mut input = child.stdin.take().expect("a pipe");
    let mut answers = BufReader::new(child.stdout.take().expect("a pipe"));
    input.write_all("may ".repeat(40).as_bytes()).expect("it reads");
    input.write_all(b"\n").expect("it reads");
    answers.read_line(&mut String::new()).expect("an answer");
    drop(answers);
    // Its input does not end.
    input.write_all(b"we may end\n").expect("it reads");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    let mut told = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut told).expect("text");
    assert!(told.contains("1 of 2 texts are longer than 32 tokens"), "{told}");
}

#[test]
fn a_line_that_cannot_be_read_ends_it_and_leaves_no_half_file() {
    let scene = Scene::new();
    let run = scene.trained();
    let output = scene.at("answers.jsonl");
    let predict = ["predict", &run, "--output", &output];
    scene.run_with_input(&predict, b"we may end\n\xff\n").refused(&["line 2 of standard input"]);
    assert!(!scene.path("answers.jsonl").exists());
    let answered = scene.run_with_input(&predict, b"we may end\n\n");
    assert_eq!(answered.code, Some(0), "{}", answered.stderr);
    let lines = String::from_utf8(scene.read("answers.jsonl")).expect("text");
    assert_eq!(lines.lines().count(), 2, "an empty line is a text: {lines}");
}
