//! After a failed log-in the next try has to wait, longer each time. Failures are counted for what the client calls the
//! user or the application credential, from all addresses, and for each address, with all names.
//!
//! Counts are kept by the form and the text that were given, whether or not there is such a user. Otherwise tries under
//! one form would count for another, and the answers would show which users exist. So a user has one count for its id
//! and one for its name. An application credential has three.
//!
//! A try counts from its beginning. As many as could follow each other without a pause run at once; further ones wait
//! until one of them has ended. A right password takes nothing away from the others.
//!
//! If a user has logged in from an address before, this pair is counted by itself, and the counts of name and address do
//! not apply to it. Otherwise any client could lock a user out by trying wrong passwords. All such pairs of an address
//! have a count of their own, which no right password resets: one person may have many application credentials.

use crate::model::error::Error;
use crate::model::time::Timestamp;
use moka::sync::Cache;
use std::net::IpAddr;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// Rows of each table. If more are needed, those that are asked for least are not kept, which may be the new one: its
/// failures are not counted then.
const ROWS_MAX: u64 = 10_000;
/// Failures are forgotten so long after the last one.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(15 * 60);
/// How long it is remembered that a user has logged in from an address.
const KNOWN_FOR: Duration = Duration::from_secs(24 * 3600);
/// How many tries may wait for others to end, and how long one may.
const WAITING_MAX: usize = 32;
const WAIT_MAX: Duration = Duration::from_secs(5);
/// When a client may try again that finds too many waiting.
const RETRY_AFTER_SECONDS: u64 = 2;

/// The hash of a name or address for which tries are counted.
type Key = [u8; 32];

/// Log-ins of late.
pub(super) struct Backoff {
    names: Table,
    addresses: Table,
    pairs: Table,
    /// By address, of pairs that are known.
    known_pairs: Table,
    /// Pairs of user and address that have logged in.
    known: Cache<Key, ()>,
    /// Rows are found by keyed hashes: they are short whatever a client calls itself.
    key: Key,
    /// Held while rows are looked at and changed: how many tries wait.
    waiting: Mutex<usize>,
    ended: Condvar,
}

/// Who tries to log in, and from where.
pub(super) struct Client {
    name: Key,
    address: Key,
    pair: Key,
    /// The address, as far as one client holds it.
    pub(super) place: String,
}

/// A try that has begun. Dropped without a result, it counts as none.
pub(super) struct Try<'a> {
    backoff: &'a Backoff,
    client: &'a Client,
    is_known: bool,
    /// When it failed, if it did.
    failed: Option<Timestamp>,
}

impl Backoff {
    pub(super) fn new() -> Self {
        let mut key = [0; 32];
        getrandom::fill(&mut key).expect("the system gives random bytes");
        Self {
            names: Table::new(5, Duration::from_secs(30)),
            // Many users may come from behind one address.
            addresses: Table::new(20, Duration::from_secs(10)),
            pairs: Table::new(5, Duration::from_secs(30)),
            // Everybody's mistakes from behind one address.
            known_pairs: Table::new(100, Duration::from_secs(10)),
            known: Cache::builder()
                .max_capacity(ROWS_MAX)
                .time_to_live(KNOWN_FOR)
                .build(),
            key,
            waiting: Mutex::new(0),
            ended: Condvar::new(),
        }
    }

    /// Who calls itself this (the form of the name and the name), from an address if that is known.
    pub(super) fn client(&self, name: &[&str], address: Option<IpAddr>) -> Client {
        let address = address.map(network).map(|network| network.to_string());
        let address = address.unwrap_or_default();
        let key = |name: &[&str], address: &str| {
            let mut hasher = blake3::Hasher::new_keyed(&self.key);
            for part in std::iter::once(&address).chain(name) {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part.as_bytes());
            }
            *hasher.finalize().as_bytes()
        };
        Client {
            name: key(name, ""),
            address: key(&[], &address),
            pair: key(name, &address),
            place: address,
        }
    }

    /// Begins a try, or refuses one that comes too early.
    pub(super) fn begin<'a>(
        &'a self,
        client: &'a Client,
        now: Timestamp,
    ) -> Result<Try<'a>, Error> {
        let refuse = |retry_after| Err(Error::TooMany { retry_after });
        let deadline = Instant::now() + WAIT_MAX;
        let mut waiting = self.waiting.lock().expect("no panic while it is locked");
        loop {
            let is_known = self.known.contains_key(&client.pair);
            let rows = self.rows(client, is_known);
            let pauses = rows.iter().map(|(table, key)| table.pause(key, now));
            let pause = pauses.max().unwrap_or_default();
            if !pause.is_zero() {
                return refuse(pause.as_secs() + u64::from(pause.subsec_nanos() > 0));
            }
            if rows.iter().all(|(table, key)| table.has_room(key)) {
                for (table, key) in rows {
                    table.change(key, |tries| tries.under_way += 1);
                }
                return Ok(Try {
                    backoff: self,
                    client,
                    is_known,
                    failed: None,
                });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || *waiting >= WAITING_MAX {
                return refuse(RETRY_AFTER_SECONDS);
            }
            *waiting += 1;
            let woken = self.ended.wait_timeout(waiting, left);
            waiting = woken.expect("no panic while it is locked").0;
            *waiting -= 1;
        }
    }

    /// Where a try counts.
    fn rows<'a>(&'a self, client: &'a Client, is_known: bool) -> Vec<(&'a Table, &'a Key)> {
        if is_known {
            return vec![
                (&self.pairs, &client.pair),
                (&self.known_pairs, &client.address),
            ];
        }
        vec![
            (&self.names, &client.name),
            (&self.addresses, &client.address),
        ]
    }
}

