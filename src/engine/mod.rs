//! The deduplicating repository: what turns a volume into objects and back.
//!
//! Promises: a backup is complete in itself; a root in the store means that all it needs is in
//! the store; nothing is relied upon before its reference is committed; every chunk is verified
//! when it is read; memory is bounded whatever the volume's size. The engine knows nothing of
//! HTTP, or of who may do what. Of jobs it knows the lease: a backup's session bears the id of its job, and each of
//! its writes names job and attempt, so that a run that was overtaken changes nothing. [`mod@format`] describes
//! every stored byte.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | vault | the key, the parameters and the objects of one project in one storage |
//! | chunk | a piece of data with an id, a keyed hash of its bytes; the unit of deduplication |
//! | frame | chunks that were compressed and sealed together; the unit of reading |
//! | pack | many frames in one object. Data packs hold data; meta packs hold leaves, nodes and sums |
//! | ordinal | the number of a frame in its pack, from 0; it never changes |
//! | rewrite | the number of a pack's object: 0 as a backup wrote it, a higher one for each object that a compaction or repair wrote in its place. The row of the pack says which one is current |
//! | span | a part of a volume, 32 MiB in new vaults; the unit of work |
//! | extent | a part of a span: a hole, or a slice of a frame |
//! | leaf | the extents of one span |
//! | node | a page of the tree over the leaves of a backup |
//! | sums | 8 bytes of hash for each 4 KiB block of a span, to find what changed |
//! | root | the sealed description of one backup, which leads to its tree; stored last, and so the commit point |
//! | pack set | the numbers of all packs that a backup needs, in its root and in its row |
//! | session | the right of one job to write packs. Its row names the run that has it. A session owns the packs that it wrote, and has references on the packs that it relies upon |
//! | generation | the number of a collection of a vault. A repair begins one as well. So do rebuilds, imports and backups on an old database, before they bring the rows of packs up to date with the storage. A later generation stops an earlier one |
//! | census | the frames that the manifests of all backups reach |
//! | condemned | a pack that neither a session nor a backup needed at some generation. A reference makes it live again; a later generation gives it up |
//! | given up | a condemned pack that is being removed. No reference on it can be taken any more |
//!
//! # Who may run beside whom, in one vault
//!
//! All operations may run beside each other, except a change of the master key. The letters name the rules below that
//! make it safe.
//!
//! | | backup | restore | delete | import | collect | compact | verify | repair | rebuild | shred | rotate |
//! |---|---|---|---|---|---|---|---|---|---|---|---|
//! | **backup** | N H C | J A | J H S | H S C | H S C G | H C G | C | H A C G | N H C | K | X |
//! | **restore** | | J | J O | O A | S A | S A | – | A | A C | K | X |
//! | **delete** | | | O | O | S O | S | C | – | O | K | X |
//! | **import** | | | | O C | H S C G | S C G | C | S C G | S C | K | X |
//! | **collect** | | | | | G | G | C A | G | G C | K | X |
//! | **compact** | | | | | | G | C A | G | G C | K | X |
//! | **verify** | | | | | | | C | C A | C | K | X |
//! | **repair** | | | | | | | | G | G C | K | X |
//! | **rebuild** | | | | | | | | | C | K | X |
//! | **shred** | | | | | | | | | | K | K |
//! | **rotate** | | | | | | | | | | | X |
//!
//! * **N**, names: no two jobs store an object under one name. Numbers of packs and of rewrites are given out by the
//!   database and never twice (`db::packs::open`, `db::gc::next_rewrite`). So two backups at most store the
//!   same chunk twice. An old database may give out a number that an object has already: then the object is not
//!   replaced, and the backup goes on with free numbers. A root has the id of its backup, so all runs of one job store
//!   it under the same name, each only as long as its lease lasts. In a storage that does not refuse to replace
//!   objects, a run that was halted while it sent the root may still replace that of a later run. The next
//!   verification reports a root that needs other packs than the backup's row says.
//! * **H**, hold: a session relies on a pack only after its reference is committed (`db::packs::reference`). A
//!   collection may condemn a pack that was referenced after it had read the references, but no collection gives it
//!   up. A compaction does not switch a referenced pack, and a repair only if the new object has every frame that the
//!   pack ever had. A reference makes a condemned pack live; one on a pack that was given up is refused. A parent is
//!   used only if its backup was still there after its packs were referenced. If a referenced pack gets another object
//!   all the same, as a rebuild, an import or another backup may do, the backup notices it at its end
//!   (`db::packs::is_rewritten`). Then it is made again, or fails if its volume was released already.
//! * **S**, sets: what a backup needs stands in its row (`pack_set`) from the transaction that makes it available, or
//!   in which an import takes its data. A collection reads what sessions hold first and the sets second, as packs
//!   pass from a session to a backup and never back. A compaction keeps the frames of its census, and is refused if a
//!   backup that the census did not see needs the pack. An import looks, after its set is noted, whether root and
//!   frames are still there, and takes references on all packs in its last transaction. A backup that fails has no
//!   set: it removes its root before its session ends, and a root that is left goes before any pack
//!   ([`care::collect`]).
//! * **A**, again: a reader that finds a pack missing or damaged reads the row again and tries a second time, as the
//!   row may lead to another object by now. An old object is deleted only after the switch to the new one, and by a
//!   repair only if the new one has every frame that backups need.
//! * **C**, compare: a write that notes damage of a pack, or leads its row to another object, names the rewrite that
//!   was looked at. If the row leads to another object by now, nothing is written. All other changes of a pack's state
//!   are right whatever object the row leads to, and name the states in which they may happen; those of a pack that is
//!   being written also name its session. A verification asks once more whether a backup still exists before it calls
//!   it damaged. Chunks of a damaged pack leave the index, so that later backups store them again, and come back if the
//!   pack is found sound; a backup that relies on them already is called damaged by the next verification. A pack that
//!   a collection is removing is not called missing. Two rebuilds at once take a backup in once.
//! * **G**, generation: each collection and repair begins a generation. So does `care::rebuild::packs`, which brings
//!   the rows of packs up to date with the storage, for a rebuild, for an import that needs packs which the database
//!   does not know, and for a backup that finds that the database is an old copy. A compaction or repair gets a rewrite
//!   number, and switches a pack, only while its generation is the latest. A collection condemns packs, gives them up
//!   and removes objects that nothing leads to only while its own is. A rebuild that leads a row to another object
//!   looks at no generation, but at the row (C). These changes of packs, and the beginning of each generation, take
//!   turns (`db::gc::lock`).
//! * **J**, job: a backup has at most one live job, and a restore or deletion begins only in the states that allow it.
//!   A forced deletion cancels the job that is under way, and the same job deletes afterwards. A run that has stored a
//!   root, and finds at its end that the backup's row was removed, removes the root.
//! * **O**, owners: backups that were imported may share a root. A deletion removes the root if no other backup needs
//!   it: if all others that share it are being deleted too, and have lesser ids. It removes the root first, then the
//!   row. The transaction that removes the row locks the root's name and asks again whether another backup needs the
//!   root; if the answer has changed, the job starts again. With the row the deletion notes the root's name
//!   (`removed_roots`). So a collection that has listed the root before does not take it for one that the database has
//!   lost, and a rebuild that has listed it finds it missing and adds nothing. An import that finds the root deleted is
//!   refused.
//! * **K**, key: shredding first ends the sessions of the vault's jobs and puts a mark in the place of the key, in
//!   one transaction. From there on the vault cannot be opened, no session writes rows, and no key is put back:
//!   `vault.json` is stored only in a transaction that sees no mark, and the mark waits for such transactions. A run
//!   that had opened the vault before may still store an object. No key opens it; its writer, which looks for the
//!   mark afterwards, removes it, or the shredding finds it. No pack is switched any more.
//! * **X**, excluded: `key rotate` takes the data directory alone and refuses while any worker sends heartbeats. A lock
//!   in the database refuses a second one, on whichever host. It does not see `vault` commands that run at the same
//!   time; they go on with the keys that they have opened. Run it on one host, and run an interrupted one again there.
//! * **–**: neither removes anything that the other needs. A repair does without the root of a deleted backup.
//!
//! `engine/tests/model` goes through the ways in which backups, deletions, collections, crashes and overtaken runs may
//! interleave.
//!
//! Tables of the state after a crash stand in [`mod@format`] for backups, in `care/switch.rs` for compaction and
//! repair, in [`care::repair`] for the rest of a repair, in [`mod@vault::shred`] for shredding, and in `app::keys` for
//! a change of the master key.
//!
//! # One span
//!
//! Full and incremental backups go one way ([`mod@write::backup`], `span`, `stage`). Each 4 KiB block of
//! the span, or of the parts that the source says have changed, is hashed and compared with the
//! parent's sum; of a full backup's parent all sums are zero. What differs is staged in runs. Long
//! runs are cut into chunks and looked up; short ones between old data are gathered, as a chunk for
//! each would cost more than it could save. New chunks are compressed and sealed together in frames,
//! and the parent's extents are split around the result ([`write::splice`]). Where a span has become so
//! scattered that its restore would fetch much more than it needs, the least used frames are stored
//! again, within a budget proportional to what changed.
//!
//! # Memory
//!
//! The settings name what the process may hold ([`crate::config::Config::share`]). A fixed part is for the
//! program, the database's cache, requests, passwords and the upkeep of vaults; the rest is shared out among the jobs
//! that may run at once. A backup holds as many packs and threads as fit into its part. The threads of a
//! restore, and those that verify packs, take what they are about to fetch out of a budget (`budget.rs`)
//! and give it back when it is written: where the target is slow they wait before they fetch. Objects are
//! read in ranges, into memory of the reader. What grows with a vault is a few bytes for each frame in use,
//! while it is collected or verified.
//!
//! # Where the time of a full backup goes
//!
//! `perf record` of `embervault bench` on a 4 GiB ext4 image with 2.8 GB of files, zstd 3, two
//! cores, directory storage; shares of CPU time:
//!
//! | share | what |
//! |---|---|
//! | 67 % | zstd |
//! | 8 % | FastCDC |
//! | 6 % | BLAKE3: chunk ids, and the packs' digests |
//! | 4 % | reading the volume out of the page cache |
//! | 3 % | writing packs into it |
//! | 2 % | zero test and sums of blocks |
//! | 1 % | AES-256-GCM |
//! | 9 % | copying, page faults, the index, everything else |
//!
//! `cargo bench --bench stages` has each of them alone.

