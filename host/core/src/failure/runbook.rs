//! Writes the runbook of the book from the kinds of failure, and checks that the two are equal.
//!
//! With `UPDATE_EXPECT=1` the test writes the page.

use std::fmt::Write;
use std::path::Path;

use expect_test::expect_file;

use super::{FailureKind, Response};

const HEAD: &str = "\
<!-- Generated from the failure kinds in the source. A test checks this page; UPDATE_EXPECT=1 writes it. -->

# Runbook

Each failure has a *kind*. Log lines show it as `kind`, and so do `projector status`, `/v1/retrying` and `projector dlq show`. Look up the
kind here.
";

/// The parts of the page, in the order in which an operator meets them.
const PARTS: [(Response, &str, &str); 5] = [
    (
        Response::Retry,
        "The host retries",
        "The host retries the operation, with a backoff, without end. No offset moves, and no event is blamed.",
    ),
    (
        Response::Pause,
        "The projection or partition stops",
        "The projection or partition stops until an operator acts. Other projections continue.",
    ),
    (
        Response::Policy,
        "An event fails",
        "The host calls the event again, alone, in a fresh instance. If it fails again, `[failures] policy` decides: see [Dead letters](dead-letters.md).",
    ),
    (
        Response::Refuse,
        "A component is refused",
        "The component does not run. The previous version continues.",
    ),
    (
        Response::Reposition,
        "The host starts again from the checkpoint",
        "The host drops the batch in flight, reads the checkpoint again, and reads the log from there. Nothing was written.",
    ),
];

fn page() -> String {
    let mut page = HEAD.to_owned();
    for (response, title, what) in PARTS {
        let _ = write!(page, "\n## {title}\n\n{what}\n");
        for kind in FailureKind::ALL.iter().filter(|kind| kind.response() == response) {
            let advice = kind.advice();
            let (first, rest) = advice.split_at(1);
            let _ = write!(page, "\n### {kind}\n\n{}\n\n", kind.meaning().trim());
            let _ = writeln!(page, "**What to do:** {}{rest}.", first.to_uppercase());
        }
    }
    page
}

#[test]
fn the_runbook_has_every_kind() {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().find(|path| path.join("docs/book.toml").is_file());
    let root = root.expect("the repository holds the book");
    expect_file![root.join("docs/src/operators/runbook.md")].assert_eq(&page());
}
