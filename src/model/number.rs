//! Numbers as columns. The database's integers have a sign, and may be wider than what the names of objects
//! and manifests can hold. A number that cannot be is an error when it is made or read: taken for the nearest
//! one that can be, it would name another pack.

use diesel::backend::Backend;
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types::{BigInt, Integer};
use std::fmt;

/// A number that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value} cannot be {what}")]
pub struct ImpossibleNumber {
    value: String,
    what: &'static str,
}

impl ImpossibleNumber {
    pub(super) fn new(value: impl fmt::Display, what: &'static str) -> Self {
        Self {
            value: value.to_string(),
            what,
        }
    }
}

/// Makes a type for the numbers that are in the range of `$plain`, in a column of `$sql`, which is `$kept`.
macro_rules! number {
    ($(#[$meta:meta])* $name:ident: $plain:ty, $sql:ident as $kept:ty, $what:literal) => {
        $(#[$meta])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromSqlRow, AsExpression,
        )]
        #[diesel(sql_type = $sql)]
        pub struct $name($kept);

        impl $name {
            /// The number itself.
            pub fn get(self) -> $plain {
                <$plain>::try_from(self.0).expect("it was looked at when it was made")
            }

            fn impossible(value: impl fmt::Display) -> ImpossibleNumber {
                ImpossibleNumber::new(value, $what)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl<DB: Backend> ToSql<$sql, DB> for $name
        where
            $kept: ToSql<$sql, DB>,
        {
            fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, DB>) -> serialize::Result {
                <$kept as ToSql<$sql, DB>>::to_sql(&self.0, out)
            }
        }

        impl<DB: Backend> FromSql<$sql, DB> for $name
        where
            $kept: FromSql<$sql, DB>,
        {
            fn from_sql(bytes: DB::RawValue<'_>) -> deserialize::Result<Self> {
                let kept = <$kept as FromSql<$sql, DB>>::from_sql(bytes)?;
                match <$plain>::try_from(kept) {
                    Ok(_) => Ok(Self(kept)),
                    Err(_) => Err(Self::impossible(kept).into()),
                }
            }
        }
    };
}

/// Makes a number of one that may be too large.
macro_rules! made_of {
    ($name:ident: $plain:ty) => {
        impl TryFrom<$plain> for $name {
            type Error = ImpossibleNumber;
            fn try_from(value: $plain) -> Result<Self, ImpossibleNumber> {
                match value.try_into() {
                    Ok(kept) => Ok(Self(kept)),
                    Err(_) => Err(Self::impossible(value)),
                }
            }
        }
    };
}

number!(
    /// The number of a pack in its vault.
    PackNumber: u32, BigInt as i64, "the number of a pack"
);
number!(
    /// Which of a pack's objects, one after the other, something is about.
    Rewrite: u32, Integer as i32, "the rewrite of a pack"
);
number!(
    /// The place of a frame in its pack.
    Ordinal: u32, Integer as i32, "the ordinal of a frame"
);
number!(
    /// Plain bytes of a frame, or of a part of it.
    FrameBytes: u32, Integer as i32, "a number of bytes in a frame"
);
number!(
    /// A number of bytes.
    ByteCount: u64, BigInt as i64, "a number of bytes"
);
number!(
    /// How many frames or chunks a pack holds.
    Count: u32, BigInt as i64, "a number of frames or chunks"
);
made_of!(Rewrite: u32);
made_of!(Ordinal: u32);
made_of!(FrameBytes: u32);
made_of!(ByteCount: u64);

impl From<u32> for PackNumber {
    fn from(number: u32) -> Self {
        Self(number.into())
    }
}

impl TryFrom<usize> for Count {
    type Error = ImpossibleNumber;
    fn try_from(value: usize) -> Result<Self, ImpossibleNumber> {
        match u32::try_from(value) {
            Ok(count) => Ok(Self(count.into())),
            Err(_) => Err(Self::impossible(value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_cannot_be_is_refused_by_its_name() {
        assert_eq!(PackNumber::from(u32::MAX).get(), u32::MAX);
        assert_eq!(Rewrite::try_from(7_u32).unwrap().get(), 7);
        let refused = Ordinal::try_from(1_u32 << 31).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "2147483648 cannot be the ordinal of a frame"
        );
        assert!(FrameBytes::try_from(u32::MAX).is_err());
        assert!(ByteCount::try_from(u64::MAX).is_err());
        assert!(Count::try_from(usize::MAX).is_err());
    }
}
