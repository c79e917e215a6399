//! Where clients reach us: the base of every link (Cinder reference, 1.6 and 8.2).
//!
//! The host and path from a request appear in answers, which others may get from a cache. So only a plain host or path is
//! accepted. The headers of a proxy are ignored unless a proxy is configured.

use crate::config;
use actix_web::HttpRequest;
use actix_web::http::header::HeaderMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// `scheme://host[/prefix]`, without a slash at its end.
pub(crate) fn base(settings: &config::Api, headers: &HeaderMap) -> String {
    if let Some(endpoint) = &settings.public_endpoint {
        return endpoint.trim_end_matches('/').to_owned();
    }
    let header = |name: &str| headers.get(name)?.to_str().ok();
    let asked = header("Host").and_then(host).unwrap_or("localhost");
    if !settings.proxy_headers {
        return format!("http://{asked}");
    }
    let told = |field: &str, name: &str| {
        let forwarded = last(headers, "Forwarded").map(|element| forwarded_field(element, field));
        agreed(forwarded, last(headers, name).map(Some))
    };
    let scheme = told("proto", "X-Forwarded-Proto").and_then(scheme);
    let host = told("host", "X-Forwarded-Host").and_then(host);
    let prefix = last(headers, "X-Forwarded-Prefix").and_then(prefix);
    let (scheme, host) = (scheme.unwrap_or("http"), host.unwrap_or(asked));
    let prefix = prefix.unwrap_or_default();
    format!("{scheme}://{host}{prefix}")
}

/// The address of the client, as our proxy has written it.
pub(crate) fn client(settings: &config::Api, request: &HttpRequest) -> Option<IpAddr> {
    let peer = request.peer_addr().map(|peer| peer.ip());
    if !settings.proxy_headers {
        return peer;
    }
    let headers = request.headers();
    let forwarded = last(headers, "Forwarded");
    let forwarded = forwarded.map(|element| address(forwarded_field(element, "for")?));
    agreed(forwarded, last(headers, "X-Forwarded-For").map(address)).or(peer)
}

/// The last element of a header, which our proxy has written. Those before it may come from the client itself.
fn last<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let header = headers.get_all(name).last()?.to_str().ok()?;
    header.split(',').next_back().map(str::trim)
}

/// The value of the two kinds of headers; each may be absent. If they disagree, one of them is not from our proxy,
/// and neither is trusted.
fn agreed<T: PartialEq>(forwarded: Option<Option<T>>, older: Option<Option<T>>) -> Option<T> {
    match (forwarded, older) {
        (Some(told), None) | (None, Some(told)) => told,
        (Some(told), Some(other)) if told == other => told,
        _ => None,
    }
}

/// An address as proxies write it: with or without a port, IPv6 in brackets then.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    with_port().or_else(|| bare.parse().ok())
}

/// The value under a name in an element of a `Forwarded` header (RFC 7239).
fn forwarded_field<'h>(element: &'h str, name: &str) -> Option<&'h str> {
    element.split(';').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        let is_it = key.trim().eq_ignore_ascii_case(name);
        is_it.then(|| value.trim().trim_matches('"'))
    })
}

fn scheme(text: &str) -> Option<&'static str> {
    let schemes = ["http", "https"];
    let is_it = |scheme: &&str| scheme.eq_ignore_ascii_case(text.trim());
    schemes.into_iter().find(is_it)
}

/// A name or an address, with or without a port.
fn host(text: &str) -> Option<&str> {
    let text = text.trim();
    let end = if text.starts_with('[') {
        text.find(']')? + 1
    } else {
        text.find(':').unwrap_or(text.len())
    };
    let (name, port) = text.split_at(end);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let is_name = match name.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse::<Ipv6Addr>().is_ok(),
        None => !name.is_empty() && name.chars().all(is_plain),
    };
    let is_number = |port: &str| {
        let is_digits = port.bytes().all(|byte| byte.is_ascii_digit());
        is_digits && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    let is_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_number);
    (is_name && is_port).then_some(text)
}

