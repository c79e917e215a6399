//! The reference names every route, and no route that does not exist.

use embervault::api::routes::ROUTES;
use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn the_reference_and_the_routing_table_name_the_same_routes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("api-ref/README.md");
    let text = std::fs::read_to_string(path).unwrap();
    // | `GET` | `/backups` | 3.0 | … |
    let documented: BTreeSet<String> = text
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line
                .split('|')
                .map(|cell| cell.trim().trim_matches('`'))
                .collect();
            let is_route = cells.len() > 4 && cells[2].starts_with('/');
            is_route.then(|| format!("{} {} {}", cells[1], cells[2], cells[3]))
        })
        .collect();
    let routed: BTreeSet<String> = ROUTES
        .iter()
        .map(|route| format!("{} {} {}", route.method, route.path, route.since()))
        .collect();
    let missing: Vec<_> = routed.difference(&documented).collect();
    let invented: Vec<_> = documented.difference(&routed).collect();
    assert!(missing.is_empty(), "not documented: {missing:#?}");
    assert!(
        invented.is_empty(),
        "documented, but no route: {invented:#?}"
    );
}

#[test]
fn every_route_that_is_not_open_refuses_whoever_has_no_token() {
    use crate::support::{Bed, Client, Database};
    use embervault::api::routes::Area;
    let bed = Bed::new(Database::Sqlite);
    let service = bed.start();
    let nobody = Client::anonymous(&service.base);
    for route in ROUTES {
        let path = route.path.replace(['{', '}'], "");
        let path = match route.area {
            Area::BlockStorage => format!("/v3{path}"),
            _ => path,
        };
        let body = ["PATCH", "POST", "PUT"]
            .contains(&route.method)
            .then(|| "{}".to_owned());
        let answer = nobody.send(route.method, &path, body);
        match route.area {
            Area::Open | Area::IdentityOpen => assert_ne!(answer.status, 404, "{path}"),
            _ => assert_eq!(answer.status, 401, "{} {path}", route.method),
        }
    }
}
