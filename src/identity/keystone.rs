//! A real Keystone vouches for callers: it is asked about every token, and its answer is remembered
//! for a while. What is refused, and how, is what Keystone's own middleware refuses (Cinder
//! reference, 8.2).
//!
//! Bodies of refusals may repeat a token, so they are never logged.

use crate::clock::Clock;
use crate::config::KeystoneSettings;
use crate::identity::Caller;
use crate::model::error::Error;
use crate::model::id::{ProjectId, UserId};
use crate::model::time::Timestamp;
use moka::sync::Cache;
use serde::Deserialize;
use serde_json::json;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use ureq::http::Response;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

/// Our own token is renewed when less than this is left of it.
const RENEWAL: Duration = Duration::from_secs(120);
/// How long a failed login is not tried again.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// Longer texts are no tokens.
const TOKEN_BYTES_MAX: usize = 8192;

/// What a request presents, and what it is.
#[derive(Clone, Copy)]
pub struct Presented<'a> {
    pub token: &'a str,
    /// `X-Service-Token`: another service acts for the user.
    pub service_token: Option<&'a str>,
    pub method: &'a str,
    /// Without the query.
    pub path: &'a str,
}

/// Why the mode cannot start.
#[derive(Debug, thiserror::Error)]
pub enum KeystoneError {
    #[error("identity.keystone.cacert: {} cannot be read", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("identity.keystone.cacert: {} holds no certificate", .0.display())]
    NoCertificate(PathBuf),
}

/// The connection to Keystone.
pub struct Keystone {
    settings: KeystoneSettings,
    clock: Clock,
    agent: Agent,
    /// By keyed BLAKE3 of the token: a dump of the memory shows no token of a user.
    known: Cache<[u8; 32], Arc<Known>>,
    cache_key: [u8; 32],
    own: Mutex<Own>,
}

/// Our own token, and until when there is no sense in asking for one again.
#[derive(Default)]
struct Own {
    token: Option<OwnToken>,
    refused_until: Option<(Timestamp, String)>,
}

/// What Keystone said of a token.
struct Known {
    caller: Caller,
    expires_at: Timestamp,
    access_rules: Option<Vec<AccessRule>>,
}

struct OwnToken {
    text: String,
    expires_at: Timestamp,
}

#[derive(Debug, Clone, Deserialize)]
struct AccessRule {
    service: String,
    path: String,
    method: String,
}

#[derive(Deserialize)]
struct Answer {
    token: Token,
}

#[derive(Deserialize)]
struct Token {
    expires_at: String,
    user: Option<Named>,
    project: Option<Named>,
    #[serde(default)]
    roles: Vec<RoleName>,
    application_credential: Option<Credential>,
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

#[derive(Deserialize)]
struct RoleName {
    name: String,
}

#[derive(Deserialize)]
struct Credential {
    access_rules: Option<Vec<AccessRule>>,
}

impl Keystone {
    /// Prepares the connection; Keystone need not be there yet.
    pub fn new(settings: KeystoneSettings, clock: Clock) -> Result<Self, KeystoneError> {
        let roots = match &settings.cacert {
            None => RootCerts::PlatformVerifier,
            Some(path) => certificates(path)?,
        };
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(settings.timeout))
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .build()
            .into();
        let mut cache_key = [0; 32];
        getrandom::fill(&mut cache_key).expect("the system gives random bytes");
        Ok(Self {
            known: Cache::builder()
                .max_capacity(settings.cache_tokens_max)
                .time_to_live(settings.cache_time)
                .build(),
            settings,
            clock,
            agent,
            cache_key,
            own: Mutex::default(),
        })
    }

    /// Keystone as clients reach it.
    pub fn public_url(&self) -> &str {
        let settings = &self.settings;
        settings
            .www_authenticate_uri
            .as_deref()
            .unwrap_or(&settings.auth_url)
    }

    /// Whom a token stands for; `None` if it is good for nothing.
    pub fn caller(&self, presented: &Presented<'_>) -> Result<Option<Caller>, Error> {
        let is_service = match presented.service_token {
            None => false,
            Some(token) => match self.validate(token, false)? {
                Some(known) if self.is_service(&known) => true,
                // A wrong service token spoils the request, however good the user's is.
                _ => return Ok(None),
            },
        };
        let Some(known) = self.validate(presented.token, is_service)? else {
            return Ok(None);
        };
        let is_allowed = is_service
            || known
                .access_rules
                .as_ref()
                .is_none_or(|rules| self.is_allowed(rules, presented));
        Ok(is_allowed.then(|| known.caller.clone()))
    }

    fn is_service(&self, known: &Known) -> bool {
        let roles = &self.settings.service_token_roles;
        roles
            .iter()
            .any(|role| known.caller.roles.contains(&role.to_lowercase()))
    }

