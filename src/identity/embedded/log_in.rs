//! Logging in, and what tokens stand for.

use crate::config::Secret;
use crate::db::DbConnection;
use crate::db::standalone::credentials;
use crate::db::standalone::identity::{self, Issued, TokensMax};
use crate::identity::embedded::session::{granted, token_now};
use crate::identity::embedded::{
    CredentialName, Credentials, Embedded, IssuedToken, Named, Scope, random_text,
};
use crate::model::column::Json;
use crate::model::error::Error;
use crate::model::id::{ProjectId, UserId};
use crate::model::role::Role;
use crate::model::standalone::identity::{ApplicationCredential, Project, TokenRow, User};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Keystone's words for a token of an application credential that is to become another token.
const DELEGATED: &str = "Using a delegated token to create another token is not allowed.";

/// Most tokens that are alive. A user who logs in every other second, day and night, has as many with the default lifetime.
const TOKENS_MAX: TokensMax = TokensMax {
    chain: 1000,
    user: 20_000,
};
/// When one may try again who has as many.
const TOKENS_RETRY_SECONDS: u64 = 60;

/// The user that the credentials prove, and the limits of the token that they give.
struct Proof {
    user: User,
    credential: Option<ApplicationCredential>,
    /// The token that was presented.
    parent: Option<TokenRow>,
}

/// A project, and a user's roles in it.
type Granted = (Project, Vec<Role>);

impl Proof {
    fn of(user: User) -> Self {
        Self {
            user,
            credential: None,
            parent: None,
        }
    }
}

impl Embedded {
    /// Logs in, from an address. An application credential brings its own scope.
    pub fn authenticate(
        &self,
        methods: Vec<String>,
        credentials: &Credentials,
        scope: &Scope,
        from: Option<IpAddr>,
    ) -> Result<(Secret, IssuedToken), Error> {
        let proof = self.verify(credentials, from)?;
        let place = match (&proof.credential, scope) {
            (Some(_), Scope::Project(_)) => {
                return Err(Error::Invalid(
                    "Application credentials cannot request a scope.".to_owned(),
                ));
            }
            (Some(credential), _) => {
                let named = Named::Id(credential.project_id.to_string());
                Some(self.place(&proof, &named)?.ok_or(Error::Unauthenticated)?)
            }
            (None, Scope::Project(named)) => {
                Some(self.place(&proof, named)?.ok_or(Error::Unauthenticated)?)
            }
            (None, Scope::Default) => self.default_place(&proof)?,
            (None, Scope::Unscoped) => None,
        };
        self.issue(methods, proof, place)
    }

    /// The scope of a token if none was asked for: the user's default project. A user who has no role there gets an
    /// unscoped token, as from Keystone.
    fn default_place(&self, proof: &Proof) -> Result<Option<Granted>, Error> {
        match &proof.user.default_project_id {
            Some(id) => self.place(proof, &Named::Id(id.to_string())),
            None => Ok(None),
        }
    }

    /// A project and the user's roles in it now; `None` without any role.
    fn place(&self, proof: &Proof, named: &Named) -> Result<Option<Granted>, Error> {
        let project = self.project_named(named)?;
        let Some(project) = project.filter(|project| project.is_enabled) else {
            return Ok(None);
        };
        let role = self.role_of(&proof.user.id, &project.id)?;
        let roles = granted(role, proof.credential.as_ref());
        Ok((!roles.is_empty()).then_some((project, roles)))
    }

    fn issue(
        &self,
        methods: Vec<String>,
        proof: Proof,
        place: Option<Granted>,
    ) -> Result<(Secret, IssuedToken), Error> {
        let (project, roles) = place.unzip();
        let Proof {
            user,
            credential,
            parent,
        } = proof;
        let token = random_text(32);
        let audit_id = random_text(16);
        let now = self.clock.now();
        // A token never outlives what it was got with.
        let ends = [
            Some(now.after(self.settings.token_lifetime)),
            parent.as_ref().map(|parent| parent.expires_at),
            credential.as_ref().and_then(|row| row.expires_at),
        ];
        // Keystone lists all methods that have led to a token.
        let before = parent.iter().flat_map(|parent| parent.methods.iter());
        let methods: BTreeSet<String> = methods.into_iter().chain(before.cloned()).collect();
        let row = TokenRow {
            hash: hash(&token),
            chain_id: parent
                .as_ref()
                .map_or_else(|| audit_id.clone(), |parent| parent.chain_id.clone()),
            parent_audit_id: parent.map(|parent| parent.audit_id),
            audit_id,
            user_id: user.id.clone(),
            generation: user.generation,
            project_id: project.as_ref().map(|project| project.id.clone()),
            project_generation: project.as_ref().map_or(0, |project| project.generation),
            methods: Json::new(methods.into_iter().collect()),
            application_credential_id: credential.as_ref().map(|row| row.id.clone()),
            issued_at: now,
            expires_at: ends.into_iter().flatten().min().unwrap_or(now),
        };
        let issued = |c: &mut DbConnection| identity::insert_token(c, &row, now, TOKENS_MAX);
        match self.db.write(issued)? {
            Issued::Added => {}
            Issued::Ended => return Err(Error::Unauthenticated),
            Issued::TooMany => {
                return Err(Error::TooMany {
                    retry_after: TOKENS_RETRY_SECONDS,
                });
            }
        }
        let session = IssuedToken {
            row,
            user,
            project,
            roles: roles.unwrap_or_default(),
            application_credential: credential,
        };
        Ok((Secret::from(token.as_str()), session))
    }

