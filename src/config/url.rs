//! URLs in settings, and the passwords that may stand in them.

use crate::config::storage::Scheme;
use serde::{Deserialize, Serialize};
use std::ops::Deref;

/// A URL that may hold a password. It shows none, neither in `Debug` nor when settings are printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct DatabaseUrl(String);

impl Deref for DatabaseUrl {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&shown(&self.0))
    }
}

impl Serialize for DatabaseUrl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&shown(&self.0))
    }
}

impl DatabaseUrl {
    /// Checks that libpq can read it. In its errors libpq repeats what it cannot read, and if a password was not
    /// encoded as libpq expects, that is the password.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self
            .0
            .strip_prefix("sqlite:")
            .is_some_and(|path| !path.is_empty())
        {
            return Ok(());
        }
        let rest = self.0.split_once("://").and_then(|(scheme, rest)| {
            let is_postgres = ["postgresql", "postgres"].contains(&scheme);
            is_postgres.then_some(rest)
        });
        if rest.is_some_and(is_readable) {
            Ok(())
        } else {
            Err(
                "it is neither sqlite:PATH nor postgresql://USER:PASSWORD@HOST:PORT/NAME; in a password write \
                 spaces and each of `%`, `@`, `:`, `/`, `?`, `#`, `&` and `=` as `%` and two digits, such as %40",
            )
        }
    }
}

