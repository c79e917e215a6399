//! Points in time: microseconds since 1970, UTC.
//!
//! Microseconds because PostgreSQL keeps no more, and two databases must agree on equality.

use chrono::{DateTime, Utc};
use diesel::backend::Backend;
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types::BigInt;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Microseconds since 1970-01-01T00:00:00Z.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    FromSqlRow,
    AsExpression,
)]
#[diesel(sql_type = BigInt)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// This moment and a duration more; at most the last moment that there is a number for.
    pub fn after(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// Whole seconds from an earlier moment to this one; 0 if it is not earlier.
    pub fn seconds_since(self, earlier: Timestamp) -> u64 {
        u64::try_from((self.0 - earlier.0) / 1_000_000).unwrap_or(0)
    }

    /// A time as a client writes it: RFC 3339, or without a zone, which means UTC.
    pub fn parse(text: &str) -> Option<Self> {
        let with_zone = DateTime::parse_from_rfc3339(text).map(|moment| moment.timestamp_micros());
        let without = || {
            chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f")
                .map(|moment| moment.and_utc().timestamp_micros())
        };
        with_zone.or_else(|_| without()).ok().map(Self)
    }

    fn utc(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0).unwrap_or_default()
    }

    /// Block storage form: six fraction digits and no zone (Cinder reference, 1.6).
    pub fn iso(self) -> String {
        self.utc().format("%Y-%m-%dT%H:%M:%S%.6f").to_string()
    }

    /// The form of exported records: whole seconds and `Z`.
    pub fn zoned(self) -> String {
        self.utc().format("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// Identity form: six fraction digits and `Z`.
    pub fn zulu(self) -> String {
        self.utc().format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
    }
}

impl<DB> ToSql<BigInt, DB> for Timestamp
where
    DB: Backend,
    i64: ToSql<BigInt, DB>,
{
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, DB>) -> serialize::Result {
        <i64 as ToSql<BigInt, DB>>::to_sql(&self.0, out)
    }
}

impl<DB> FromSql<BigInt, DB> for Timestamp
where
    DB: Backend,
    i64: FromSql<BigInt, DB>,
{
    fn from_sql(bytes: DB::RawValue<'_>) -> deserialize::Result<Self> {
        <i64 as FromSql<BigInt, DB>>::from_sql(bytes).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_have_six_fraction_digits_and_only_identity_has_a_zone() {
        let moment = Timestamp(1_700_000_000_000_042);
        assert_eq!(moment.iso(), "2023-11-14T22:13:20.000042");
        assert_eq!(moment.zulu(), "2023-11-14T22:13:20.000042Z");
        assert_eq!(
            moment.after(Duration::from_secs(61)).seconds_since(moment),
            61
        );
        assert_eq!(
            moment.seconds_since(moment.after(Duration::from_secs(1))),
            0
        );
    }
}
