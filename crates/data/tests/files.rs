//! Every format, kept byte for byte, and every malformed file, refused with file and row.

mod common;

use common::{Folder, refused, whole};
use data::{DataConfig, Error, read_texts};

fn texts(folder: &Folder, name: &str, content: impl AsRef<[u8]>) -> Result<Vec<String>, Error> {
    let rows = read_texts(&folder.file(name, content), "text")?;
    Ok(rows.into_iter().map(|(_, text)| text).collect())
}

#[test]
fn csv_keeps_quoted_text_byte_for_byte() -> Result<(), Error> {
    let folder = Folder::new();
    for line_break in ["\n", "\r\n"] {
        for bom in ["", "\u{feff}"] {
            let content = [
                "text,label",
                "\"one, \"\"two\"\"\nthree\r\nfour \n\",0",
                " plain\ttext ,1",
                "\"\",0",
                "\"nul \0, bidi \u{202e}, e\u{301}\u{301}\",1",
                "007,1",
            ]
            .join(line_break);
            for end in ["", line_break, &line_break.repeat(3)] {
                let data = folder.load(&whole(), "a.csv", format!("{bom}{content}{end}"))?;
                let read: Vec<_> =
                    data.train.iter().map(|row| (&*row.text, row.labels[0])).collect();
                let nasty = "nul \0, bidi \u{202e}, e\u{301}\u{301}";
                let wanted = [
                    ("one, \"two\"\nthree\r\nfour \n", 0),
                    (" plain\ttext ", 1),
                    ("", 0),
                    (nasty, 1),
                    ("007", 1),
                ];
                assert_eq!(read, wanted);
                assert_eq!(data.train[4].row, 5);
            }
        }
    }
    Ok(())
}

#[test]
fn csv_with_the_text_last_or_alone_is_kept_too() -> Result<(), Error> {
    let folder = Folder::new();
    let content = "id,text\r\n1,\"a\r\nb \r\n\"\r\n2,c \r\n";
    assert_eq!(texts(&folder, "a.csv", content)?, ["a\r\nb \r\n", "c "]);
    assert_eq!(texts(&folder, "b.csv", "text\nfirst\n\"\"\nlast")?, ["first", "", "last"]);
    Ok(())
}

#[test]
fn csv_of_semicolons_or_tabs_is_told_by_its_header() -> Result<(), Error> {
    let folder = Folder::new();
    for (separator, other) in [(";", "\t"), ("\t", ";")] {
        let rows = format!(
            "\"text\"{separator}label\r\n\"a, {separator}{other}b\"{separator}1\r\n, c{separator}0"
        );
        let data = folder.load(&whole(), "a.csv", rows)?;
        let read: Vec<_> = data.train.iter().map(|row| (&*row.text, row.labels[0])).collect();
        let quoted = format!("a, {separator}{other}b");
        assert_eq!(read, [(&*quoted, 1), (", c", 0)]);
    }
    // What stands beside the text column is what separates.
    for header in ["text\tlabel;old", "label, old;text", "label\ttext"] {
        let row: String = header
            .split_inclusive([',', ';', '\t'])
            .map(|field| {
                let separator = field.trim_start_matches(|c: char| !",;\t".contains(c));
                format!("x{separator}")
            })
            .collect();
        assert_eq!(texts(&folder, "e.tsv", format!("{header}\n{row}\n"))?, ["x"], "{header}");
    }
    let data = folder.load(&whole(), "b.csv", "text,label,\"x;y\",z;z;z\na;b,1,2,3\nc,0,,\n")?;
    assert_eq!(data.train[0].text, "a;b");
    assert_eq!(texts(&folder, "c.csv", "text\na;b\nc\td\n")?, ["a;b", "c\td"]);
    let short = folder.load(&whole(), "d.csv", "text;label\na;1\nb\n");
    refused(short, &["row 2 (line 3)", "1 fields", "has 2"]);
    Ok(())
}

