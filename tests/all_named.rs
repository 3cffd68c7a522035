//! For a crate whose tests are one program, `tests/all.rs`: a file that is not named there would be tested by nobody.

use std::fs;
use std::path::Path;

#[test]
fn every_file_of_tests_belongs_to_a_program() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    let (manifest, all) = (read("Cargo.toml"), read("tests/all.rs"));
    for entry in fs::read_dir(root.join("tests")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap();
        let named = all.lines().any(|line| line == format!("mod {name};"))
            || manifest.contains(&format!("path = \"tests/{name}.rs\""));
        assert!(named, "{}: tests/all.rs has no `mod {name};`", path.display());
    }
}
