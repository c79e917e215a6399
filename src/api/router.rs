//! Finds the route of a request.

use crate::api::gateway::routes::MERGED;
use crate::api::routes::{Area, ROUTES, Route};
use actix_web::dev::{Path, ResourceDef};
use std::sync::LazyLock;

/// The pattern of each route, in their order.
static PATTERNS: LazyLock<Vec<(ResourceDef, &'static Route)>> =
    LazyLock::new(|| ROUTES.iter().flat_map(patterns).collect());

/// The same of the routes whose answers are Cinder's and ours.
static MERGED_PATTERNS: LazyLock<Vec<(ResourceDef, &'static Route)>> =
    LazyLock::new(|| MERGED.iter().flat_map(patterns).collect());

/// A route, and the named parts of the path.
type Found = Option<(&'static Route, Vec<(String, String)>)>;

/// The route of a method and path.
pub(super) fn find(method: &str, path: &str) -> Found {
    find_in(&PATTERNS, method, path)
}

/// The route of a method and path in front of a Cinder, if the answer is not Cinder's alone.
pub(super) fn find_merged(method: &str, path: &str) -> Found {
    find_in(&MERGED_PATTERNS, method, path)
}

fn find_in(table: &[(ResourceDef, &'static Route)], method: &str, path: &str) -> Found {
    table.iter().find_map(|(pattern, route)| {
        let mut matched = Path::new(path);
        let is_it = route.method == method && pattern.capture_match_info(&mut matched);
        is_it.then(|| {
            let named = matched.iter();
            let parts = named
                .map(|(name, value)| (name.to_owned(), decode(value)))
                .collect();
            (*route, parts)
        })
    })
}

fn patterns(route: &'static Route) -> Vec<(ResourceDef, &'static Route)> {
    match route.area {
        Area::BlockStorage => [r"/v3/{project_id:[0-9a-f\-]+}", "/v3"]
            .iter()
            .map(|prefix| (ResourceDef::new(format!("{prefix}{}", route.path)), route))
            .collect(),
        _ => vec![(ResourceDef::new(route.path), route)],
    }
}

/// Percent-decoding; what is not UTF-8 is replaced, and then simply names nothing.
pub(super) fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = (*first == b'%').then(|| after.get(..2)).flatten();
        let byte = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
