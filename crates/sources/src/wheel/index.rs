//! A package's page in a simple index, as JSON (PEP 691) or HTML (PEP 503), and the choice of a
//! wheel from it. Withdrawn files (PEP 592) are taken only when their version is asked for.
//!
//! Refuses files without a sha256: what is unpacked must be what the index vouches for.

use std::collections::BTreeMap;
use std::str::FromStr;

use pep440_rs::Version;
use serde::Deserialize;
use ureq::http::Uri;

use crate::Error;
use crate::http::{self, Client, join};
use crate::name::{is_plain, normalise};

const ACCEPT: &str = "application/vnd.pypi.simple.v1+json, \
     application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1";

/// A wheel that can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wheel {
    pub filename: String,
    pub url: Uri,
    pub version: Version,
    pub sha256: String,
    pub size: Option<u64>,
    withdrawn: bool,
    universal: bool,
}

/// One file of the page, before it is known to be a wheel.
#[derive(Debug, Default, PartialEq, Eq)]
struct Entry {
    filename: String,
    href: String,
    sha256: Option<String>,
    size: Option<u64>,
    withdrawn: bool,
}

/// The wheels of a package, and why others cannot be used.
pub(super) struct Wheels {
    usable: Vec<Wheel>,
    without_hash: Vec<String>,
}

pub(super) fn wheels(client: &Client, index: &Uri, package: &str) -> Result<Wheels, Error> {
    let page = join(index, &format!("{}/{package}/", index.path().trim_end_matches('/')))?;
    let answer = client.get(&page, &[("accept", ACCEPT)])?;
    match answer.status {
        404 => {
            return Err(Error::NotFound {
                what: "package",
                name: package.into(),
                place: http::public(index),
            });
        }
        401 | 403 => {
            return Err(Error::Refused {
                name: package.into(),
                url: http::public(index),
                status: answer.status,
                hint: "put the index's user and password into its address \
                       (PIP_INDEX_URL=https://USER:PASSWORD@HOST/…)",
            });
        }
        _ => {}
    }
    let answer = answer.ok()?;
    let (url, content_type) =
        (answer.url.clone(), answer.last_header("content-type").unwrap_or_default().to_owned());
    let text = answer.text()?;
    let (base, entries) = if content_type.contains("json") {
        let reason = |error: serde_json::Error| format!("not an index page: {error}");
        (url.clone(), from_json(&text).map_err(|error| http::bad(&url, &reason(error)))?)
    } else {
        let (base, entries) = from_html(&text);
        (base.map_or_else(|| Ok(url.clone()), |base| join(&url, &base))?, entries)
    };

    let mut wheels = Wheels { usable: Vec::new(), without_hash: Vec::new() };
    for entry in entries {
        let Some((version, universal)) = read_filename(&entry.filename, package) else { continue };
        let hash = entry
            .sha256
            .filter(|hash| hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let Some(sha256) = hash else {
            wheels.without_hash.push(entry.filename);
            continue;
        };
        wheels.usable.push(Wheel {
            url: join(&base, &entry.href)?,
            filename: entry.filename,
            version,
            sha256: sha256.to_ascii_lowercase(),
            size: entry.size,
            withdrawn: entry.withdrawn,
            universal,
        });
    }
    Ok(wheels)
}

/// The wheel to take: of the wanted version, else of the newest that is final and not withdrawn
/// (a pre-release only where nothing else is); any platform's, for the model is the same in all.
pub(super) fn choose(wheels: Wheels, wanted: Option<&Version>) -> Result<Wheel, String> {
    let Wheels { usable, without_hash } = wheels;
    let candidates: Vec<&Wheel> = match wanted {
        Some(version) => usable.iter().filter(|wheel| wheel.version == *version).collect(),
        None => {
            let offered: Vec<&Wheel> = usable.iter().filter(|wheel| !wheel.withdrawn).collect();
            let is_final = |wheel: &&Wheel| !wheel.version.any_prerelease();
            let finals: Vec<&Wheel> = offered.iter().copied().filter(is_final).collect();
            if finals.is_empty() { offered } else { finals }
        }
    };
    // Of equals the first listed: max_by_key alone would take the last.
    let best = candidates.iter().rev().max_by_key(|w| (&w.version, !w.withdrawn, w.universal));
    if let Some(&best) = best {
        if best.withdrawn {
            tracing::warn!("{} was withdrawn by its publisher", best.filename);
        }
        return Ok(best.clone());
    }
    if let Some(file) = without_hash.first() {
        return Err(format!("{file} has no sha256 there, so it cannot be verified"));
    }
    let mut versions: Vec<&Version> = usable.iter().map(|wheel| &wheel.version).collect();
    versions.sort_unstable();
    versions.dedup();
    let versions: Vec<String> = versions.iter().rev().take(10).map(ToString::to_string).collect();
    Err(match (wanted, versions.is_empty()) {
        (_, true) => "it has no wheels".into(),
        (Some(wanted), false) => {
            format!("there is no version {wanted}; the newest are {}", versions.join(", "))
        }
        (None, false) => "all its wheels were withdrawn".into(),
    })
}

/// Version and whether it fits every platform, from `name-version(-build)-python-abi-platform.whl`.
fn read_filename(filename: &str, package: &str) -> Option<(Version, bool)> {
    let parts: Vec<&str> = filename.strip_suffix(".whl")?.split('-').collect();
    let safe = is_plain(&filename.replace('!', ".")); // an epoch is written 1!2.0
    if !safe || !matches!(parts.len(), 5 | 6) || normalise(parts[0]) != package {
        return None;
    }
    let version = Version::from_str(parts[1]).ok()?;
    Some((version, parts[parts.len() - 2..] == ["none", "any"]))
}

fn from_json(text: &str) -> Result<Vec<Entry>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Page {
        files: Vec<File>,
    }
    #[derive(Deserialize)]
    struct File {
        filename: String,
        url: String,
        #[serde(default)]
        hashes: BTreeMap<String, String>,
        size: Option<u64>,
        /// A boolean, or the reason why.
        #[serde(default)]
        yanked: serde_json::Value,
    }
    let page: Page = serde_json::from_str(text)?;
    let entry = |mut file: File| Entry {
        filename: file.filename,
        href: file.url,
        sha256: file.hashes.remove("sha256"),
        size: file.size,
        withdrawn: match file.yanked {
            serde_json::Value::Bool(withdrawn) => withdrawn,
            serde_json::Value::String(_) => true,
            _ => false,
        },
    };
    Ok(page.files.into_iter().map(entry).collect())
}