impl Try<'_> {
    /// It was a failure.
    pub(super) fn failed(mut self, now: Timestamp) {
        self.failed = Some(now);
    }

    /// It succeeded. What others did under the name or from the address still counts.
    pub(super) fn succeeded(self) {
        let (backoff, client) = (self.backoff, self.client);
        drop(self);
        let _turn = backoff.waiting.lock().expect("no panic while it is locked");
        backoff.known.insert(client.pair, ());
        backoff
            .pairs
            .change(&client.pair, |tries| tries.failures = 0);
    }
}

impl Drop for Try<'_> {
    fn drop(&mut self) {
        let backoff = self.backoff;
        let turn = backoff.waiting.lock();
        for (table, key) in backoff.rows(self.client, self.is_known) {
            table.change(key, |tries| {
                // A row that was dropped meanwhile begins anew.
                tries.under_way = tries.under_way.saturating_sub(1);
                if let Some(now) = self.failed {
                    tries.failures = tries.failures.saturating_add(1);
                    tries.last = now;
                }
            });
        }
        drop(turn);
        backoff.ended.notify_all();
    }
}

/// The addresses of one client: an IPv4 address, or a /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[derive(Clone, Copy)]
struct Tries {
    failures: u32,
    /// When the last one failed.
    last: Timestamp,
    under_way: u32,
}

/// Tries by name, address or both.
struct Table {
    rows: Cache<Key, Tries>,
    /// So many failures cost nothing.
    free: u32,
    pause_max: Duration,
}

impl Table {
    fn new(free: u32, pause_max: Duration) -> Self {
        Self {
            rows: Cache::builder()
                .max_capacity(ROWS_MAX)
                .time_to_live(FORGOTTEN_AFTER)
                .build(),
            free,
            pause_max,
        }
    }

    /// How long the next try has to wait: a second after the first failure that counts, twice as long after each
    /// further one.
    fn pause(&self, key: &Key, now: Timestamp) -> Duration {
        let Some(tries) = self.rows.get(key) else {
            return Duration::ZERO;
        };
        let counted = tries.failures.saturating_sub(self.free);
        if counted == 0 {
            return Duration::ZERO;
        }
        let whole = Duration::from_secs(1 << (counted - 1).min(16)).min(self.pause_max);
        // A clock that was set back must not make the wait longer.
        let passed = now.0.saturating_sub(tries.last.0);
        whole.saturating_sub(Duration::from_micros(u64::try_from(passed).unwrap_or(0)))
    }

    /// Whether one more try could follow all that are under way without a pause, if they all failed.
    fn has_room(&self, key: &Key) -> bool {
        let Some(tries) = self.rows.get(key) else {
            return true;
        };
        tries.under_way == 0 || tries.failures.saturating_add(tries.under_way) <= self.free
    }

