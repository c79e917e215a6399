//! Where a client with tokens and passwords may be sent. A redirect repeats its headers and body, and takes none of ours
//! out: it must not lead to another host.

use reqwest::Url;
use reqwest::redirect::{Attempt, Policy};

const REDIRECTS_MAX: usize = 5;

/// Follows redirects to the same host alone, with the same protocol or with TLS. Another one is answered as it is.
pub fn within_the_host() -> Policy {
    Policy::custom(|attempt: Attempt<'_>| {
        let before = attempt.previous();
        let is_followed = before.len() <= REDIRECTS_MAX
            && before
                .last()
                .is_some_and(|from| is_same(from, attempt.url()));
        if is_followed {
            attempt.follow()
        } else {
            attempt.stop()
        }
    })
}

fn is_same(from: &Url, to: &Url) -> bool {
    let place = |url: &Url| (url.scheme().to_owned(), url.port_or_known_default());
    let is_made_safe = from.scheme() == "http" && to.scheme() == "https";
    from.host_str() == to.host_str() && (place(from) == place(to) || is_made_safe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keystone::{Catalog, Client, ClientError, Credentials, connect};
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[test]
    fn the_same_host_may_be_asked_for_another_path_or_for_tls() {
        let is_same = |from: &str, to: &str| is_same(&from.parse().unwrap(), &to.parse().unwrap());
        assert!(is_same("http://a:5000/v3", "http://a:5000/v3/"));
        assert!(is_same("http://a/v3", "https://a/identity/v3"));
        assert!(is_same("https://a/v3", "https://a:443/v3"));
        for (from, to) in [
            ("https://a/v3", "http://a/v3"),
            ("https://a/v3", "https://b/v3"),
            ("https://a/v3", "https://a.b/v3"),
            ("http://a:5000/v3", "http://a:5001/v3"),
        ] {
            assert!(!is_same(from, to), "{from} {to}");
        }
    }

    /// A server that sends everybody elsewhere, and counts them.
    fn sends_to(place: String) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
                let mut socket = socket.unwrap();
                let mut reader = BufReader::new(socket.try_clone().unwrap());
                let lines = reader.by_ref().lines().map_while(Result::ok);
                let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                let length = head.iter().find_map(|line| {
                    let line = line.to_lowercase();
                    line.strip_prefix("content-length: ")?.parse().ok()
                });
                let mut body = vec![0; length.unwrap_or(0)];
                reader.read_exact(&mut body).ok();
                let answer =
                    "HTTP/1.1 307 X\r\nContent-Length: 0\r\nConnection: close\r\nLocation:";
                write!(socket, "{answer} {place}\r\n\r\n").ok();
            }
        });
        (own, asked)
    }

    #[tokio::test]
    async fn a_password_goes_to_no_other_host() {
        let (other, asked) = sends_to("/".to_owned());
        let (keystone, _) = sends_to(format!("{other}/v3/auth/tokens"));
        let credentials = Credentials::ApplicationCredential {
            id: "id".to_owned(),
            secret: crate::config::Secret::from("hunter2"),
        };
        let patience = Duration::from_secs(10);
        let client = Client::new(connect(None).unwrap(), &keystone, credentials, patience);
        let refused = client.log_in(Catalog::LeftOut).await.unwrap_err();
        assert!(matches!(refused, ClientError::LogIn(307)), "{refused}");
        assert_eq!(asked.load(Ordering::SeqCst), 0);
    }
}
