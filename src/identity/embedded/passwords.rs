//! Passwords and their hashes. argon2 takes tens of milliseconds of a core and 19 MiB on purpose, and anybody can cause
//! that without an account. So only a few run at once, a short queue waits, one after the other, and the rest is refused.
//! Each client has a share of the queue, so that other clients always find a place.

use crate::config::{PASSWORDS_AT_ONCE, Secret};
use crate::model::error::Error;
use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use std::collections::{HashSet, VecDeque};
use std::sync::{Condvar, Mutex};
use std::thread::available_parallelism;
use std::time::Duration;

/// How many may wait for their turn.
const QUEUE_MAX: usize = 32;
/// How many of them one who asks may have waiting.
const SHARE_MAX: usize = QUEUE_MAX / 2;
/// How long one may wait.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// When a client may try again that finds the queue full.
const RETRY_AFTER_SECONDS: u64 = 2;
/// How many recently verified passwords are remembered.
const VERIFIED_MAX: usize = 256;
/// Blocks of memory (of 1 KiB) that are asked for at least, though only those that argon2 needs are ever touched.
/// The C library gives allocations above 32 MiB back to the system at once; smaller ones it would keep, for
/// each thread that ever came here.
const BLOCKS_MIN: usize = 33 * 1024;

/// Makes and checks hashes of passwords, few at once.
pub(super) struct Passwords {
    gate: Gate,
    /// Keyed BLAKE3 of hash and password of recent log-ins, as clients log in for every command. Holds no password.
    verified: Mutex<HashSet<[u8; 32]>>,
    verified_key: [u8; 32],
    /// A hash that no password has, for users that do not exist.
    nobody: String,
}

impl Passwords {
    pub(super) fn new() -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        Self {
            gate: Gate::new(cores.min(PASSWORDS_AT_ONCE)),
            verified: Mutex::default(),
            verified_key: random(),
            nobody: written(Salt::generate(), &random()),
        }
    }

    /// The hash of a new password, for a user or an address that asks for it.
    pub(super) fn hash(&self, password: &Secret, asker: &str) -> Result<String, Error> {
        let _place = self.gate.enter(asker)?;
        Ok(hash(password))
    }

    /// The hash of a user without a password.
    pub(super) fn of_nobody(&self) -> String {
        self.nobody.clone()
    }

    /// Whether the password has this hash. Without a hash, because the user does not exist, the answer is no, and takes as
    /// long as for a wrong password. It is asked for from an address.
    pub(super) fn verify(
        &self,
        hash: Option<&str>,
        password: &Secret,
        asker: &str,
    ) -> Result<bool, Error> {
        let key = self.key(hash.unwrap_or(&self.nobody), password);
        let verified = || self.verified.lock().expect("no panic while it is locked");
        if verified().contains(&key) {
            return Ok(true);
        }
        let place = self.gate.enter(asker)?;
        let is_it = matches(hash.unwrap_or(&self.nobody), password);
        drop(place);
        if is_it {
            let mut verified = verified();
            if verified.len() >= VERIFIED_MAX {
                verified.clear();
            }
            verified.insert(key);
        }
        Ok(is_it)
    }

    fn key(&self, hash: &str, password: &Secret) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.verified_key);
        hasher.update(&(hash.len() as u64).to_le_bytes());
        hasher
            .update(hash.as_bytes())
            .update(password.expose().as_bytes());
        *hasher.finalize().as_bytes()
    }
}

/// The hash of a new password, at once: for the start, which makes one after the other.
pub(super) fn hash(password: &Secret) -> String {
    let salt = Salt::generate();
    let mut output = [0; Params::DEFAULT_OUTPUT_LEN];
    compute(&Argon2::default(), password, &salt, &mut output)
        .expect("argon2's own defaults are valid");
    written(salt, &output)
}

/// Whether the password is the one with this hash, at once.
pub(super) fn matches(hash: &str, password: &Secret) -> bool {
    let Some((argon2, salt, expected)) = read(hash) else {
        return false;
    };
    let mut output = vec![0; expected.len()];
    compute(&argon2, password, &salt, &mut output).is_ok()
        // Compares in the same time whatever the bytes.
        && Output::new(&output).is_ok_and(|output| output == expected)
}

fn compute(
    argon2: &Argon2<'_>,
    password: &Secret,
    salt: &[u8],
    output: &mut [u8],
) -> Result<(), argon2::Error> {
    let needed = argon2.params().block_count();
    let mut blocks = Vec::with_capacity(needed.max(BLOCKS_MIN));
    blocks.resize(needed, Block::new());
    argon2.hash_password_into_with_memory(password.expose().as_bytes(), salt, output, blocks)
}

/// A hash as a PHC string.
fn written(salt: Salt, output: &[u8; Params::DEFAULT_OUTPUT_LEN]) -> String {
    let params = ParamsString::try_from(&Params::DEFAULT).expect("argon2's own defaults are valid");
    let hash = PasswordHash {
        algorithm: Algorithm::default().ident(),
        version: Some(Version::default().into()),
        params,
        salt: Some(salt),
        hash: Some(Output::new(output).expect("the default length is valid")),
    };
    hash.to_string()
}

