//! The lines of Rust in the documentation are an example's.

use super::read;

/// The blocks of Rust.
fn quoted(page: &str) -> Vec<&str> {
    let blocks = page.split("```rust\n").skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn what_is_quoted_stands_in_an_example() {
    let page = read("worker/docs/languages.md");
    let examples = ["official_client", "own_parts"].map(|name| {
        assert!(page.contains(&format!("`worker/examples/{name}.rs`")), "{name} is not named");
        read(&format!("worker/examples/{name}.rs"))
    });
    let blocks = quoted(&page);
    assert!(blocks.len() > 2, "{blocks:?}");
    for block in blocks {
        assert!(
            examples.iter().any(|example| example.contains(block)),
            "these lines are in no example:\n{block}"
        );
    }
    let lines = examples[0].lines().count();
    assert!(lines < 40, "official_client.rs has {lines} lines");
    assert!(page.contains(&format!("a whole program of {lines} lines")), "it has {lines}");
}
