//! Paging, the same for every listed table: those with `id, created_at, updated_at, name, status,
//! size_gib`.

/// Loads one page of a boxed query. In the default order the marker becomes a condition on the
/// index; in other orders, which have none, the rows before it are passed over.
macro_rules! load_page {
    ($table:ident, $row:ty, $query:expr, $page:expr, $connection:expr) => {{
        use $crate::model::page::{Page, SortKey};
        let page: &Page = $page;
        let mut query = $query;
        let marker = match &page.marker {
            None => None,
            Some(id) => $table::table
                .find(id)
                .select(($table::created_at, $table::id))
                .first::<($crate::model::time::Timestamp, String)>($connection)
                .optional()?,
        };
        query = match (page.sort, page.descending) {
            (SortKey::CreatedAt, true) => query.order($table::created_at.desc()),
            (SortKey::CreatedAt, false) => query.order($table::created_at.asc()),
            (SortKey::UpdatedAt, true) => query.order($table::updated_at.desc()),
            (SortKey::UpdatedAt, false) => query.order($table::updated_at.asc()),
            (SortKey::Id, true) => query.order($table::id.desc()),
            (SortKey::Id, false) => query.order($table::id.asc()),
            (SortKey::Name, true) => query.order($table::name.desc()),
            (SortKey::Name, false) => query.order($table::name.asc()),
            (SortKey::Status, true) => query.order($table::status.desc()),
            (SortKey::Status, false) => query.order($table::status.asc()),
            (SortKey::Size, true) => query.order($table::size_gib.desc()),
            (SortKey::Size, false) => query.order($table::size_gib.asc()),
        };
        query = match page.descending {
            true => query
                .then_order_by($table::created_at.desc())
                .then_order_by($table::id.desc()),
            false => query
                .then_order_by($table::created_at.asc())
                .then_order_by($table::id.asc()),
        };
        match (marker, page.sort) {
            (Some((created, id)), SortKey::CreatedAt) if page.descending => {
                query = query.filter(
                    $table::created_at
                        .lt(created)
                        .or($table::created_at.eq(created).and($table::id.lt(id))),
                );
            }
            (Some((created, id)), SortKey::CreatedAt) => {
                query = query.filter(
                    $table::created_at
                        .gt(created)
                        .or($table::created_at.eq(created).and($table::id.gt(id))),
                );
            }
            (Some((_, id)), _) => {
                let rows: Vec<$row> = query.select(<$row>::as_select()).load($connection)?;
                let after = rows
                    .iter()
                    .position(|row| row.id.as_str() == id)
                    .map_or(0, |at| at + 1);
                return Ok(rows
                    .into_iter()
                    .skip(after + page.offset)
                    .take(page.limit)
                    .collect());
            }
            (None, _) => {}
        }
        query
            .limit(i64::try_from(page.limit).unwrap_or(i64::MAX))
            .offset(i64::try_from(page.offset).unwrap_or(i64::MAX))
            .select(<$row>::as_select())
            .load($connection)
    }};
}
pub(crate) use load_page;