/// Parses a PHC string; `None` if it is none of ours.
fn read(hash: &str) -> Option<(Argon2<'static>, Salt, Output)> {
    let hash = PasswordHash::new(hash).ok()?;
    let algorithm = Algorithm::try_from(hash.algorithm.as_str()).ok()?;
    let version = hash.version.map(Version::try_from).transpose().ok()?;
    let params = Params::try_from(&hash).ok()?;
    let argon2 = Argon2::new(algorithm, version.unwrap_or_default(), params);
    Some((argon2, hash.salt?, hash.hash?))
}

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

/// Lets some in at once, has some wait in the order in which they came, and turns the rest away.
struct Gate {
    at_once: usize,
    crowd: Mutex<Crowd>,
    left: Condvar,
}

#[derive(Default)]
struct Crowd {
    inside: usize,
    /// Numbers, and who they are.
    waiting: VecDeque<(u64, String)>,
    next: u64,
}

impl Gate {
    fn new(at_once: usize) -> Self {
        Self {
            at_once,
            crowd: Mutex::default(),
            left: Condvar::new(),
        }
    }

    fn enter(&self, asker: &str) -> Result<Seat<'_>, Error> {
        let busy = Error::TooMany {
            retry_after: RETRY_AFTER_SECONDS,
        };
        let mut crowd = self.crowd.lock().expect("no panic while it is locked");
        let of_asker = crowd.waiting.iter().filter(|(_, who)| who == asker).count();
        if crowd.waiting.len() >= QUEUE_MAX || of_asker >= SHARE_MAX {
            return Err(busy);
        }
        let own = crowd.next;
        crowd.next += 1;
        crowd.waiting.push_back((own, asker.to_owned()));
        let (mut crowd, waited) = self
            .left
            .wait_timeout_while(crowd, WAIT_MAX, |crowd| {
                let is_first = crowd
                    .waiting
                    .front()
                    .is_some_and(|(first, _)| *first == own);
                crowd.inside >= self.at_once || !is_first
            })
            .expect("no panic while it is locked");
        crowd.waiting.retain(|(number, _)| *number != own);
        // Another one is the first now.
        self.left.notify_all();
        if waited.timed_out() {
            return Err(busy);
        }
        crowd.inside += 1;
        Ok(Seat(self))
    }
}

/// A place inside, until it is dropped.
struct Seat<'a>(&'a Gate);

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut crowd = self.0.crowd.lock().expect("no panic while it is locked");
        crowd.inside -= 1;
        self.0.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use argon2::password_hash::PasswordVerifier;
    use std::time::Instant;

    #[test]
    fn a_password_is_told_from_others_and_nobody_has_one() {
        let passwords = Passwords::new();
        let (right, wrong) = (Secret::from("right"), Secret::from("wrong"));
        let hash = passwords.hash(&right, "a").unwrap();
        // As the library itself writes and reads them, with the same parameters.
        assert!(
            hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{hash}"
        );
        let parsed = PasswordHash::new(&hash).unwrap();
        assert!(Argon2::default().verify_password(b"right", &parsed).is_ok());
        for _ in 0..2 {
            assert!(passwords.verify(Some(&hash), &right, "a").unwrap());
            assert!(!passwords.verify(Some(&hash), &wrong, "a").unwrap());
            assert!(!passwords.verify(None, &right, "a").unwrap());
            assert!(!passwords.verify(Some("rubbish"), &right, "a").unwrap());
        }
        // The hash for users that do not exist takes as much work as any other.
        let parameters = |hash: &str| read(hash).map(|(argon2, ..)| argon2.params().clone());
        assert_eq!(parameters(&passwords.nobody), parameters(&hash));
        assert!(parameters(&hash).is_some());
    }

    #[test]
    fn few_are_let_in_some_wait_and_the_rest_is_turned_away() {
        let gate = Gate::new(2);
        let places = (gate.enter("a").unwrap(), gate.enter("a").unwrap());
        let order = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let mut waiting = Vec::new();
            let started = Instant::now();
            let is_refused = |asker| {
                let refused = gate.enter(asker).map(drop);
                assert!(matches!(refused, Err(Error::TooMany { retry_after: 1.. })));
                assert!(started.elapsed() < WAIT_MAX / 2);
            };
            // A client whose whole share is waiting gets no more places, so that the rest is free for others.
            for asker in ["a", "b"] {
                for _ in 0..SHARE_MAX {
                    let (gate, order) = (&gate, &order);
                    waiting.push(scope.spawn(move || {
                        let place = gate.enter(asker);
                        order.lock().unwrap().push(asker);
                        place.map(drop)
                    }));
                }
                while gate.crowd.lock().unwrap().waiting.len() < waiting.len() {
                    std::thread::yield_now();
                }
                is_refused(asker);
            }
            is_refused("c");
            drop(places);
            for one in waiting {
                assert!(one.join().unwrap().is_ok());
            }
        });
        // They come in in their order; two who are inside at once may note it the other way round.
        let order = order.into_inner().unwrap();
        assert!(order[..SHARE_MAX - 2].iter().all(|asker| *asker == "a"));
        let crowd = gate.crowd.lock().unwrap();
        assert_eq!((crowd.inside, crowd.waiting.len()), (0, 0));
    }
}