    /// The session of a token; `None` if the token is not valid.
    pub fn validate(&self, token: &str) -> Result<Option<IssuedToken>, Error> {
        let (hash, now) = (hash(token), self.clock.now());
        Ok(self.db.read(|c| token_now(c, &hash, now))?)
    }

    /// Revokes a token, and all that were got with it.
    pub fn revoke(&self, session: &IssuedToken) -> Result<(), Error> {
        Ok(self.db.write(|c| identity::revoke_token(c, &session.row))?)
    }

    fn verify(&self, credentials: &Credentials, from: Option<IpAddr>) -> Result<Proof, Error> {
        match credentials {
            Credentials::Password { user, password } => self.verify_password(user, password, from),
            Credentials::Token(token) => self.verify_token(token),
            Credentials::ApplicationCredential { id, secret } => {
                self.verify_credential(id, secret, from)
            }
        }
    }

    /// A user that does not exist takes the same path as a wrong password, so that the time does not reveal which names
    /// exist.
    fn verify_password(
        &self,
        named: &Named,
        password: &Secret,
        from: Option<IpAddr>,
    ) -> Result<Proof, Error> {
        let client = self.backoff.client(&form(named), from);
        let attempt = self.backoff.begin(&client, self.clock.now())?;
        let user = self.user_named(named)?.filter(User::may_log_in);
        let known = user.as_ref().map(|user| user.password_hash.as_str());
        let is_right = self.passwords.verify(known, password, &client.place)?;
        match user.filter(|_| is_right) {
            Some(user) => {
                attempt.succeeded();
                Ok(Proof::of(user))
            }
            None => {
                attempt.failed(self.clock.now());
                Err(Error::Unauthenticated)
            }
        }
    }

    fn verify_token(&self, token: &Secret) -> Result<Proof, Error> {
        let session = self
            .validate(token.expose())?
            .ok_or(Error::Unauthenticated)?;
        // A token of an application credential must not widen what it may do.
        if session.application_credential.is_some() {
            return Err(Error::Forbidden(DELEGATED));
        }
        Ok(Proof {
            parent: Some(session.row),
            ..Proof::of(session.user)
        })
    }

    fn verify_credential(
        &self,
        named: &CredentialName,
        secret: &Secret,
        from: Option<IpAddr>,
    ) -> Result<Proof, Error> {
        let called = match named {
            CredentialName::Id(id) => vec!["credential id", id],
            CredentialName::Name { name, user } => {
                let [kind, user] = form(user);
                vec!["credential name", name, kind, user]
            }
        };
        let client = self.backoff.client(&called, from);
        let now = self.clock.now();
        let attempt = self.backoff.begin(&client, now)?;
        let row = self.credential_named(named)?;
        let is_right = self.is_secret(row.as_ref(), secret, &client.place)?;
        let Some(row) = row.filter(|row| is_right && !row.is_expired(now)) else {
            attempt.failed(self.clock.now());
            return Err(Error::Unauthenticated);
        };
        attempt.succeeded();
        let user = self.user_named(&Named::Id(row.user_id.to_string()))?;
        let user = user.filter(User::may_log_in);
        Ok(Proof {
            credential: Some(row),
            ..Proof::of(user.ok_or(Error::Unauthenticated)?)
        })
    }

    /// Whether this is the secret of an application credential. A wrong one takes as long as a wrong password, whether
    /// or not there is such a credential, and whether its user or this service has chosen the secret.
    fn is_secret(
        &self,
        row: Option<&ApplicationCredential>,
        secret: &Secret,
        place: &str,
    ) -> Result<bool, Error> {
        let hash = blake3::hash(secret.expose().as_bytes());
        // Comparison of BLAKE3 hashes takes the same time whatever the bytes.
        let is_random = |row: &ApplicationCredential| {
            blake3::Hash::from_slice(&row.secret_hash).is_ok_and(|known| known == hash)
        };
        if row.is_some_and(is_random) {
            return Ok(true);
        }
        let chosen = row.and_then(ApplicationCredential::chosen_secret_hash);
        self.passwords.verify(chosen, secret, place)
    }

    /// With as many queries where there is no such user.
    fn credential_named(
        &self,
        named: &CredentialName,
    ) -> Result<Option<ApplicationCredential>, Error> {
        match named {
            CredentialName::Id(id) => Ok(self.db.read(|c| credentials::find(c, id))?),
            CredentialName::Name { name, user } => {
                let user = self.user_named(user)?.map(|user| user.id);
                let id = user.unwrap_or_else(|| UserId::new(""));
                Ok(self.db.read(|c| credentials::find_by_name(c, &id, name))?)
            }
        }
    }

    fn role_of(&self, user: &UserId, project: &ProjectId) -> Result<Option<Role>, Error> {
        Ok(self.db.read(|c| identity::role_of(c, user, project))?)
    }
}

/// The key under which log-ins of a user are counted.
fn form(named: &Named) -> [&str; 2] {
    match named {
        Named::Id(id) => ["user id", id],
        Named::Name(name) => ["user name", name],
    }
}

/// Tokens are kept and looked for by their hashes.
fn hash(token: &str) -> Vec<u8> {
    blake3::hash(token.as_bytes()).as_bytes().to_vec()
}