#[test]
fn a_malformed_csv_is_refused_with_its_row_or_line() {
    let folder = Folder::new();
    let load = |content: &str| folder.load(&whole(), "a.csv", content);
    let header = "text,label\n\"two\nlines\",0\n";
    refused(load(&format!("{header}b,1,x\n")), &["a.csv", "row 2 (line 4)", "3 fields", "has 2"]);
    refused(load(&format!("{header}b\n")), &["row 2 (line 4)", "1 fields"]);
    refused(load(&format!("{header}\nb,1\n")), &["row 2 (line 4)", "0 fields"]);
    refused(load(&format!("{header},1\n")), &["a.csv, row 2: `text` is missing"]);
    refused(load(&format!("{header}b,\n")), &["a.csv, row 2: `label` is missing"]);
    refused(load(&format!("{header}a \"b\",1\n")), &["line 4", "quote inside"]);
    refused(load(&format!("{header}\"a\" b,1\n")), &["line 4", "after a closing quote"]);
    refused(load(&format!("{header}\"a,1\nb,0\n")), &["line 4", "never closed"]);
    refused(load(&format!("{header}\"a,1")), &["line 4", "never closed"]);
    refused(load("text,label\na\rb,1\n"), &["line 2", "carriage return"]);
    refused(load("text,label\n"), &["a.csv", "0 rows"]);
    refused(load("\ntext,label\na,1\n"), &["a.csv, line 1", "header is empty"]);
    refused(load("text,label"), &["a.csv", "0 rows"]);
    refused(load(""), &["a.csv is empty"]);
    refused(load("\u{feff}\n"), &["a.csv is empty"]);
    refused(folder.load(&whole(), "a.csv", b"text,label\nok,0\n\xff,1\n"), &["line 3", "UTF-8"]);
}

#[test]
fn a_missing_column_is_named_with_those_that_exist() {
    let folder = Folder::new();
    let wanted = DataConfig { label_column: Some("lable".into()), ..whole() };
    let parts = ["no column `lable`", "`label`, `text`", "did you mean `label`?"];
    let json = r#"{"label": 1, "text": "a"}"#;
    refused(folder.load(&wanted, "a.jsonl", json), &parts);
    refused(folder.load(&wanted, "a.csv", "label,text\n1,a\n"), &parts);
    let content = "sentence,target\na,1\n";
    refused(folder.load(&whole(), "a.csv", content), &["no column `text`", "`sentence`, `target`"]);
    let content = "text,Labels\na,1\n";
    refused(
        folder.load(&whole(), "a.csv", content),
        &["no column `label` or `labels`", "did you mean `Labels`?"],
    );
}

#[test]
fn jsonl_keeps_text_and_counts_lines() -> Result<(), Error> {
    let folder = Folder::new();
    let content = "\u{feff}{\"text\": \"a \\n\", \"labels\": []}\r\n\n\
                   {\"labels\": [3, 4], \"text\": \"\\u0000 \\ud83d\\ude00 e\u{301}\"}\n";
    let data = folder.load(&whole(), "a.jsonl", content)?;
    assert_eq!(data.labels.names, ["none", "any"]);
    let read: Vec<_> = data.train.iter().map(|e| (&*e.text, e.labels[0], e.row)).collect();
    assert_eq!(read, [("a \n", 0, 1), ("\0 \u{1f600} e\u{301}", 1, 3)]);
    Ok(())
}

