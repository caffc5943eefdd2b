//! Mistakes are found while a plugin compiles, at the author's line, with what to do.

#[test]
fn mistakes_are_explained() {
    trybuild::TestCases::new().compile_fail("tests/compile_errors/*.rs");
}