/// The page's base address, if it gives one, and its links.
fn from_html(text: &str) -> (Option<String>, Vec<Entry>) {
    let (mut base, mut entries) = (None, Vec::new());
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        rest = &rest[start + 1..];
        if let Some(comment) = rest.strip_prefix("!--") {
            rest = comment.find("-->").map_or("", |end| &comment[end + 3..]);
            continue;
        }
        let (tag, mut attributes, after) = read_tag(rest);
        rest = after;
        let Some(href) = attributes.remove("href") else { continue };
        match tag.as_str() {
            "base" if base.is_none() => base = Some(href),
            "a" => {
                let (address, fragment) = href.split_once('#').unwrap_or((&href, ""));
                let path = address.split('?').next().unwrap_or_default();
                let name = path.rsplit('/').next().unwrap_or_default();
                let hash = fragment.split('&').find_map(|part| part.strip_prefix("sha256="));
                entries.push(Entry {
                    filename: percent_encoding::percent_decode_str(name)
                        .decode_utf8_lossy()
                        .into_owned(),
                    href: address.to_owned(),
                    sha256: hash.map(str::to_owned),
                    size: None,
                    withdrawn: attributes.contains_key("data-yanked"),
                });
            }
            _ => {}
        }
    }
    (base, entries)
}

/// A tag's name and attributes, read after its `<`, and what follows its `>`.
fn read_tag(text: &str) -> (String, BTreeMap<String, String>, &str) {
    let name_end = text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len());
    let (name, mut rest) = text.split_at(name_end);
    let mut attributes = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '/');
        if let Some(after) = rest.strip_prefix('>') {
            return (name.to_ascii_lowercase(), attributes, after);
        }
        if rest.is_empty() || rest.starts_with('<') {
            return (name.to_ascii_lowercase(), attributes, rest); // broken off
        }
        let is_end = |c: char| c.is_whitespace() || "=>/".contains(c);
        let end = rest.find(is_end).unwrap_or(rest.len());
        // A stray `=` names nothing, but must be passed over.
        let (key, after) = if end == 0 { rest.split_at(1) } else { rest.split_at(end) };
        let after_key = after.trim_start();
        let mut value = "";
        rest = after;
        if let Some(given) = after_key.strip_prefix('=') {
            let given = given.trim_start();
            (value, rest) = match given.chars().next().filter(|c| *c == '"' || *c == '\'') {
                Some(quote) => given[1..].split_once(quote).unwrap_or((&given[1..], "")),
                None => given.split_at(
                    given.find(|c: char| c.is_whitespace() || c == '>').unwrap_or(given.len()),
                ),
            };
        }
        attributes.entry(key.to_ascii_lowercase()).or_insert_with(|| unescape(value));
    }
}

