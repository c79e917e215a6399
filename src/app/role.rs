//! The role of a process.

/// The role of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// API and worker.
    Serve,
    /// Requests only; jobs wait for workers.
    Api,
    /// Jobs only.
    Worker,
}

impl Role {
    /// Its word on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Api => "api",
            Self::Worker => "worker",
        }
    }
}