    fn is_allowed(&self, rules: &[AccessRule], presented: &Presented<'_>) -> bool {
        rules.iter().any(|rule| {
            rule.service == self.settings.service_type
                && rule.method == presented.method
                && matches(&rule.path, presented.path)
        })
    }

    /// What Keystone says, or said a moment ago, of a token.
    fn validate(&self, token: &str, may_be_expired: bool) -> Result<Option<Arc<Known>>, Error> {
        let is_printable = token.bytes().all(|byte| byte.is_ascii_graphic());
        if token.is_empty() || token.len() > TOKEN_BYTES_MAX || !is_printable {
            return Ok(None);
        }
        let key = *blake3::keyed_hash(&self.cache_key, token.as_bytes()).as_bytes();
        let known = match self.known.get(&key) {
            Some(known) => Some(known),
            None => {
                let asked = self.ask(token, may_be_expired)?;
                if let Some(known) = &asked {
                    self.known.insert(key, known.clone());
                }
                asked
            }
        };
        let now = self.clock.now();
        Ok(known.filter(|known| may_be_expired || known.expires_at > now))
    }

    fn ask(&self, token: &str, may_be_expired: bool) -> Result<Option<Arc<Known>>, Error> {
        let mut url = format!("{}/auth/tokens?nocatalog", self.base());
        if may_be_expired {
            url.push_str("&allow_expired=1");
        }
        let mut is_second = false;
        loop {
            let own = self.own_token(is_second)?;
            let mut answer = self.send(|agent| {
                agent
                    .get(&url)
                    .header("X-Auth-Token", &own)
                    .header("X-Subject-Token", token)
                    .header("OpenStack-Identity-Access-Rules", "1")
                    .call()
            })?;
            match answer.status().as_u16() {
                200 => return Ok(Some(Arc::new(read(&mut answer)?))),
                // Of the subject; a page in HTML is about the path.
                404 if is_json(&answer) => return Ok(None),
                // Our own token was revoked, or Keystone has new keys.
                401 if !is_second => is_second = true,
                status => return Err(unavailable(status_text(status))),
            }
        }
    }

    /// Our own token: the one we have, while it is good for long enough.
    fn own_token(&self, must_be_new: bool) -> Result<String, Error> {
        let mut own = self.own.lock().expect("no panic while it is locked");
        let now = self.clock.now();
        let soon = now.after(RENEWAL);
        if let Some(token) = &own.token
            && !must_be_new
            && token.expires_at > soon
        {
            return Ok(token.text.clone());
        }
        // Those who waited for a login that failed do not each try again.
        if let Some((until, why)) = &own.refused_until
            && *until > now
        {
            return Err(unavailable(why.clone()));
        }
        own.token = None;
        match self.log_in() {
            Ok(token) => {
                let text = token.text.clone();
                (own.token, own.refused_until) = (Some(token), None);
                Ok(text)
            }
            Err(error) => {
                let until = self.clock.now().after(PATIENCE);
                own.refused_until = Some((until, error.to_string()));
                Err(error)
            }
        }
    }

    fn log_in(&self) -> Result<OwnToken, Error> {
        let settings = &self.settings;
        let user = json!({
            "name": settings.username,
            "domain": { "name": settings.user_domain_name },
            "password": settings.password.expose(),
        });
        let project = json!({
            "name": settings.project_name,
            "domain": { "name": settings.project_domain_name },
        });
        let body = json!({ "auth": {
            "identity": { "methods": ["password"], "password": { "user": user } },
            "scope": { "project": project },
        }});
        let url = format!("{}/auth/tokens?nocatalog", self.base());
        let mut answer = self.send(|agent| agent.post(&url).send_json(&body))?;
        match answer.status().as_u16() {
            201 => {}
            401 => {
                return Err(unavailable(format!(
                    "keystone refuses the credentials of user {} (401): check identity.keystone.username, \
                     password and project_name",
                    settings.username
                )));
            }
            status => return Err(unavailable(status_text(status))),
        }
        let header = answer.headers().get("X-Subject-Token");
        let text = header.and_then(|token| token.to_str().ok().map(str::to_owned));
        let text = text.ok_or_else(|| unavailable("keystone's login gave no token"))?;
        let expires_at = read(&mut answer)?.expires_at;
        Ok(OwnToken { text, expires_at })
    }

    fn base(&self) -> &str {
        self.settings.auth_url.trim_end_matches('/')
    }

    /// Sends a request; once more if a connection was used that Keystone had given up.
    fn send(
        &self,
        request: impl Fn(&Agent) -> Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>, Error> {
        let first = request(&self.agent);
        let second = match first {
            Err(ureq::Error::Io(_) | ureq::Error::Protocol(_)) => request(&self.agent),
            other => other,
        };
        second.map_err(|error| unavailable(format!("keystone does not answer: {error}")))
    }
}

fn status_text(status: u16) -> String {
    let hint = match status {
        403 => ": the service's user may not validate tokens; it needs the role `service`",
        404 => ": identity.keystone.auth_url must lead to Keystone's /v3",
        _ => "",
    };
    format!("keystone answers {status}{hint}")
}

fn unavailable(why: impl Into<String>) -> Error {
    Error::IdentityUnavailable(why.into())
}

fn is_json(answer: &Response<Body>) -> bool {
    let kind = answer.headers().get("Content-Type");
    kind.and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.starts_with("application/json"))
}

