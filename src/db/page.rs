//! Filters, orders and pages, the same for every listed table. Column names come from the static
//! tables of the model, never from a request; values are always bound.

use crate::db::DbConnection;
use crate::model::page::{Condition, Kind, Order};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Text};

/// The backend of both databases.
pub(crate) type Backend = <DbConnection as diesel::Connection>::Backend;

/// A condition on a table, whatever it is made of.
pub(crate) type Predicate<T> = Box<dyn BoxableExpression<T, Backend, SqlType = Bool>>;

/// The condition in SQL.
pub(crate) fn condition<T: 'static>(condition: &Condition) -> Predicate<T> {
    use diesel::dsl::sql;
    match condition {
        Condition::Text(column, value) => {
            Box::new(sql::<Bool>(&format!("{} = ", column.sql)).bind::<Text, _>(value.clone()))
        }
        Condition::Number(column, value) => {
            Box::new(sql::<Bool>(&format!("{} = ", column.sql)).bind::<BigInt, _>(*value))
        }
        Condition::Flag(column, value) => {
            Box::new(sql::<Bool>(&format!("{} = ", column.sql)).bind::<Bool, _>(*value))
        }
        Condition::Contains(column, value) => {
            let pattern = format!("%{}%", value.to_lowercase());
            let left = sql::<Bool>(&format!("LOWER({}) LIKE ", column.sql));
            Box::new(left.bind::<Text, _>(pattern))
        }
        Condition::Compare(column, how, value) => {
            let left = sql::<Bool>(&format!("{} {} ", column.sql, how.sql()));
            Box::new(left.bind::<BigInt, _>(*value))
        }
        Condition::Entry(column, key, value) => {
            // Maps are stored as compact JSON with sorted keys. No LIKE, for which SQLite takes letters of either case.
            let json = serde_json::json!({ key: value }).to_string();
            let entry = json[1..json.len() - 1].to_owned();
            let left = sql::<Bool>(&format!("REPLACE({}, ", column.sql));
            let rest = format!(", '') <> {}", column.sql);
            Box::new(left.bind::<Text, _>(entry).sql(&rest))
        }
        Condition::Missing(column) => Box::new(sql::<Bool>(&format!("{} IS NULL", column.sql))),
        Condition::Never => Box::new(sql::<Bool>("1 = 0")),
    }
}

/// The value by which a row is sorted. A missing value counts as the least of its kind, as the two databases sort NULL
/// to different ends.
fn value(order: &Order) -> String {
    let name = order.column.sql;
    match (order.column.nullable, order.column.kind) {
        (false, _) => name.to_owned(),
        (true, Kind::Text | Kind::Map) => format!("COALESCE({name}, '')"),
        (true, Kind::Number | Kind::Time) => format!("COALESCE({name}, 0)"),
        (true, Kind::Flag) => format!("COALESCE({name}, FALSE)"),
    }
}

/// The terms of an `ORDER BY`.
pub(crate) fn orders(sort: &[Order]) -> String {
    let terms: Vec<String> = sort
        .iter()
        .map(|order| {
            let direction = if order.descending { "DESC" } else { "ASC" };
            format!("{} {direction}", value(order))
        })
        .collect();
    terms.join(", ")
}

/// Whether this is the order that has an index, in one direction or the other.
pub(crate) fn is_default(sort: &[Order]) -> bool {
    match sort {
        [first, second] => {
            first.column.sql == "created_at"
                && second.column.sql == "id"
                && first.descending == second.descending
        }
        _ => false,
    }
}

/// The rows after the marker in the default order, as one range of its index.
pub(crate) fn older<T: 'static>(sort: &[Order], created_at: i64, marker: &str) -> Predicate<T> {
    let descending = sort.first().is_some_and(|order| order.descending);
    let operator = if descending { "<" } else { ">" };
    Box::new(
        diesel::dsl::sql::<Bool>(&format!("(created_at, id) {operator} ("))
            .bind::<BigInt, _>(created_at)
            .sql(", ")
            .bind::<Text, _>(marker.to_owned())
            .sql(")"),
    )
}

/// The rows after the marker in this order: of the first key on which they differ from it, the
/// later ones. The first term bounds the scan of an index.
pub(crate) fn after<T: 'static>(table: &str, sort: &[Order], marker: &str) -> Predicate<T> {
    let Some((first, rest)) = sort.split_first() else {
        return Box::new(diesel::dsl::sql::<Bool>("1 = 0"));
    };
    let operator = if first.descending { "<" } else { ">" };
    if rest.is_empty() {
        return against(table, first, operator, marker);
    }
    let bound = against::<T>(table, first, &format!("{operator}="), marker);
    let strictly = against::<T>(table, first, operator, marker);
    Box::new(bound.and(strictly.or(after::<T>(table, rest, marker))))
}

