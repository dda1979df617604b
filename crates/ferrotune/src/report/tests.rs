use super::chart::{Axis, Chart, Mark, Series, draw, tick_texts, ticks};
use super::*;

fn two_labels() -> Vec<String> {
    vec!["fair".to_owned(), "unfair".to_owned()]
}

fn full() -> Report {
    let estimate = |value| Some(Estimate { value, interval: Some((value - 0.05, value + 0.04)) });
    let score = |name: &str, best, last| Score {
        name: name.to_owned(),
        best: estimate(best),
        last: estimate(last),
    };
    let epoch = |epoch: u32| {
        let t = f64::from(epoch);
        let figures = |loss, accuracy| Figures {
            loss: Some(loss),
            accuracy: Some(accuracy),
            f1: Some(accuracy - 0.1),
            micro_f1: None,
        };
        Epoch { epoch, train: figures(0.5 / t, 0.9), validation: figures(0.5 / t + 0.1, 0.88) }
    };
    let points = (1..=20).map(|i| f64::from(i) / 20.0).map(|recall| PrecisionRecallPoint {
        threshold: 1.0 - recall,
        precision: 0.9,
        recall,
    });
    let split = |name: &str| Split {
        name: name.to_owned(),
        rows: 1200,
        label_rows: vec![1100, 100],
        truncated_rows: 12,
        ..Split::default()
    };
    Report {
        run_name: "first run".to_owned(),
        model: "roberta-base".to_owned(),
        best_epoch: Some(2),
        selected_by: "validation F1".to_owned(),
        test: Some(Test {
            rows: 1607,
            scale: "probability".to_owned(),
            scores: vec![score("F1", 0.81, 0.79), score("Accuracy", 0.95, 0.94)],
            confusion: Some(Confusion {
                labels: two_labels(),
                counts: vec![vec![1400, 30], vec![40, 137]],
            }),
            precision_recall: Some(PrecisionRecall {
                points: points.collect(),
                threshold: 0.5,
                positive_share: 0.11,
            }),
            mistakes: vec![Mistake {
                row: 17,
                text: "We may change anything.".to_owned(),
                truth: "unfair".to_owned(),
                predicted: "fair".to_owned(),
                confidence: 0.987,
            }],
            mistakes_in_all: 70,
            ..Test::default()
        }),
        epochs: (1..=3).map(epoch).collect(),
        steps: (1..=1000)
            .map(|step| Step { step, loss: 1.0 / step as f64, learning_rate: Some(1e-3) })
            .collect(),
        data: Some(Data {
            splits: vec![split("train"), split("test")],
            labels: two_labels(),
            max_length: Some(128),
            warnings: vec!["33 test texts also occur in train".to_owned()],
        }),
        config: "[train]\nepochs = 3\n".to_owned(),
        ..Report::default()
    }
}