fn read(answer: &mut Response<Body>) -> Result<Known, Error> {
    let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX);
    // The cause could quote the answer.
    let read: Result<Answer, _> = body.read_json();
    let token = read
        .map_err(|_| unavailable("keystone's answer is not understood"))?
        .token;
    let expires_at = Timestamp::parse(&token.expires_at)
        .ok_or_else(|| unavailable("keystone's answer has no time of expiry"))?;
    Ok(Known {
        caller: Caller {
            user_id: UserId::new(token.user.map_or_else(String::new, |user| user.id)),
            project_id: token.project.map(|project| ProjectId::new(project.id)),
            roles: token
                .roles
                .iter()
                .map(|role| role.name.to_lowercase())
                .collect(),
        },
        expires_at,
        access_rules: token
            .application_credential
            .and_then(|credential| credential.access_rules),
    })
}

fn certificates(path: &PathBuf) -> Result<RootCerts, KeystoneError> {
    let pem = std::fs::read(path).map_err(|source| KeystoneError::Read {
        path: path.clone(),
        source,
    })?;
    let found: Vec<Certificate<'static>> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    match found.is_empty() {
        true => Err(KeystoneError::NoCertificate(path.clone())),
        false => Ok(RootCerts::new_with_certs(&found)),
    }
}

/// A part of a rule's pattern.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Piece {
    Char(char),
    /// `*` and `{name}`: a part of one segment, not empty.
    Segment,
    /// `**`: anything.
    Anything,
}

fn pieces(mut pattern: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    while let Some(first) = pattern.chars().next() {
        let (piece, rest) = match first {
            '*' if pattern.starts_with("**") => (Piece::Anything, &pattern[2..]),
            '*' => (Piece::Segment, &pattern[1..]),
            '{' if pattern.contains('}') => {
                let end = pattern.find('}').unwrap_or(0);
                (Piece::Segment, &pattern[end + 1..])
            }
            other => (Piece::Char(other), &pattern[other.len_utf8()..]),
        };
        pieces.push(piece);
        pattern = rest;
    }
    pieces
}

/// Whether a path matches a rule's pattern. All ways to match are followed at once, so the time is
/// bounded by the product of the lengths, whatever a user wrote into the rule.
fn matches(pattern: &str, path: &str) -> bool {
    let pieces = pieces(pattern);
    // `at[n]`: the path so far may end just before piece n; `inside[n]`: within piece n.
    let mut at = vec![false; pieces.len() + 1];
    let mut inside = vec![false; pieces.len() + 1];
    at[0] = true;
    skip(&pieces, &mut at);
    for c in path.chars() {
        let (mut next_at, mut next_inside) = (vec![false; at.len()], vec![false; at.len()]);
        for (n, piece) in pieces.iter().enumerate() {
            if !at[n] && !inside[n] {
                continue;
            }
            match piece {
                Piece::Char(wanted) => next_at[n + 1] |= at[n] && *wanted == c,
                Piece::Segment if c == '/' => {}
                Piece::Segment | Piece::Anything => {
                    next_inside[n] = true;
                    next_at[n + 1] = true;
                }
            }
        }
        skip(&pieces, &mut next_at);
        (at, inside) = (next_at, next_inside);
    }
    at[pieces.len()]
}

/// `**` may stand for nothing.
fn skip(pieces: &[Piece], at: &mut [bool]) {
    for (n, piece) in pieces.iter().enumerate() {
        at[n + 1] |= at[n] && *piece == Piece::Anything;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_rules_match_paths_as_in_keystones_middleware() {
        for (pattern, path) in [
            ("/v3/*/backups", "/v3/abc/backups"),
            ("/v3/{project}/backups/{id}", "/v3/abc/backups/1"),
            ("/v3/**", "/v3/a/b/c"),
            ("/v3/**/detail", "/v3/a/b/detail"),
            ("/v3/a*", "/v3/abc"),
        ] {
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        assert!(!matches(
            &"*a".repeat(40),
            &"a".repeat(60)[..59].replace('a', "ab")
        ));
        for (pattern, path) in [
            ("/v3/*/backups", "/v3/abc/def/backups"),
            ("/v3/*/backups", "/v3//backups"),
            ("/v3/*/backups", "/v3/abc/backups/"),
            ("/v3/{project}", "/v3/"),
            ("/v3.backups", "/v3/backups"),
            ("/v3/a*", "/v3/a"),
            ("", "/"),
        ] {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
    }
}
