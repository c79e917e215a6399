//! Lists that come in pages, each with a link to the next.

use std::collections::HashSet;

use anyhow::Result;
use serde_json::Value;

use crate::log;

/// All items of the list `key`, starting at `first` and following the links of `<key>_links`.
/// Ends at the last page, at an empty one, and at one that shows nothing new: a server may link
/// to an empty page, and must not make us run in circles.
pub(crate) fn collect(
    first: String,
    key: &str,
    mut fetch: impl FnMut(&str) -> Result<Value>,
) -> Result<Vec<Value>> {
    let mut items = Vec::new();
    let mut ids = HashSet::new();
    let mut next = Some(first);
    while let Some(url) = next {
        let mut page = fetch(&url)?;
        next = next_link(&page, key).map(|link| crate::url::join(&url, link));
        let Some(Value::Array(found)) = page.get_mut(key).map(Value::take) else {
            break;
        };
        let any = !found.is_empty();
        let before = items.len();
        items.extend(
            found
                .into_iter()
                .filter(|item| ids.insert(item["id"].clone())),
        );
        if items.len() == before {
            if any {
                log::warning(format_args!(
                    "{url} repeats what earlier pages of {key} showed"
                ));
            }
            break;
        }
    }
    Ok(items)
}

fn next_link<'a>(page: &'a Value, key: &str) -> Option<&'a str> {
    let links = page.get(format!("{key}_links"))?.as_array()?;
    links.iter().find(|link| link["rel"] == "next")?["href"].as_str()
}

#[cfg(test)]
mod tests {
    use anyhow::bail;
    use serde_json::json;

    use super::*;

    /// Serves pages by their URL, the ids as numbers, and counts the requests.
    fn read(pages: &[(&str, &[u64], Option<&str>)]) -> (Vec<u64>, usize) {
        let mut requests = 0;
        let items = collect("http://c/backups".into(), "backups", |url| {
            requests += 1;
            assert!(requests < 10, "running in circles");
            let Some((_, ids, next)) = pages.iter().find(|(at, ..)| *at == url) else {
                bail!("no page {url}")
            };
            let items: Vec<_> = ids.iter().map(|id| json!({"id": id})).collect();
            let mut page = json!({"backups": items});
            if let Some(next) = next {
                page["backups_links"] =
                    json!([{"rel": "prev", "href": "x"}, {"rel": "next", "href": next}]);
            }
            Ok(page)
        });
        let ids = items
            .unwrap()
            .iter()
            .map(|item| item["id"].as_u64().unwrap())
            .collect();
        (ids, requests)
    }

    #[test]
    fn links_are_followed_to_the_last_page() {
        let pages: [(&str, &[u64], _); 3] = [
            (
                "http://c/backups",
                &[1, 2],
                Some("http://c/backups?marker=2"),
            ),
            (
                "http://c/backups?marker=2",
                &[3, 4],
                Some("/backups?marker=4"),
            ),
            ("http://c/backups?marker=4", &[5], None),
        ];
        assert_eq!(read(&pages), (vec![1, 2, 3, 4, 5], 3));
    }

    #[test]
    fn an_empty_page_ends_the_list_even_with_a_link() {
        let pages: [(&str, &[u64], _); 2] = [
            ("http://c/backups", &[1], Some("?marker=1")),
            ("http://c/backups?marker=1", &[], Some("?marker=1")),
        ];
        assert_eq!(read(&pages), (vec![1], 2));
    }

    #[test]
    fn a_server_that_ignores_the_marker_does_not_loop() {
        let pages: [(&str, &[u64], _); 1] =
            [("http://c/backups", &[1, 2], Some("http://c/backups"))];
        assert_eq!(read(&pages), (vec![1, 2], 2));
    }
}