fn unescape(value: &str) -> String {
    let entities = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&#x27;", "'"),
        ("&amp;", "&"),
    ];
    entities.iter().fold(value.to_owned(), |text, (entity, plain)| text.replace(entity, plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wheel(filename: &str, withdrawn: bool) -> Wheel {
        let (version, universal) = read_filename(filename, "m").expect(filename);
        let url = http::parse("http://host/x").expect("url");
        let sha256 = "0".repeat(64);
        Wheel { filename: filename.into(), url, version, sha256, size: None, withdrawn, universal }
    }

    fn chosen(wheels: &[Wheel], wanted: Option<&str>) -> Result<String, String> {
        let wanted = wanted.map(|text| Version::from_str(text).expect(text));
        let wheels = Wheels { usable: wheels.to_vec(), without_hash: vec![] };
        choose(wheels, wanted.as_ref()).map(|wheel| wheel.filename)
    }

    #[test]
    fn the_newest_final_wheel_that_was_not_withdrawn_is_taken() {
        let wheels = [
            wheel("m-0.9-py3-none-any.whl", false),
            wheel("m-0.10-cp312-cp312-manylinux_2_28_x86_64.whl", false),
            wheel("m-0.10-py3-none-any.whl", false),
            wheel("m-0.11-py3-none-any.whl", true),
            wheel("m-1.0rc1-py3-none-any.whl", false),
        ];
        assert_eq!(chosen(&wheels, None).expect("one"), "m-0.10-py3-none-any.whl");
        assert_eq!(chosen(&wheels, Some("0.9.0")).expect("pinned"), "m-0.9-py3-none-any.whl");
        assert_eq!(chosen(&wheels, Some("0.11")).expect("withdrawn"), "m-0.11-py3-none-any.whl");
        assert_eq!(chosen(&wheels[4..], None).expect("pre"), "m-1.0rc1-py3-none-any.whl");
        let text = chosen(&wheels, Some("7")).expect_err("absent");
        assert!(text.starts_with("there is no version 7; the newest are 1.0rc1, 0.11"), "{text}");
        assert_eq!(chosen(&wheels[3..4], None).expect_err("none"), "all its wheels were withdrawn");
        assert_eq!(chosen(&[], None).expect_err("none"), "it has no wheels");
    }

    #[test]
    fn html_pages_are_read() {
        let page = r#"<!DOCTYPE html><html><head><base href="/base/"></head><body>
            <!-- <a href="no.whl">no</a> -->
            <a href="../p/m-1.0-py3-none-any.whl#sha256=AB" data-requires-python="&gt;=3.7">x</a><br/>
            <A class=x HREF='m-2.0%2Bcpu-py3-none-any.whl?a=1&amp;b=2' data-yanked>m</A>"#;
        let (base, entries) = from_html(page);
        assert_eq!(base.as_deref(), Some("/base/"));
        let expected = [
            Entry {
                filename: "m-1.0-py3-none-any.whl".into(),
                href: "../p/m-1.0-py3-none-any.whl".into(),
                sha256: Some("AB".into()),
                ..Entry::default()
            },
            Entry {
                filename: "m-2.0+cpu-py3-none-any.whl".into(),
                href: "m-2.0%2Bcpu-py3-none-any.whl?a=1&b=2".into(),
                withdrawn: true,
                ..Entry::default()
            },
        ];
        assert_eq!(entries, expected);
    }

    #[test]
    fn other_files_are_no_wheels_of_this_package() {
        for name in [
            "m-1.0.tar.gz",
            "n-1.0-py3-none-any.whl",
            "m-x-py3-none-any.whl",
            "m-1.whl",
            "m-1.0-../x-none-any.whl",
        ] {
            assert!(read_filename(name, "m").is_none(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_page(text in "[<>a-z=\"'!/ #&;é-]{0,60}") {
            from_html(&text);
        }
    }
}