/// Whether libpq reads what follows `postgresql://` as it is meant.
fn is_readable(rest: &str) -> bool {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = place.split('/').next().unwrap_or_default();
    let hosts = authority
        .split_once('@')
        .map_or(authority, |(_, hosts)| hosts);
    let is_encoded = rest.split('%').skip(1).all(|text| {
        let digits = text.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    let is_option = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or_default();
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        !name.is_empty() && name.bytes().all(is_name) && !value.contains(['=', '?'])
    };
    is_encoded
        && !rest.contains(|c: char| c.is_whitespace() || c.is_control())
        && hosts.split(',').all(is_host)
        && (query.is_empty() || query.split('&').all(is_option))
}

/// Whether this is a host with at most a port. What follows a colon otherwise is the beginning of a password.
fn is_host(host: &str) -> bool {
    let after = host.rfind(']').map_or(0, |bracket| bracket + 1);
    let port = host[after..].split_once(':').map(|(_, port)| port);
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    !host.contains('@') && port.is_none_or(is_port)
}

/// Checks the URL of a storage or of a service. It is shown in answers, errors and settings, so it must hold no secret.
pub(super) fn check(url: &str) -> Result<(), &'static str> {
    let (scheme, rest) = url.split_once(':').unwrap_or_default();
    if scheme == "fs" {
        return if rest.is_empty() {
            Err("name the directory: fs:DIRECTORY")
        } else {
            Ok(())
        };
    }
    let is_known = ["http", "https"].contains(&scheme) || Scheme::parse(scheme).is_some();
    let rest = rest.strip_prefix("//").filter(|_| is_known);
    let Some(rest) = rest else {
        return Err(
            "it is no URL of a known kind, such as https://HOST, s3://BUCKET or fs:DIRECTORY",
        );
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.split_once('@') {
        Some((user, host)) if scheme == "sftp" && !user.contains(':') => host,
        _ => authority,
    };
    if is_host(host) && !rest.contains(['?', '#']) {
        Ok(())
    } else {
        Err("no password, user or query belongs in it; use the settings for those")
    }
}

/// Options of a PostgreSQL URL whose values are no secrets.
const OPEN_OPTIONS: [&str; 18] = [
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "application_name",
    "client_encoding",
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "target_session_attrs",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
];

/// A database's URL without what may be a secret.
fn shown(url: &str) -> String {
    const HIDDEN: &str = "<hidden>";
    if url.starts_with("sqlite:") {
        return url.to_owned();
    }
    let Some((scheme @ ("postgresql" | "postgres"), rest)) = url.split_once("://") else {
        return HIDDEN.to_owned();
    };
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let place = match place.rsplit_once('@') {
        Some((user, place)) => match user.split_once(':') {
            Some((name, _)) => format!("{name}:{HIDDEN}@{place}"),
            None => format!("{user}@{place}"),
        },
        None => place.to_owned(),
    };
    let mut shown = format!("{scheme}://{place}");
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    for (n, pair) in pairs.enumerate() {
        shown.push(if n == 0 { '?' } else { '&' });
        match pair.split_once('=') {
            Some((name, _)) if OPEN_OPTIONS.contains(&name) => shown.push_str(pair),
            Some((name, _)) => shown.push_str(&format!("{name}={HIDDEN}")),
            None => shown.push_str(HIDDEN),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_url_shows_no_password() {
        for (url, expected) in [
            ("sqlite:/var/lib/x.db", "sqlite:/var/lib/x.db"),
            ("postgresql://u@h/n", "postgresql://u@h/n"),
            (
                "postgresql://u:hunter2@h:5/n",
                "postgresql://u:<hidden>@h:5/n",
            ),
            ("postgresql://u:hun@ter2@h/n", "postgresql://u:<hidden>@h/n"),
            ("postgresql://u:hun/ter2@h/n", "postgresql://u:<hidden>@h/n"),
            (
                "postgresql://u@h/n?sslpassword=hunter2&host=x&password=hunter2",
                "postgresql://u@h/n?sslpassword=<hidden>&host=x&password=<hidden>",
            ),
            (
                "postgresql://u@h/n?pw=hunter2&hunter2",
                "postgresql://u@h/n?pw=<hidden>&<hidden>",
            ),
            ("host=h password=hunter2", "<hidden>"),
            ("postgresql:u:hunter2@h/n", "<hidden>"),
            ("postgresql:/u:hunter2@h/n", "<hidden>"),
            ("mysql://u:hunter2@h/n", "<hidden>"),
            (" postgresql://u:hunter2@h/n", "<hidden>"),
        ] {
            let url = DatabaseUrl(url.to_owned());
            assert_eq!(format!("{url:?}"), expected);
        }
    }

    #[test]
    fn a_url_that_libpq_would_repeat_is_refused_without_it() {
        let check = |url: &str| DatabaseUrl(url.to_owned()).check();
        for url in [
            "sqlite:/a%zz@b c?d",
            "postgresql://u:p%40%2F@h/n",
            "postgresql://u:p#q@h/n",
            "postgresql://u@%2Frun%2Fpg/n?connect_timeout=3",
            "postgresql:///n?host=/run/pg",
            "postgresql://u:p@[::1]:5432,h:1/n",
            "postgres://h",
        ] {
            assert_eq!(check(url), Ok(()), "{url}");
        }
        for url in [
            "postgresql://u:hun%zzter2@h/n",
            "postgresql://u:hunter2%@h/n",
            "postgresql://u:hun@ter2@h/n",
            "postgresql://u:hunter2/@h/n",
            "postgresql://u:hunter2?@h/n",
            "postgresql://u:hunter2 x@h/n",
            "postgresql://u:hunter2\n@h/n",
            "postgresql://u@h/n?hunter2",
            "postgresql://u@h/n?password=hunter=2",
            "postgresql://u@h/n?password=hunter2&",
            "postgresql:u:hunter2@h/n",
            "postgresql:/u:hunter2@h/n",
            "postgresql+psycopg2://u:hunter2@h/n",
            "POSTGRESQL://u:hunter2@h/n",
            " postgresql://u:hunter2@h/n",
            "mysql://u:hunter2@h/n",
            "host=h password=hunter2",
            "hunter2",
            "sqlite:",
            "",
        ] {
            assert!(
                check(url).is_err_and(|why| !why.contains("hunter")),
                "{url}"
            );
        }
    }

    #[test]
    fn urls_that_are_shown_hold_no_secret() {
        for url in [
            "sftp://u@h:22/x",
            "https://h:5000/v3",
            "webdav+https://h/a b/c",
            "fs:a:b@c?d",
            "https://h/a:b@c",
            "s3://bucket/folder",
        ] {
            assert_eq!(check(url), Ok(()), "{url}");
        }
        for url in [
            "webdav+https://u:hunter2@h/x",
            "https://u:@h",
            "https://u:hunter2/x@h",
            "webdav+https:u:hunter2@h/x",
            "s3://hunter2@b",
            "sftp://u:hunter2@h/x",
            "https://h/container?sig=hunter2",
            "https://h#hunter2",
            "fs:",
            "ftp://u:hunter2@h",
            "hunter2",
            "",
        ] {
            assert!(
                check(url).is_err_and(|why| !why.contains("hunter")),
                "{url}"
            );
        }
    }
}
