//! The part of a list that is wanted, and its order: the same for every listed table.

use crate::model::id::ProjectId;

/// The kind of values in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Number,
    /// Microseconds since 1970.
    Time,
    Flag,
    /// A JSON object of texts.
    Map,
}

/// In place of a column that only Cinder has: no text. Not a bare constant, which an `ORDER BY` would
/// take for a column's position.
pub const NO_TEXT: &str = "COALESCE(NULL, '')";
/// The same for a number.
pub const NO_NUMBER: &str = "COALESCE(NULL, 0)";
/// A flag that is always set.
pub const ALWAYS: &str = "COALESCE(NULL, TRUE)";

/// A column as clients name it in filters and sort keys.
#[derive(Debug, PartialEq, Eq)]
pub struct Column {
    /// Name in requests.
    pub name: &'static str,
    /// Name in the table.
    pub sql: &'static str,
    pub kind: Kind,
    /// Whether a row may be without a value.
    pub nullable: bool,
}

impl Column {
    /// A column that always has a value.
    pub const fn new(name: &'static str, sql: &'static str, kind: Kind) -> Self {
        let nullable = false;
        Self {
            name,
            sql,
            kind,
            nullable,
        }
    }

    /// A column whose value may be missing.
    pub const fn nullable(name: &'static str, sql: &'static str, kind: Kind) -> Self {
        let nullable = true;
        Self {
            name,
            sql,
            kind,
            nullable,
        }
    }
}

/// The column of this name, if a table has one.
pub fn column(columns: &'static [Column], name: &str) -> Option<&'static Column> {
    columns.iter().find(|column| column.name == name)
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Most items; 0 is an empty page.
    pub limit: usize,
    /// Items to pass over, after the marker if there is one.
    pub offset: usize,
    /// Id of the last item of the page before.
    pub marker: Option<String>,
    /// The order, most important key first. Must end in a key that is unique.
    pub sort: Vec<Order>,
    /// Bytes that what varies in size may take; a single item may take more.
    pub bytes_max: u64,
}

/// One page as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T> {
    pub rows: Vec<T>,
    /// Whether it ended before its limit, as it would have taken too many bytes.
    pub is_cut: bool,
}

/// A column to sort by. Missing values count as the least of their kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    pub column: &'static Column,
    pub descending: bool,
}

/// Which rows are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// `None`: of all projects.
    pub project: Option<ProjectId>,
    /// All of them must hold.
    pub conditions: Vec<Condition>,
}

/// One condition on one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    Text(&'static Column, String),
    Number(&'static Column, i64),
    Flag(&'static Column, bool),
    /// The text occurs in the value.
    Contains(&'static Column, String),
    /// Later than, earlier than and so on, by the SQL operator.
    Compare(&'static Column, Comparison, i64),
    /// The map holds this key with this value.
    Entry(&'static Column, String, String),
    /// The column has no value.
    Missing(&'static Column),
    /// No row is wanted.
    Never,
}

/// How two values stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Less,
    LessOrEqual,
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    /// The word in requests.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "lt" => Some(Self::Less),
            "lte" => Some(Self::LessOrEqual),
            "eq" => Some(Self::Equal),
            "neq" => Some(Self::NotEqual),
            "gt" => Some(Self::Greater),
            "gte" => Some(Self::GreaterOrEqual),
            _ => None,
        }
    }

    /// The operator in SQL.
    pub fn sql(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Equal => "=",
            Self::NotEqual => "<>",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}