    /// Changes a row, while the lock is held. One that says nothing goes.
    fn change(&self, key: &Key, change: impl FnOnce(&mut Tries)) {
        let nothing = Tries {
            failures: 0,
            last: Timestamp(0),
            under_way: 0,
        };
        let mut tries = self.rows.get(key).unwrap_or(nothing);
        change(&mut tries);
        match (tries.failures, tries.under_way) {
            (0, 0) => self.rows.invalidate(key),
            _ => self.rows.insert(*key, tries),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const START: Timestamp = Timestamp(1_700_000_000_000_000);

    fn from(last: u8) -> Option<IpAddr> {
        Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)))
    }

    /// How many seconds the next try has to wait.
    fn wait(backoff: &Backoff, client: &Client, now: Timestamp) -> u64 {
        match backoff.begin(client, now) {
            Err(Error::TooMany { retry_after }) => retry_after,
            _ => 0,
        }
    }

    /// A try that fails if it may begin. How many seconds it has to wait otherwise.
    fn fail(backoff: &Backoff, client: &Client) -> u64 {
        match backoff.begin(client, START) {
            Ok(one) => {
                one.failed(START);
                0
            }
            _ => wait(backoff, client, START),
        }
    }

    fn succeed(backoff: &Backoff, client: &Client, now: Timestamp) {
        backoff.begin(client, now).unwrap().succeeded();
    }

    #[test]
    fn a_name_is_kept_away_from_all_addresses_but_those_it_is_known_at() {
        let backoff = Backoff::new();
        let at_home = backoff.client(&["alice"], from(1));
        succeed(&backoff, &at_home, START);
        let waits: Vec<u64> = (100..108)
            .map(|address| fail(&backoff, &backoff.client(&["alice"], from(address))))
            .collect();
        assert_eq!(waits, [0, 0, 0, 0, 0, 0, 1, 1]);
        let elsewhere = backoff.client(&["alice"], from(200));
        let mut now = START;
        for expected in [2, 4, 8, 16, 30, 30] {
            now = now.after(Duration::from_secs(30));
            backoff.begin(&elsewhere, now).unwrap().failed(now);
            assert_eq!(wait(&backoff, &elsewhere, now), expected);
        }
        let later = now.after(Duration::from_millis(20_500));
        assert_eq!(wait(&backoff, &elsewhere, later), 10);
        let later = now.after(Duration::from_secs(30));
        assert_eq!(wait(&backoff, &elsewhere, later), 0);
        // A clock that was set back.
        assert_eq!(wait(&backoff, &elsewhere, Timestamp(0)), 30);
        assert_eq!(wait(&backoff, &at_home, now), 0);
        // There she is counted as well, until she logs in.
        for _ in 0..6 {
            assert_eq!(fail(&backoff, &at_home), 0);
        }
        assert_eq!(wait(&backoff, &at_home, START), 1);
        succeed(&backoff, &at_home, START.after(Duration::from_secs(1)));
        assert_eq!(wait(&backoff, &at_home, START), 0);
        assert_eq!(wait(&backoff, &elsewhere, now), 30);
    }

    #[test]
    fn an_address_is_kept_away_whatever_the_names() {
        let backoff = Backoff::new();
        let storm = |from: &dyn Fn(u16) -> Option<IpAddr>| {
            for number in 0..40 {
                let name = format!("user-{number}");
                fail(&backoff, &backoff.client(&[&name], from(number)));
            }
        };
        storm(&|_| from(1));
        let bob = |address| backoff.client(&["bob"], address);
        assert_eq!(wait(&backoff, &bob(from(1)), START), 1);
        assert_eq!(wait(&backoff, &bob(from(2)), START), 0);
        // A host with IPv6 has many addresses.
        let v6 = |host| {
            Some(IpAddr::V6(Ipv6Addr::new(
                0x2001, 0xdb8, 1, 2, host, 0, 0, 1,
            )))
        };
        storm(&v6);
        assert_eq!(wait(&backoff, &bob(v6(99)), START), 1);
    }

    #[test]
    fn whoever_has_many_credentials_does_not_try_for_ever() {
        let backoff = Backoff::new();
        let names: Vec<String> = (0..40)
            .map(|number| format!("credential-{number}"))
            .collect();
        let tried = || -> u32 {
            let one = |name: &String| {
                let client = backoff.client(&[name.as_str()], from(1));
                let failed = (0..5).filter(|_| fail(&backoff, &client) == 0).count();
                if let Ok(one) = backoff.begin(&client, START) {
                    one.succeeded();
                }
                u32::try_from(failed).unwrap()
            };
            names.iter().map(one).sum()
        };
        for name in &names {
            succeed(&backoff, &backoff.client(&[name.as_str()], from(1)), START);
        }
        assert_eq!((tried(), tried()), (101, 0));
        // Elsewhere they are as they were.
        let elsewhere = backoff.client(&["credential-0"], from(2));
        assert_eq!(wait(&backoff, &elsewhere, START), 0);
    }

    #[test]
    fn what_a_client_calls_itself_counts_and_not_who_that_is() {
        let backoff = Backoff::new();
        let client = |name: &[&str]| backoff.client(name, None);
        for _ in 0..6 {
            fail(&backoff, &client(&["user id", "alice"]));
        }
        assert_eq!(wait(&backoff, &client(&["user id", "alice"]), START), 1);
        for other in [
            ["user name", "alice"],
            ["credential id", "alice"],
            ["user id", "bob"],
        ] {
            assert_eq!(wait(&backoff, &client(&other), START), 0, "{other:?}");
        }
        assert_eq!(wait(&backoff, &client(&["user id", "alic", "e"]), START), 0);
    }

    #[test]
    fn of_many_tries_at_once_no_more_run_than_one_after_the_other() {
        let backoff = Backoff::new();
        let alice = backoff.client(&["alice"], from(1));
        let crowd = |ends: fn(Try<'_>)| {
            let one = || match backoff.begin(&alice, START) {
                Ok(one) => {
                    std::thread::sleep(Duration::from_millis(5));
                    ends(one);
                    1
                }
                Err(_) => 0,
            };
            std::thread::scope(|scope| -> usize {
                let running: Vec<_> = (0..30).map(|_| scope.spawn(one)).collect();
                running.into_iter().map(|one| one.join().unwrap()).sum()
            })
        };
        // Right passwords all come through.
        assert_eq!(crowd(|one| one.succeeded()), 30);
        assert_eq!(crowd(|one| one.failed(START)), 6);
        assert_eq!(*backoff.waiting.lock().unwrap(), 0);
    }
}
