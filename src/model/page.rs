//! What part of a list is wanted, and in which order.

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Most items; 0 is an empty page.
    pub limit: usize,
    /// Items to pass over, after the marker if there is one.
    pub offset: usize,
    /// Id of the last item of the page before.
    pub marker: Option<String>,
    pub sort: SortKey,
    pub descending: bool,
}

/// What a list can be sorted by. Ties are broken by creation and id, in the same direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortKey {
    CreatedAt,
    UpdatedAt,
    Id,
    Name,
    Status,
    Size,
}

impl SortKey {
    /// The key of this name in a request.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "created_at" => Some(Self::CreatedAt),
            "updated_at" => Some(Self::UpdatedAt),
            "id" => Some(Self::Id),
            "name" | "display_name" => Some(Self::Name),
            "status" => Some(Self::Status),
            "size" => Some(Self::Size),
            _ => None,
        }
    }
}

/// Which rows are wanted, in the lists of backups, volumes and snapshots. Values match exactly.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// `None`: of all projects.
    pub project: Option<crate::model::id::ProjectId>,
    pub name: Option<String>,
    pub status: Option<String>,
    pub volume_id: Option<String>,
}