mod budget;
pub mod care;
pub mod format;
mod parallel;
pub mod read;
#[cfg(test)]
mod tests;
pub mod vault;
pub mod write;

use crate::db::DbError;
use crate::model::progress::Progress;
use crate::store::{StoreError, StoreErrorKind};
use crate::volume::VolumeError;

/// Failure of the engine. The text names the object and is fit for a backup's `fail_reason`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object is not as it was written.
    #[error("{object} is corrupt: {detail}")]
    Corrupt { object: String, detail: String },
    /// Something that must be stored is not.
    #[error("{object} is missing")]
    Missing { object: String },
    /// Nothing of the storage is there: a file system that is not mounted, another bucket.
    #[error(
        "the backup storage is not there: it has neither {object} nor its format.json. Mount it, or put its content back"
    )]
    Away { object: String },
    /// The backup storage has acknowledged an object that is not there.
    #[error("the backup storage acknowledged {object}, but it is not there")]
    Lost { object: String },
    /// An object has the name that a new one was to have.
    #[error("{object} exists already: the database is older than the storage")]
    Taken { object: String },
    /// The backup storage failed.
    #[error(transparent)]
    Store(StoreError),
    /// The database failed.
    #[error("the database failed")]
    Db(#[from] DbError),
    /// The volume could not be read or written.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The wrapped key cannot be opened with this master key.
    #[error("the master key does not open {object}")]
    Key { object: String },
    /// The store holds backups that the database does not know.
    #[error(
        "vault {vault} holds {count} backups that the database does not know, such as {first}. Nothing is reclaimed until you run `embervault vault rebuild`"
    )]
    UnknownRoots {
        vault: String,
        count: usize,
        first: String,
    },
    /// We cannot tell which packs the root of a backup needs.
    #[error(
        "{object} could not be read by the last rebuild, so the packs that it needs are unknown. Nothing is reclaimed in this vault until you repair the object and run `embervault vault rebuild`, or delete the backup"
    )]
    UnreadableRoot { object: String },
    /// A bug: a thread of this program panicked. Stored data is not affected.
    #[error("{0} failed: its thread panicked")]
    Panicked(&'static str),
    /// Asked to stop.
    #[error("the job was stopped")]
    Cancelled,
    /// The lease was not renewed in time: this run may not write any more.
    #[error("the job's lease could not be renewed in time")]
    Overdue,
    /// The session was overtaken by another.
    #[error("another worker has taken over")]
    Fenced,
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error.kind {
            StoreErrorKind::Missing => Error::Missing {
                object: error.object,
            },
            StoreErrorKind::Truncated => Error::Corrupt {
                object: error.object,
                detail: "it is truncated".to_owned(),
            },
            StoreErrorKind::Exists
            | StoreErrorKind::Full
            | StoreErrorKind::Denied
            | StoreErrorKind::Other => Error::Store(error),
        }
    }
}

