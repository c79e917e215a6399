//! Finds the route of a request.

use crate::api::routes::{Area, ROUTES, Route};
use actix_web::dev::{Path, ResourceDef};
use std::sync::LazyLock;

/// The pattern of each route, in their order.
static PATTERNS: LazyLock<Vec<(ResourceDef, &'static Route)>> =
    LazyLock::new(|| ROUTES.iter().flat_map(patterns).collect());

/// The route of a method and path, and the named parts of the path.
pub(super) fn find(method: &str, path: &str) -> Option<(&'static Route, Vec<(String, String)>)> {
    PATTERNS.iter().find_map(|(pattern, route)| {
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
fn decode(text: &str) -> String {
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
