//! What the README says is shown by a test is shown by a test.

use std::fs;
use std::path::Path;

#[test]
fn every_line_of_what_happens_when_names_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = fs::read_to_string(root.join("README.md")).expect("the README");
    let (_, section) = readme.split_once("\n## What happens when").expect("it");
    let section = section.split("\n## ").next().expect("its text");
    let rows = section.lines().filter(|line| line.starts_with("| "));
    let mut named = 0;
    // Behind the names of the columns.
    for row in rows.skip(1) {
        let Some((file, test)) = row.rsplit('|').find_map(|cell| {
            let (_, name) = cell.split_once('`')?;
            name.split_once('`')?.0.split_once("::")
        }) else {
            assert!(row.contains("the machine"), "no test is named: {row}");
            continue;
        };
        let directories = ["tests/tests", "worker/tests/workers"];
        let source = directories
            .iter()
            .find_map(|d| fs::read_to_string(root.join(d).join(format!("{file}.rs"))).ok());
        let source = source.unwrap_or_else(|| panic!("there is no {file}.rs"));
        // As a function, or in a table of tests that a macro makes.
        let is_there =
            source.contains(&format!("fn {test}()")) || source.contains(&format!("    {test}: \""));
        assert!(is_there, "{file}.rs has no test {test}");
        named += 1;
    }
    assert!(named > 20, "the table has another form: {named}");
}
