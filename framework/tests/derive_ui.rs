//! What the compiler says where a derive is used wrongly. Only texts of our own are compared:
//! those of rustc change with its version.

#[test]
fn mistakes_are_explained() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
