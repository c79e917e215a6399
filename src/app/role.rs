//! What a process is there for.

/// What a process is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// API and worker.
    Serve,
    /// Requests only; jobs wait for workers.
    Api,
    /// Jobs only.
    Worker,
}