#[test]
fn a_full_report_shows_each_part() {
    let page = html(&full()).unwrap();
    for part in [
        "first run",
        "0.810",
        "0.760 – 0.850",
        "1,607 test rows",
        "best: epoch 2",
        "97.9 %",
        "threshold 0.5: precision 0.900, recall 0.500",
        "We may change anything.",
        "The 1 most confident of 70 wrong answers",
        "33 test texts also occur in train",
        "12 (1.0 %)",
        "Each point is the mean of 5 steps.",
        "epochs = 3",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("<script"));

    let text = markdown(&full());
    for part in ["# first run", "| F1 | 0.810 (0.760 – 0.850) |", "| 17 | unfair | fair | 0.987 |"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn a_multi_label_report_has_both_f1s_and_its_thresholds() {
    let mut report = full();
    for epoch in &mut report.epochs {
        epoch.train.micro_f1 = Some(0.9);
        epoch.validation.micro_f1 = Some(0.876);
    }
    let score = |f1| LabelScore { name: "<liability>".to_owned(), f1, ..LabelScore::default() };
    let estimate = |value| Estimate { value, interval: Some((value - 0.1, value + 0.1)) };
    let test = report.test.as_mut().unwrap();
    test.confusion = None;
    test.thresholds = Some(TunedThresholds {
        scores: vec![("micro-F1".to_owned(), estimate(0.7), estimate(0.75))],
        labels: vec![TunedLabel {
            threshold: 0.315,
            validation_rows: 34,
            half: score(0.613),
            tuned: score(0.682),
        }],
    });
    let (page, text) = (html(&report).unwrap(), markdown(&report));
    for part in ["validation micro-F1", "Micro-F1", "0.876", "&lt;liability&gt;", "0.315"] {
        assert!(page.contains(part), "{part}");
    }
    assert!(page.contains("Everything else on this page is at 0.5"));
    assert!(!page.contains("Confusion matrix"));
    for part in [
        "| micro-F1 | 0.700 (0.600 – 0.800) | 0.750 (0.650 – 0.850) |",
        "| 0.315 | 34 | 0.000 | 0.000 | 0.613 | 0.000 | 0.000 | 0.682 |",
        "| epoch | train loss |",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn hostile_text_stays_text() {
    let hostile = "</td><script>alert(1)</script><img src=x onerror=a()>\"'|`\u{0}\u{202e}";
    let mut report = full();
    report.run_name = hostile.to_owned();
    report.model = hostile.to_owned();
    report.config = format!("```\n{hostile}");
    report.selected_by = hostile.to_owned();
    report.parameters.new_layers = vec![hostile.to_owned()];
    report.data.as_mut().unwrap().warnings = vec![hostile.to_owned()];
    report.data.as_mut().unwrap().labels[0] = hostile.to_owned();
    let test = report.test.as_mut().unwrap();
    test.scores[0].name = hostile.to_owned();
    test.confusion.as_mut().unwrap().labels[1] = hostile.to_owned();
    let long = hostile.repeat(20);
    let huge = "x".repeat(10_000_000);
    for text in [hostile, &long, &huge] {
        test.mistakes.push(Mistake {
            text: text.to_owned(),
            truth: hostile.to_owned(),
            predicted: hostile.to_owned(),
            ..Mistake::default()
        });
    }
    let page = html(&report).unwrap();
    assert!(!page.contains("<script") && !page.contains("<img"));
    assert!(page.contains("&lt;script&gt;alert(1)"));
    assert!(page.contains("more characters)") && page.len() < 1_000_000);

    let text = markdown(&report);
    let (prose, config) = text.split_once("## Configuration").unwrap();
    assert!(!prose.contains("<script") && !prose.contains("<img"));
    assert!(config.contains("````toml\n```\n") && config.trim_end().ends_with("\n````"));
}

#[test]
fn an_empty_report_says_what_is_missing() {
    let page = html(&Report::default()).unwrap();
    assert!(page.contains("not tested") && !page.contains("<svg"));
    assert!(markdown(&Report::default()).contains("not tested"));
}

#[test]
fn figures_that_are_not_finite_are_shown_as_missing() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut report = full();
        let test = report.test.as_mut().unwrap();
        test.scores[0].best = Some(Estimate { value: bad, interval: Some((bad, bad)) });
        test.precision_recall.as_mut().unwrap().points[3].precision = bad;
        test.precision_recall.as_mut().unwrap().positive_share = bad;
        test.mistakes[0].confidence = bad;
        report.epochs[1].validation.loss = Some(bad);
        report.steps[10].loss = bad;
        report.timing.total_seconds = bad;
        report.timing.tokens_per_second = Some(bad);
        let page = html(&report).unwrap();
        assert!(!page.contains("NaN") && !page.contains(">inf") && !page.contains(">-inf"));
        for epoch in &mut report.epochs {
            epoch.validation.loss = Some(bad);
            epoch.train.loss = Some(bad);
        }
        assert!(html(&report).unwrap().contains("no data"));
    }
}

#[test]
fn a_class_without_rows_has_no_share() {
    let mut report = full();
    let test = report.test.as_mut().unwrap();
    test.confusion.as_mut().unwrap().counts = vec![vec![10, 0], vec![0, 0]];
    test.labels =
        vec![LabelScore { name: "unfair".to_owned(), recall: f64::NAN, ..Default::default() }];
    report.data.as_mut().unwrap().splits[0].label_rows = vec![1200];
    let page = html(&report).unwrap();
    assert!(page.contains("<b>0</b><span>–</span>"));
    assert!(markdown(&report).contains("| unfair | 0 (–) | 0 (–) |"));
}

#[test]
fn ticks_are_round_and_enclose_the_data() {
    let texts = |low, high| tick_texts(&ticks(low, high, 5, false));
    assert_eq!(texts(0.0, 1.0), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
    assert_eq!(texts(0.883, 0.891), ["0.882", "0.884", "0.886", "0.888", "0.890", "0.892"]);
    assert_eq!(texts(0.0, 1e-3), ["0", "2e-4", "4e-4", "6e-4", "8e-4", "1e-3"]);
    assert_eq!(texts(3.0, 1499.0), ["0", "500", "1000", "1500"]);
    assert_eq!(ticks(1.0, 10.0, 8, true).first(), Some(&0.0));
    assert_eq!(ticks(1.0, 3.0, 8, true), [1.0, 2.0, 3.0]);
    for (low, high) in
        [(0.02, 0.87), (0.8812, 0.8931), (1e-7, 1e-3), (-3.0, 17.0), (5.0, 5.0), (0.0, 0.0)]
    {
        let ticks = ticks(low, high, 5, false);
        assert!(ticks[0] <= low && *ticks.last().unwrap() >= high, "{low} {high} {ticks:?}");
        assert!((2..=9).contains(&ticks.len()), "{ticks:?}");
    }
    for (low, high) in [(f64::NAN, 1.0), (2.0, 1.0), (f64::NEG_INFINITY, f64::INFINITY)] {
        assert_eq!(ticks(low, high, 5, false), [0.0, 1.0]);
    }
}

#[test]
fn one_point_is_drawn_and_a_gap_breaks_the_line() {
    let axis = Axis { name: "epoch", range: None, whole: true };
    let chart = |points| {
        let series = vec![Series { name: "a<b", points }];
        let mark = Some(Mark::Line { x: 1.0, text: "best".to_owned() });
        draw(&Chart {
            width: 340.0,
            title: "t",
            x: axis,
            y: Axis { whole: false, ..axis },
            series,
            mark,
        })
    };
    let one = chart(vec![(1.0, 0.5)]);
    assert!(one.contains("<circle") && !one.contains("NaN") && one.contains("a&lt;b"));
    let gap = chart(vec![(1.0, 0.5), (2.0, f64::NAN), (3.0, 0.7), (4.0, 0.1)]);
    let path = gap.split(r#"<path class="curve s0" d=""#).nth(1).unwrap();
    assert_eq!(path.split('"').next().unwrap().matches('M').count(), 2);
}
