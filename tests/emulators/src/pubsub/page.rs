//! Pages of a list. The token of the next page is the last name of this one.

/// Items of a page when the request names no size.
const DEFAULT_SIZE: usize = 100;

/// The first `size` items, and the token of the next page: empty on the last.
pub(super) fn page<T>(
    items: impl IntoIterator<Item = T>,
    size: i32,
    name: impl Fn(&T) -> &String,
) -> (Vec<T>, String) {
    let size = usize::try_from(size).ok().filter(|size| *size > 0).unwrap_or(DEFAULT_SIZE);
    let mut items = items.into_iter();
    let page: Vec<T> = items.by_ref().take(size).collect();
    let more = items.next().is_some();
    let token = page.last().filter(|_| more).map(name).cloned();
    (page, token.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn only_a_page_with_a_successor_has_a_token() {
        let all = names(&["a", "b", "c"]);
        let page_of = |size| page(all.clone(), size, |name| name);
        assert_eq!(page_of(2), (names(&["a", "b"]), "b".to_owned()));
        assert_eq!(page_of(3), (all.clone(), String::new()));
        assert_eq!(page_of(0), (all.clone(), String::new()));
        assert_eq!(page_of(-1), (all.clone(), String::new()));
    }
}
