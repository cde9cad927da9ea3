//! The README shows this example as it is.

/// The code after the comments and attributes at its head.
fn shown() -> &'static str {
    let code = include_str!("../src/main.rs");
    code.find("use duractor").map_or(code, |at| &code[at..])
}

#[test]
fn the_readme_shows_this_code() {
    let readme = include_str!("../../../README.md");
    let block = format!("```rust\n{}```\n", shown());
    assert!(readme.contains(&block), "put this into README.md, under \"Hello\":\n\n{block}");
}
