//! A real Keystone validates callers: it is asked about every token, and its answer is remembered for a while. Refusals
//! are the same as those of Keystone's own middleware (Cinder reference, 8.2).

use crate::clock::Clock;
use crate::config::KeystoneSettings;
use crate::identity::Caller;
use crate::keystone::{
    AccessRule, Client, ClientError, Credentials, Session, Token, TrustError, connect,
};
use crate::model::error::{Error, chain};
use crate::model::id::{ProjectId, UserId};
use crate::model::time::Timestamp;
use http::HeaderValue;
use moka::sync::Cache;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Longer texts are no tokens.
const TOKEN_BYTES_MAX: usize = 8192;

/// Bytes of memory for which an answer counts as one in the cache. An answer that takes more counts as several.
const ANSWER_BYTES: usize = 1024;
/// No route has longer paths, and comparing one with the rules of an application credential takes time for each byte.
const RULE_PATH_BYTES_MAX: usize = 1024;

/// The tokens of a request, and its method and path.
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
#[error("identity.keystone.cacert")]
pub struct KeystoneError(#[from] TrustError);

/// The connection to Keystone.
pub struct Keystone {
    settings: KeystoneSettings,
    clock: Clock,
    session: Session,
    /// By keyed BLAKE3 of the token: a dump of the memory shows no token of a user.
    known: Cache<[u8; 32], Arc<Known>>,
    cache_key: [u8; 32],
}

/// Keystone's answer about a token.
struct Known {
    caller: Caller,
    expires_at: Timestamp,
    access_rules: Option<Vec<AccessRule>>,
}

impl Known {
    /// How many answers of common size it counts as: access rules and roles may be many.
    fn weight(&self) -> u32 {
        let each = |text: &str| text.len() + size_of::<String>();
        let rules = self.access_rules.iter().flatten();
        let rules = rules.map(|rule| each(&rule.service) + each(&rule.path) + each(&rule.method));
        let roles = self.caller.roles.iter().map(|role| each(role));
        let bytes: usize = rules.chain(roles).sum();
        u32::try_from(1 + bytes / ANSWER_BYTES).unwrap_or(u32::MAX)
    }
}

impl Keystone {
    /// Prepares the connection; Keystone need not be there yet.
    pub fn new(
        settings: KeystoneSettings,
        clock: Clock,
        handle: Handle,
    ) -> Result<Self, KeystoneError> {
        let http = connect(settings.cacert.as_deref())?;
        let credentials = Credentials::from(&settings);
        let client = Client::new(http, &settings.auth_url, credentials, settings.timeout);
        let mut cache_key = [0; 32];
        getrandom::fill(&mut cache_key).expect("the system gives random bytes");
        Ok(Self {
            known: Cache::builder()
                .max_capacity(settings.cache_tokens_max)
                .weigher(|_, known: &Arc<Known>| known.weight())
                .time_to_live(settings.cache_time)
                .build(),
            session: Session::new(client, clock.clone(), handle),
            settings,
            clock,
            cache_key,
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

    /// The user and scope that a token stands for; `None` if it is not valid.
    pub fn caller(&self, presented: &Presented<'_>) -> Result<Option<Caller>, Error> {
        let is_service = match presented.service_token {
            None => false,
            Some(token) => match self.validate(token, false)? {
                Some(known) if self.is_service(&known) => true,
                // An invalid service token makes the request invalid, even if the user's token is valid.
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
        allow(rules, &self.settings.service_type, presented)
    }

    /// Keystone's answer about a token: a remembered one, or a new one.
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
        let Ok(mut subject) = HeaderValue::from_str(token) else {
            return Ok(None);
        };
        subject.set_sensitive(true);
        let answer = self
            .session
            .validate(&subject, may_be_expired)
            .map_err(|error| self.unavailable(&error))?;
        let known = answer.map(|token| read(&token)).transpose();
        Ok(known
            .map_err(|error| self.unavailable(&error))?
            .map(Arc::new))
    }

    fn unavailable(&self, error: &ClientError) -> Error {
        Error::IdentityUnavailable(match error {
            ClientError::LogIn(401) => format!(
                "keystone refuses the credentials of user {} (401): check identity.keystone.username, \
                 password and project_name",
                self.settings.username
            ),
            ClientError::LogIn(status) | ClientError::Status(status) => status_text(*status),
            other => chain(other),
        })
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

fn read(token: &Token) -> Result<Known, ClientError> {
    Ok(Known {
        caller: Caller {
            user_id: UserId::new(token.user_id().unwrap_or_default()),
            project_id: token.project_id().map(ProjectId::new),
            roles: token.roles().map(str::to_lowercase).collect(),
        },
        expires_at: token.expires_at()?,
        access_rules: token.access_rules().map(<[AccessRule]>::to_vec),
    })
}

/// Whether one of these rules of an application credential allows a request to this service.
fn allow(rules: &[AccessRule], service: &str, presented: &Presented<'_>) -> bool {
    presented.path.len() <= RULE_PATH_BYTES_MAX
        && rules.iter().any(|rule| {
            rule.service == service
                && rule.method == presented.method
                && matches(&rule.path, presented.path)
        })
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
    use std::collections::BTreeSet;
    use std::time::{Duration, Instant};

    fn rule(path: &str) -> AccessRule {
        AccessRule {
            service: "block-storage".to_owned(),
            path: path.to_owned(),
            method: "GET".to_owned(),
        }
    }

    fn known(access_rules: Option<Vec<AccessRule>>) -> Known {
        Known {
            caller: Caller {
                user_id: UserId::new("u"),
                project_id: None,
                roles: BTreeSet::from(["member".to_owned()]),
            },
            expires_at: Timestamp(0),
            access_rules,
        }
    }

    #[test]
    fn an_answer_with_many_rules_counts_as_many() {
        assert_eq!(known(None).weight(), 1);
        let few = vec![rule("/v3/**"); 3];
        assert_eq!(known(Some(few)).weight(), 1);
        let many = vec![rule(&"a".repeat(128)); 1000];
        assert!((128..300).contains(&known(Some(many)).weight()));
    }

    #[test]
    fn no_rule_is_compared_with_a_path_that_no_route_has() {
        let path = format!("/v3/{}", "a".repeat(8000));
        let presented = |path| Presented {
            token: "",
            service_token: None,
            method: "GET",
            path,
        };
        let mut rules = vec![rule(&"**a".repeat(42)); 1000];
        rules.push(rule("/v3/**"));
        let started = Instant::now();
        assert!(!allow(&rules, "block-storage", &presented(&path)));
        // Without the limit on paths it takes many times as long.
        assert!(started.elapsed() < Duration::from_secs(1));
        assert!(allow(
            &rules[1000..],
            "block-storage",
            &presented(&path[..1024])
        ));
        assert!(!allow(&rules[1000..], "compute", &presented("/v3/a")));
    }

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
