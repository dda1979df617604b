//! The little of RFC 3986 that redirects and index pages need, over `http::Uri`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use ureq::http::Uri;

use super::Credential;
use crate::Error;

/// An absolute http or https address.
pub(crate) fn parse(text: &str) -> Result<Uri, Error> {
    let bad = |reason: String| {
        // What cannot be parsed may still hold a password: show nothing before an `@`.
        let shown = text.rsplit('@').next().unwrap_or_default();
        let shown = shown.split('?').next().unwrap_or_default();
        Error::BadAnswer { url: shown.to_owned(), reason }
    };
    let text = text.trim();
    let uri: Uri =
        text.split('#').next().unwrap_or(text).parse().map_err(|e| bad(format!("{e}")))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http" | "https"), Some(_)) => Ok(uri),
        _ => Err(bad("not an http or https address".into())),
    }
}

/// `reference` as seen from `base`.
pub(crate) fn join(base: &Uri, reference: &str) -> Result<Uri, Error> {
    let reference = reference.trim();
    let reference = reference.split('#').next().unwrap_or(reference);
    let scheme = base.scheme_str().unwrap_or("https");
    let authority = base.authority().map_or("", |authority| authority.as_str());
    let has_scheme = reference
        .split_once(':')
        .is_some_and(|(head, _)| !head.contains(['/', '?', '.']) && !head.is_empty());
    if has_scheme {
        return parse(reference);
    }
    if let Some(rest) = reference.strip_prefix("//") {
        return parse(&format!("{scheme}://{rest}"));
    }
    let (path, query) = match reference.split_once('?') {
        Some((path, query)) => (path, format!("?{query}")),
        None => (reference, String::new()),
    };
    let path = match path {
        "" => base.path().to_owned(),
        absolute if absolute.starts_with('/') => without_dots(absolute),
        relative => {
            let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            without_dots(&format!("{folder}/{relative}"))
        }
    };
    parse(&format!("{scheme}://{authority}{path}{query}"))
}

fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    if path.ends_with("/.") || path.ends_with("/..") {
        kept.push("");
    }
    format!("/{}", kept.join("/"))
}

/// Scheme, host and port: what a credential is bound to.
pub(crate) fn origin(url: &Uri) -> String {
    let scheme = url.scheme_str().unwrap_or("https");
    let port = url.port_u16().unwrap_or(if scheme == "http" { 80 } else { 443 });
    format!("{scheme}://{}:{port}", url.host().unwrap_or_default().to_ascii_lowercase())
}

/// The address as messages may show it.
pub(crate) fn public(url: &Uri) -> String {
    let scheme = url.scheme_str().unwrap_or("https");
    let port = url.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{scheme}://{}{port}{}", url.host().unwrap_or_default(), url.path())
}

/// Takes `user:password@` out of an address and makes it a credential for that origin.
pub(crate) fn split_credentials(url: &Uri) -> Result<(Uri, Option<Credential>), Error> {
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let Some((user, _)) = authority.rsplit_once('@') else {
        return Ok((url.clone(), None));
    };
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let mut plain: Vec<u8> = percent_decode_str(name).collect();
    plain.push(b':');
    plain.extend(percent_decode_str(password));
    let header = format!("Basic {}", STANDARD.encode(plain));
    let bare = parse(&format!(
        "{}{}",
        public(url),
        url.query().map(|query| format!("?{query}")).unwrap_or_default()
    ))?;
    let origin = origin(&bare);
    Ok((bare, Some(Credential { origin, header })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_resolve_as_rfc_3986_says() {
        let base = parse("https://host:8443/a/b/c?q=1").expect("base");
        for (reference, expected) in [
            ("d.whl#sha256=00", "https://host:8443/a/b/d.whl"),
            ("../../packages/d.whl", "https://host:8443/packages/d.whl"),
            ("../../../../d", "https://host:8443/d"),
            ("./", "https://host:8443/a/b/"),
            ("..", "https://host:8443/a/"),
            ("/x/./y?r=2", "https://host:8443/x/y?r=2"),
            ("//other/x", "https://other/x"),
            ("http://other:1/x?y", "http://other:1/x?y"),
            ("", "https://host:8443/a/b/c"),
        ] {
            let joined = join(&base, reference).expect(reference).to_string();
            assert_eq!(joined, expected, "{reference:?}");
        }
        for reference in ["file:///etc/passwd", "javascript:x", "http://"] {
            assert!(join(&base, reference).is_err(), "{reference}");
        }
    }

    #[test]
    fn origins_differ_by_scheme_host_and_port() {
        let of = |text: &str| origin(&parse(text).expect(text));
        assert_eq!(of("https://Host/x"), of("https://host:443/y?z"));
        assert_ne!(of("https://host/"), of("http://host/"));
        assert_ne!(of("http://host:1/"), of("http://host:2/"));
    }

    #[test]
    fn credentials_leave_the_address() {
        let url = parse("https://me%40x:p%3Aw@host/simple").expect("url");
        let (bare, credential) = split_credentials(&url).expect("split");
        assert_eq!(bare.to_string(), "https://host/simple");
        let credential = credential.expect("credential");
        assert_eq!(credential.header, format!("Basic {}", STANDARD.encode("me@x:p:w")));
        assert_eq!(public(&url), "https://host/simple");
        let error = parse("htp://me:secret@host/x?sig=secret").expect_err("scheme").to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
