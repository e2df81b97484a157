//! include/driftprobe.h is what cbindgen makes of the crate.

use std::path::Path;

/// `UPDATE_HEADER=1 cargo test -p driftprobe-capi --test header` writes it anew.
#[test]
fn the_header_is_the_newest() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(here.join("cbindgen.toml")).unwrap();
    let mut made = Vec::new();
    let sources = ["lib.rs", "error.rs", "row.rs"].map(|name| here.join("src").join(name));
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in sources {
        builder = builder.with_src(source);
    }
    builder.generate().unwrap().write(&mut made);
    let path = here.join("include/driftprobe.h");
    if std::env::var_os("UPDATE_HEADER").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let found = std::fs::read(&path).unwrap();
    assert!(found == made, "include/driftprobe.h is old: run with UPDATE_HEADER=1");
}