fn against<T: 'static>(table: &str, order: &Order, operator: &str, marker: &str) -> Predicate<T> {
    let value = value(order);
    let text = format!("{value} {operator} (SELECT {value} FROM {table} WHERE id = ");
    Box::new(
        diesel::dsl::sql::<Bool>(&text)
            .bind::<Text, _>(marker.to_owned())
            .sql(")"),
    )
}

/// A boxed query of the rows that match, of one project or of all.
macro_rules! matching {
    ($table:ident, $filter:expr) => {{
        let mut query = $table::table.into_boxed();
        if let Some(project) = &$filter.project {
            query = query.filter($table::project_id.eq(project.clone()));
        }
        for condition in &$filter.conditions {
            query = query.filter($crate::db::page::condition::<$table::table>(condition));
        }
        query
    }};
}
pub(crate) use matching;

/// SQL for the bytes of some columns of a row, in a text or without.
pub(crate) fn bytes_of(columns: &str) -> diesel::expression::SqlLiteral<BigInt> {
    diesel::dsl::sql::<BigInt>(&format!("CAST({columns} AS BIGINT)"))
}

/// How many of the first rows take no more bytes than that together: one at least.
pub(crate) fn fitting(sizes: &[i64], bytes_max: u64) -> usize {
    let mut left = bytes_max;
    let fits = |size: &&i64| {
        let rest = u64::try_from(**size)
            .ok()
            .and_then(|size| left.checked_sub(size));
        rest.map(|rest| left = rest).is_some()
    };
    sizes.iter().take_while(fits).count().max(1)
}

/// A limit or an offset in SQL; no table has more rows than the largest.
pub(crate) fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The rows of a boxed query from where the page begins, in its order.
macro_rules! from_page {
    ($table:ident, $query:expr, $page:expr, $connection:expr) => {{
        let page = $page;
        let mut query = $query;
        // One text: nested orders would be walked again for each key.
        let terms = $crate::db::page::orders(&page.sort);
        query = query.order(diesel::dsl::sql::<diesel::sql_types::Untyped>(&terms));
        if let Some(marker) = &page.marker {
            let created_at = if $crate::db::page::is_default(&page.sort) {
                $table::table
                    .find(marker)
                    .select($table::created_at)
                    .first::<i64>($connection)
                    .optional()?
            } else {
                None
            };
            let after = match created_at {
                Some(time) => $crate::db::page::older::<$table::table>(&page.sort, time, marker),
                None => {
                    let table = stringify!($table);
                    $crate::db::page::after::<$table::table>(table, &page.sort, marker)
                }
            };
            query = query.filter(after);
        }
        query.offset($crate::db::page::number(page.offset))
    }};
}
pub(crate) use from_page;

/// Loads one page of a boxed query. `$bytes` is SQL for what a row takes of the page's bytes, which is looked at
/// before rows are loaded. Rows that change between the two change how much that is, and not which rows follow.
macro_rules! load_page {
    ($table:ident, $row:ty, $bytes:expr, $query:expr, $page:expr, $connection:expr) => {{
        let page: &$crate::model::page::Page = $page;
        let sizes: Vec<i64> = $crate::db::page::from_page!($table, $query, page, $connection)
            .limit($crate::db::page::number(page.limit))
            .select($crate::db::page::bytes_of($bytes))
            .load($connection)?;
        let limit = $crate::db::page::fitting(&sizes, page.bytes_max).min(page.limit);
        let rows: Vec<$row> = $crate::db::page::from_page!($table, $query, page, $connection)
            .limit($crate::db::page::number(limit))
            .select(<$row>::as_select())
            .load($connection)?;
        $crate::model::page::Listed {
            rows,
            is_cut: limit < sizes.len(),
        }
    }};
}
pub(crate) use load_page;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_holds_what_fits_and_one_row_at_least() {
        let cases: [(&[i64], u64, usize); 5] = [
            (&[], 10, 1),
            (&[4, 6, 1], 10, 2),
            (&[4, 7, 1], 10, 1),
            (&[11, 1], 10, 1),
            (&[0, 0, 0], 0, 3),
        ];
        for (sizes, bytes, rows) in cases {
            assert_eq!(fitting(sizes, bytes), rows, "{sizes:?}");
        }
    }
}
