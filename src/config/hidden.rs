//! Hides passwords of URLs in any text: the last guard of what is printed or logged. Settings hide their own secrets
//! ([`crate::config::Secret`], [`crate::config::DatabaseUrl`]), but a library may repeat in an error what it was given.

use std::borrow::Cow;

const HIDDEN: &str = "<hidden>";

/// The text without the passwords of the URLs in it.
pub fn without_passwords(text: &str) -> Cow<'_, str> {
    if !text.contains("://") {
        return Cow::Borrowed(text);
    }
    let (mut shown, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        let scheme = before[..at].rsplit(|c: char| !is_of_scheme(c)).next();
        let is_database = scheme.is_some_and(|scheme| scheme.starts_with("postgres"));
        let end = after.find(ends_url).unwrap_or(after.len());
        let (url, next) = after.split_at(end);
        shown.push_str(before);
        shown.push_str(&of_url(url, is_database));
        rest = next;
    }
    shown.push_str(rest);
    Cow::Owned(shown)
}

fn is_of_scheme(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')
}

fn ends_url(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || matches!(c, '"' | '\'' | '`' | '<' | '>' | '\\' | ',' | ';' | ')')
}

/// What follows `://`. In the URL of a database a password may hold a `/` that should have been encoded.
fn of_url(url: &str, is_database: bool) -> String {
    let end = if is_database {
        url.find('?').unwrap_or(url.len())
    } else {
        url.find(['/', '?', '#']).unwrap_or(url.len())
    };
    let (authority, tail) = url.split_at(end);
    let authority = match authority.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((name, _)) => format!("{name}:{HIDDEN}@{host}"),
            None => authority.to_owned(),
        },
        None => authority.to_owned(),
    };
    format!("{authority}{}", of_query(tail))
}

/// Hides the values of parameters whose names say that they are secrets.
fn of_query(tail: &str) -> String {
    let Some((path, query)) = tail.split_once('?') else {
        return tail.to_owned();
    };
    let pairs = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, _)) if is_secret(name) => format!("{name}={HIDDEN}"),
        _ => pair.to_owned(),
    });
    format!("{path}?{}", pairs.collect::<Vec<_>>().join("&"))
}

fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    let words = ["password", "secret", "token", "signature", "credential"];
    name == "sig" || words.iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_of_urls_are_hidden_in_any_text() {
        for (text, expected) in [
            ("nothing here", "nothing here"),
            (
                "cannot reach http://u:hunter2@h:5000/v3: refused",
                "cannot reach http://u:<hidden>@h:5000/v3: refused",
            ),
            (
                "x=\"postgresql://u:hun/ter2@h/n\" and https://u:hunter2@h",
                "x=\"postgresql://u:<hidden>@h/n\" and https://u:<hidden>@h",
            ),
            (
                "webdav+https://u:hunter2@h/x",
                "webdav+https://u:<hidden>@h/x",
            ),
            (
                "postgres://h/n?user=u&password=hunter2&sslpassword=hunter2)",
                "postgres://h/n?user=u&password=<hidden>&sslpassword=<hidden>)",
            ),
            (
                "https://h/c?sv=1&sig=hunter2",
                "https://h/c?sv=1&sig=<hidden>",
            ),
            (
                "https://h/c?X-Amz-Signature=hunter2",
                "https://h/c?X-Amz-Signature=<hidden>",
            ),
            // These hold none.
            ("http://h:8776/v3/a:b@c?x=y", "http://h:8776/v3/a:b@c?x=y"),
            ("sftp://user@h:22/x", "sftp://user@h:22/x"),
            ("http://[::1]:8776/", "http://[::1]:8776/"),
            ("://", "://"),
        ] {
            assert_eq!(without_passwords(text), expected);
            assert!(!without_passwords(text).contains("hunter2"));
        }
    }
}