impl Error {
    fn corrupt(object: impl std::fmt::Display, detail: impl std::fmt::Display) -> Self {
        Error::Corrupt {
            object: object.to_string(),
            detail: detail.to_string(),
        }
    }

    /// Whether trying again later may help.
    pub fn is_temporary(&self) -> bool {
        match self {
            // Credentials may be put right while the job waits.
            Error::Store(error) => {
                matches!(error.kind, StoreErrorKind::Other | StoreErrorKind::Denied)
            }
            Error::Db(error) => !error.is_lasting(),
            // A cluster that keeps the volume may be away for a while; a disk may not.
            Error::Volume(error) => error.is_temporary(),
            Error::Away { .. }
            | Error::Lost { .. }
            | Error::Taken { .. }
            | Error::Panicked(_)
            | Error::Overdue => true,
            Error::Corrupt { .. }
            | Error::Missing { .. }
            | Error::Key { .. }
            | Error::UnknownRoots { .. }
            | Error::UnreadableRoot { .. }
            | Error::Cancelled
            | Error::Fenced => false,
        }
    }
}

/// Result of the engine.
pub type Result<T> = std::result::Result<T, Error>;

/// An error once the job was asked to stop, or may not go on.
fn check(progress: &Progress) -> Result<()> {
    if progress.is_asked_to_stop() {
        return Err(Error::Cancelled);
    }
    if progress.is_overdue() {
        return Err(Error::Overdue);
    }
    Ok(())
}
