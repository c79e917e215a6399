//! The little of URL handling that service discovery needs, on plain text.

/// Scheme and authority: `https://cloud:8776` of `https://cloud:8776/v3/`.
pub(crate) fn origin(url: &str) -> &str {
    let authority = url.find("://").map_or(0, |at| at + 3);
    let end = url[authority..]
        .find(['/', '?', '#'])
        .map_or(url.len(), |at| authority + at);
    &url[..end]
}

/// Resolves a link found in the answer of `base`; absolute links stay as they are.
pub(crate) fn join(base: &str, link: &str) -> String {
    let scheme = link.split(['/', '?', '#']).next().unwrap_or_default();
    if scheme.ends_with(':') {
        return link.to_owned();
    }
    if link.starts_with('/') {
        return format!("{}{link}", origin(base));
    }
    let base = base.split(['?', '#']).next().unwrap_or(base);
    if link.starts_with('?') {
        return format!("{base}{link}");
    }
    let directory_end = base.rfind('/').filter(|&at| at >= origin(base).len());
    match directory_end {
        Some(at) => format!("{}/{link}", &base[..at]),
        None => format!("{base}/{link}"),
    }
}

/// `url` without its last path segment if that is the project (or `AUTH_` and the project), and
/// that segment. Neither part has a slash at its seam or end.
pub(crate) fn split_project<'a>(url: &'a str, project_id: &str) -> (&'a str, Option<&'a str>) {
    let url = url.trim_end_matches('/');
    match url.rsplit_once('/') {
        Some((rest, last))
            if !project_id.is_empty() && last.trim_start_matches("AUTH_") == project_id =>
        {
            (rest.trim_end_matches('/'), Some(last))
        }
        _ => (url, None),
    }
}

/// The identity URL ending in `/v3`, which is appended where it is missing.
pub(crate) fn with_v3(url: &str) -> String {
    let url = url.trim_end_matches('/');
    if url.ends_with("/v3") {
        url.to_owned()
    } else {
        format!("{url}/v3")
    }
}

/// `text` as one path segment or query value.
pub(crate) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(byte.into());
            }
            _ => encoded += &format!("%{byte:02X}"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_project_is_trimmed_only_where_it_is_the_last_segment() {
        let split = |url| split_project(url, "4a0d");
        assert_eq!(
            split("http://c/volume/v3/4a0d"),
            ("http://c/volume/v3", Some("4a0d"))
        );
        assert_eq!(
            split("http://c/volume/v3/4a0d/"),
            ("http://c/volume/v3", Some("4a0d"))
        );
        assert_eq!(
            split("http://c/v1/AUTH_4a0d"),
            ("http://c/v1", Some("AUTH_4a0d"))
        );
        assert_eq!(split("http://c/volume/v3/"), ("http://c/volume/v3", None));
        assert_eq!(split("http://c/4a0d/v3"), ("http://c/4a0d/v3", None));
        assert_eq!(split_project("http://c/v3/x", ""), ("http://c/v3/x", None));
    }

    #[test]
    fn links_resolve_against_where_they_were_found() {
        let base = "https://c:8776/volume/v3/p/backups/detail?limit=2";
        assert_eq!(join(base, "http://o/x"), "http://o/x");
        assert_eq!(
            join(base, "/x?next=http://o/"),
            "https://c:8776/x?next=http://o/"
        );
        assert_eq!(join(base, "/v3/x?marker=1"), "https://c:8776/v3/x?marker=1");
        assert_eq!(
            join(base, "?marker=1"),
            "https://c:8776/volume/v3/p/backups/detail?marker=1"
        );
        assert_eq!(
            join(base, "next"),
            "https://c:8776/volume/v3/p/backups/next"
        );
        assert_eq!(join("https://c", "next"), "https://c/next");
    }

    #[test]
    fn an_origin_ends_before_path_and_query() {
        assert_eq!(origin("https://[::1]:8776/v3/"), "https://[::1]:8776");
        assert_eq!(origin("http://c?x=/y"), "http://c");
        assert_eq!(origin("http://c"), "http://c");
    }

    #[test]
    fn the_identity_version_is_appended_once() {
        assert_eq!(with_v3("http://c/identity"), "http://c/identity/v3");
        assert_eq!(with_v3("http://c/identity/v3/"), "http://c/identity/v3");
    }

    #[test]
    fn a_name_is_encoded_for_a_query() {
        assert_eq!(encoded("scs-test-ü &/"), "scs-test-%C3%BC%20%26%2F");
    }
}