#[test]
fn a_malformed_jsonl_line_is_refused() {
    let folder = Folder::new();
    let load = |line: &str| {
        let first = r#"{"text": "a", "label": 0}"#;
        folder.load(&whole(), "a.jsonl", format!("{first}\n{line}\n"))
    };
    refused(load(r#"{"text": "b", "label": 1"#), &["a.jsonl, line 2", "EOF", "column"]);
    refused(load(r#"{"text": "\ud800", "label": 1}"#), &["line 2", "surrogate"]);
    refused(load(r#"{"text": "\udc00x", "label": 1}"#), &["line 2", "surrogate"]);
    refused(load(r#"["b", 1]"#), &["line 2", "sequence"]);
    refused(load(r#"{"text": "b", "label": NaN}"#), &["line 2"]);
    refused(load(&"[".repeat(1_000_000)), &["line 2"]);
    let nested = format!("{{\"text\": \"b\", \"label\": {}", "[".repeat(1_000_000));
    refused(load(&nested), &["line 2", "recursion"]);
    refused(load(r#"{"text": null, "label": 1}"#), &["a.jsonl, row 2: `text` is missing"]);
    refused(load(r#"{"text": "b"}"#), &["row 2: `label` is missing"]);
    refused(load(r#"{"text": 5, "label": 1}"#), &["row 2: `text` holds the number 5, not text"]);
    refused(load(r#"{"text": "b", "label": 0.5}"#), &["row 2: `label` holds the number 0.5"]);
    refused(load(r#"{"text": "b", "label": {"a": 1}}"#), &["row 2: `label` holds an object"]);
    refused(folder.load(&whole(), "a.jsonl", b"{\"text\": \"\xc3\"}"), &["line 1", "UTF-8"]);
    refused(folder.load(&whole(), "a.jsonl", ""), &["a.jsonl is empty"]);
}

#[test]
fn parquet_is_read_and_its_damage_refused() -> Result<(), Box<dyn std::error::Error>> {
    use polars::prelude::*;
    let folder = Folder::new();
    let parquet = |frame: &mut DataFrame| -> PolarsResult<Vec<u8>> {
        let mut bytes = Vec::new();
        ParquetWriter::new(&mut bytes).finish(frame)?;
        Ok(bytes)
    };
    let texts = ["a \n", "\0", "c"];
    let lists = [Series::new_empty("".into(), &DataType::Int64), Series::new("".into(), [2_i64])];
    let labels =
        Series::new("labels".into(), [lists[0].clone(), lists[1].clone(), lists[0].clone()]);
    let bytes = parquet(&mut df!("id" => [1.5, 2.5, 3.5], "text" => texts, "labels" => labels)?)?;
    let data = folder.load(&whole(), "a.parquet", &bytes)?;
    let read: Vec<_> = data.train.iter().map(|e| (&*e.text, e.labels[0], e.row)).collect();
    assert_eq!(read, [("a \n", 0, 1), ("\0", 1, 2), ("c", 0, 3)]);

    for label in [
        Series::new("label".into(), [0_i8, 1, 0]),
        Series::new("label".into(), [0_u16, 1, 0]),
        Series::new("label".into(), [0.0, 1.0, 0.0]),
        Series::new("label".into(), [false, true, false]),
        Series::new("label".into(), ["no", "yes", "no"]),
    ] {
        let bytes = parquet(&mut df!("text" => texts, "label" => label)?)?;
        let data = folder.load(&whole(), "b.parquet", bytes)?;
        assert_eq!(data.train.iter().map(|e| e.labels[0]).collect::<Vec<_>>(), [0, 1, 0]);
    }
    let null = parquet(&mut df!("text" => [Some("a"), None], "label" => [0, 1])?)?;
    refused(folder.load(&whole(), "c.parquet", null), &["c.parquet, row 2: `text`"]);
    let null = parquet(&mut df!("text" => ["a", "b"], "label" => [Some(0), None])?)?;
    refused(folder.load(&whole(), "c.parquet", null), &["c.parquet, row 2: `label`"]);
    let number = parquet(&mut df!("text" => [1, 2], "label" => [0, 1])?)?;
    refused(
        folder.load(&whole(), "c.parquet", number),
        &["row 1: `text` holds a value of type i32"],
    );
    let none = parquet(&mut DataFrame::empty_with_schema(&Schema::from_iter([
        Field::new("text".into(), DataType::String),
        Field::new("label".into(), DataType::Int64),
    ])))?;
    refused(folder.load(&whole(), "c.parquet", none), &["c.parquet has 0 rows"]);
    refused(folder.load(&whole(), "c.parquet", ""), &["c.parquet is empty"]);
    for length in (1..bytes.len()).step_by(7) {
        refused(folder.load(&whole(), "cut.parquet", &bytes[..length]), &["cut.parquet"]);
    }
    Ok(())
}

#[test]
fn other_formats_and_absent_files_are_refused() {
    let folder = Folder::new();
    let parts = ["a.xlsx", "`.xlsx`", ".csv, .tsv, .jsonl, .ndjson or .parquet"];
    refused(folder.load(&whole(), "a.xlsx", "x"), &parts);
    refused(folder.load(&whole(), "a", "x"), &["without extension"]);
    for name in ["absent.csv", "absent.jsonl", "absent.parquet"] {
        refused(read_texts(&folder.0.path().join(name), "text"), &["cannot read", name]);
    }
}
