//! libFuzzer on the plugin's way in. What has to hold is in `cni/tests/support/entry.rs`, which the property test of
//! `make test` holds it to as well.
//!
//! An input is a byte for the name the plugin is called by, the variables' values in the order of `NAMES` and standard input,
//! with NUL between them. A variable that is empty is not there.
#![no_main]

#[path = "../../cni/tests/support/entry.rs"]
mod entry;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use ferrule_cni::Face;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((face, rest)) = input.split_first() else { return };
    let face = if *face == b'i' { Face::Ipam } else { Face::Network };
    let mut parts = rest.splitn(entry::NAMES.len() + 1, |byte| *byte == 0);
    let mut environment = entry::Variables::new();
    for name in entry::NAMES {
        let value = parts.next().unwrap_or_default();
        if !value.is_empty() {
            environment.insert(name, OsString::from_vec(value.to_vec()));
        }
    }
    entry::judge(face, &environment, parts.next().unwrap_or_default());
});