/// A path of plain names, without a slash at its end.
fn prefix(text: &str) -> Option<&str> {
    let path = text.trim().trim_end_matches('/');
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    let is_name = |name: &str| !["", ".", ".."].contains(&name) && name.chars().all(is_plain);
    let names = path.strip_prefix('/')?;
    names.split('/').all(is_name).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::{HeaderName, HeaderValue};
    use actix_web::test::TestRequest;

    fn link(settings: &config::Api, headers: &[(&str, &str)]) -> String {
        let mut map = HeaderMap::new();
        map.insert(
            HeaderName::from_static("host"),
            HeaderValue::from_static("inside:8776"),
        );
        for (name, value) in headers {
            let name = HeaderName::try_from(*name).unwrap();
            map.insert(name, HeaderValue::try_from(*value).unwrap());
        }
        base(settings, &map)
    }

    #[test]
    fn the_client_is_whom_our_own_proxy_names() {
        let sender = |settings: &config::Api, headers: &[(&str, &str)]| {
            let peer = SocketAddr::from(([10, 0, 0, 1], 1));
            let mut request = TestRequest::get().peer_addr(peer);
            for header in headers {
                request = request.append_header(*header);
            }
            let told = client(settings, &request.to_http_request());
            told.map(|address| address.to_string()).unwrap_or_default()
        };
        let mut settings = config::Api::default();
        let chain = ("X-Forwarded-For", "192.0.2.1, 192.0.2.2");
        assert_eq!(sender(&settings, &[chain]), "10.0.0.1");
        settings.proxy_headers = true;
        let standard = "for=192.0.2.1, for=\"[2001:db8::2]:80\";proto=https";
        for (headers, expected) in [
            (vec![chain], "192.0.2.2"),
            (
                vec![chain, ("X-Forwarded-For", "2001:db8::1")],
                "2001:db8::1",
            ),
            (vec![("X-Forwarded-For", "192.0.2.3:4711")], "192.0.2.3"),
            (vec![("Forwarded", standard)], "2001:db8::2"),
            (vec![chain, ("Forwarded", "for=192.0.2.2")], "192.0.2.2"),
            (vec![chain, ("Forwarded", standard)], "10.0.0.1"),
            (vec![chain, ("Forwarded", "for=_hidden")], "10.0.0.1"),
            (vec![], "10.0.0.1"),
        ] {
            assert_eq!(sender(&settings, &headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn a_proxy_is_believed_only_where_it_is_expected() {
        let mut settings = config::Api::default();
        let proxied = [
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "a.example, b.example"),
            ("X-Forwarded-Prefix", "/volume"),
        ];
        let forwarded = [(
            "Forwarded",
            "for=x;host=evil, for=1.2.3.4;proto=https;host=\"c.example:443\"",
        )];
        for headers in [[].as_slice(), &proxied, &forwarded] {
            assert_eq!(link(&settings, headers), "http://inside:8776");
        }
        settings.proxy_headers = true;
        assert_eq!(link(&settings, &[]), "http://inside:8776");
        assert_eq!(link(&settings, &proxied), "https://b.example/volume");
        assert_eq!(link(&settings, &forwarded), "https://c.example:443");
        // What disagrees is not from one proxy.
        let forged = [("Forwarded", "host=evil;proto=https"), proxied[1]];
        assert_eq!(link(&settings, &forged), "https://inside:8776");
        let forged = [("Forwarded", "for=1.2.3.4"), proxied[1]];
        assert_eq!(link(&settings, &forged), "http://inside:8776");
        let same = [("Forwarded", "host=b.example"), proxied[1]];
        assert_eq!(link(&settings, &same), "http://b.example");
        settings.public_endpoint = Some("https://x.example/volume/".to_owned());
        assert_eq!(link(&settings, &proxied), "https://x.example/volume");
    }

    #[test]
    fn what_is_no_plain_host_path_or_scheme_is_passed_over() {
        let settings = config::Api {
            proxy_headers: true,
            ..config::Api::default()
        };
        let good = [
            ("X-Forwarded-Prefix", "/a/b-1/", "http://inside:8776/a/b-1"),
            ("X-Forwarded-Prefix", "/", "http://inside:8776"),
            ("X-Forwarded-Host", "[::1]:80", "http://[::1]:80"),
            ("X-Forwarded-Host", "cinder_1", "http://cinder_1"),
            ("X-Forwarded-Proto", "HTTPS", "https://inside:8776"),
            ("Host", "h.example:1", "http://h.example:1"),
            ("Host", "a/../b", "http://localhost"),
            ("Host", "user@evil", "http://localhost"),
        ];
        for (name, value, expected) in good {
            assert_eq!(link(&settings, &[(name, value)]), expected, "{value}");
        }
        let bad = [
            ("X-Forwarded-Prefix", "//evil"),
            ("X-Forwarded-Prefix", "/../x"),
            ("X-Forwarded-Prefix", "/a/./b"),
            ("X-Forwarded-Prefix", "/a//b"),
            ("X-Forwarded-Prefix", "/%2e%2e/x"),
            ("X-Forwarded-Prefix", "@evil"),
            ("X-Forwarded-Prefix", ".evil"),
            ("X-Forwarded-Prefix", ":80"),
            ("X-Forwarded-Prefix", "/a?b"),
            ("X-Forwarded-Prefix", "/a\\b"),
            ("X-Forwarded-Host", ""),
            ("X-Forwarded-Host", "a\"><script>"),
            ("X-Forwarded-Host", "user@evil"),
            ("X-Forwarded-Host", "evil/path"),
            ("X-Forwarded-Host", "evil:port"),
            ("X-Forwarded-Host", "evil:"),
            ("X-Forwarded-Host", "evil:99999"),
            ("X-Forwarded-Host", "evil:0"),
            ("X-Forwarded-Host", "evil:+80"),
            ("X-Forwarded-Host", "evil:1:2"),
            ("X-Forwarded-Host", "[::1]x:80"),
            ("X-Forwarded-Host", "[::1"),
            ("X-Forwarded-Host", "[evil]"),
            ("X-Forwarded-Host", "evil%2fx"),
            ("X-Forwarded-Proto", "javascript"),
            ("X-Forwarded-Proto", "https://evil"),
            ("Forwarded", "proto=x;host=\"evil/path\""),
        ];
        for (name, value) in bad {
            let found = link(&settings, &[(name, value)]);
            assert_eq!(found, "http://inside:8776", "{name}: {value}");
        }
    }
}
