//! Where clients reach us: the base of every link (Cinder reference, 1.6 and 8.2).

use crate::config;
use actix_web::HttpRequest;

/// `scheme://host[/prefix]`, without a slash at its end.
pub(super) fn base(settings: &config::Api, request: &HttpRequest) -> String {
    if let Some(endpoint) = &settings.public_endpoint {
        return endpoint.trim_end_matches('/').to_owned();
    }
    let header = |name: &str| request.headers().get(name)?.to_str().ok();
    let plain = header("Host").unwrap_or("localhost");
    if !settings.proxy_headers {
        // Links name the host a proxy was asked for even where proxies are not believed otherwise.
        let host = header("X-Forwarded-Host").and_then(|hosts| hosts.split(',').next_back());
        return format!("http://{}", checked(host.unwrap_or(plain)).unwrap_or(plain));
    }
    let forwarded = header("Forwarded").map(parse_forwarded);
    let first = |name: &str| header(name)?.split(',').next().map(str::trim);
    let (scheme, host) = match forwarded {
        Some((scheme, host)) => (scheme, host),
        None => (
            first("X-Forwarded-Proto").map(str::to_owned),
            first("X-Forwarded-Host").map(str::to_owned),
        ),
    };
    let scheme = scheme.filter(|scheme| scheme == "https" || scheme == "http");
    let host = host.as_deref().and_then(checked).unwrap_or(plain);
    let prefix = first("X-Forwarded-Prefix").and_then(checked).unwrap_or("");
    format!(
        "{}://{host}{}",
        scheme.as_deref().unwrap_or("http"),
        prefix.trim_end_matches('/')
    )
}

/// Scheme and host of the first element of a `Forwarded` header (RFC 7239).
fn parse_forwarded(header: &str) -> (Option<String>, Option<String>) {
    let element = header.split(',').next().unwrap_or_default();
    let field = |name: &str| {
        element.split(';').find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            let is_it = key.trim().eq_ignore_ascii_case(name);
            is_it.then(|| value.trim().trim_matches('"').to_owned())
        })
    };
    (field("proto"), field("host"))
}

/// What can stand in a link: no spaces, quotes or brackets of markup.
fn checked(text: &str) -> Option<&str> {
    let text = text.trim();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~:/[]%".contains(c);
    (!text.is_empty() && text.chars().all(is_plain)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    fn link(settings: &config::Api, headers: &[(&str, &str)]) -> String {
        let mut request = TestRequest::get().insert_header(("Host", "inside:8776"));
        for header in headers {
            request = request.insert_header(*header);
        }
        base(settings, &request.to_http_request())
    }

    #[test]
    fn a_proxy_is_believed_only_where_it_is_expected() {
        let mut settings = config::Api::default();
        let proxied = [
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "a.example, b.example"),
            ("X-Forwarded-Prefix", "/volume"),
        ];
        assert_eq!(link(&settings, &[]), "http://inside:8776");
        assert_eq!(link(&settings, &proxied), "http://b.example");
        settings.proxy_headers = true;
        assert_eq!(link(&settings, &proxied), "https://a.example/volume");
        let forwarded = [(
            "Forwarded",
            "for=1.2.3.4;proto=https;host=\"c.example:443\", for=x",
        )];
        assert_eq!(link(&settings, &forwarded), "https://c.example:443");
        let evil = [("X-Forwarded-Host", "a\"><script>")];
        assert_eq!(link(&settings, &evil), "http://inside:8776");
        settings.public_endpoint = Some("https://x.example/volume/".to_owned());
        assert_eq!(link(&settings, &proxied), "https://x.example/volume");
    }
}
