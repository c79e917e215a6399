//! The one client of a Keystone: it logs a service in, keeps its token, and asks about the tokens of others.
//!
//! [`crate::identity`] asks about tokens; the Swift driver of [`crate::store`] and the Cinder client of
//! [`crate::volume`] log in. [`Session::validate`] blocks; the rest is async, for callers that are async inside.
//!
//! Answers are bounded, and each request has a deadline. Bodies of refusals may repeat a token, so they are not even
//! read; the same is true of the causes of an answer that is not understood.

mod answer;
mod client;
mod credentials;
mod error;
mod kept;
mod redirect;
mod session;
mod trust;

pub use crate::keystone::answer::{AccessRule, Token};
pub use crate::keystone::client::{Catalog, Client};
pub use crate::keystone::credentials::Credentials;
pub use crate::keystone::error::ClientError;
pub use crate::keystone::kept::{Kept, KeptToken};
pub use crate::keystone::redirect::within_the_host;
pub use crate::keystone::session::{OwnToken, Session};
pub use crate::keystone::trust::{TrustError, connect, connect_for_others};
