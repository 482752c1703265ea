//! What may stand where in the tree: `unsafe` in few crates, and no module whose name says nothing.
//!
//! Owns: the two lists below. May not touch: dependencies between crates, see [`crate::deps`].

use std::path::Path;

use crate::source;

/// Where `unsafe` is allowed: at the kernel's edge, and nowhere else.
const UNSAFE: [&str; 2] = ["crates/weir-ebpf/", "crates/weir-kernel/"];

/// Names that say nothing about what a module owns.
const MEANINGLESS: [&str; 8] = ["common", "helper", "helpers", "manager", "misc", "shared", "util", "utils"];

/// The directories with sources.
const SOURCES: [&str; 4] = ["crates", "tests", "xtask", "fuzz"];

/// What is not in its place, one line each, and how many files were looked at.
pub(crate) fn violations(root: &Path) -> anyhow::Result<(Vec<String>, usize)> {
    let mut found = Vec::new();
    let mut count = 0;
    for directory in SOURCES.map(|directory| root.join(directory)).into_iter().filter(|path| path.is_dir()) {
        for file in source::rust_files(&directory)? {
            count += 1;
            let name = file.strip_prefix(root).unwrap_or(&file);
            found.extend(meaningless(name));
            if source::mentions(source::read(&file)?, "unsafe") && !may_be_unsafe(name) {
                found.push(format!(
                    "{}: `unsafe` is only allowed in {}; move it there behind a safe interface",
                    name.display(),
                    UNSAFE.join(" and ")
                ));
            }
        }
    }
    Ok((found, count))
}

fn may_be_unsafe(file: &Path) -> bool {
    UNSAFE.iter().any(|directory| file.starts_with(directory))
}

fn meaningless(file: &Path) -> Option<String> {
    let module = file
        .iter()
        .map(Path::new)
        .filter_map(Path::file_stem)
        .find(|stem| MEANINGLESS.iter().any(|name| *stem == *name))?;
    let module = module.to_string_lossy();
    Some(format!(
        "{}: a module called `{module}` does not say what it owns; name it after that",
        file.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_with_misplaced_files_is_refused() {
        let root = std::env::temp_dir().join(format!("weir-placement-{}", std::process::id()));
        let write = |name: &str, text: &str| {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().expect("a directory")).expect("temporary directory");
            std::fs::write(path, text).expect("temporary file");
        };
        write("crates/weir-kernel/src/sys.rs", "fn f() { unsafe { g() } }");
        write("crates/weir-plan/src/lib.rs", "fn f() { unsafe { g() } }");
        write("crates/weir-plan/src/util.rs", "");
        write("crates/weir/src/helpers/text.rs", "");
        let result = violations(&root);
        std::fs::remove_dir_all(&root).expect("temporary directory");
        let (found, count) = result.expect("the tree can be read");
        assert_eq!(count, 4);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(
            found.iter().any(|line| line.starts_with("crates/weir-plan/src/lib.rs: `unsafe`")),
            "{found:?}"
        );
        assert!(
            found.iter().any(|line| line.starts_with("crates/weir-plan/src/util.rs: a module")),
            "{found:?}"
        );
        assert!(
            found.iter().any(|line| line.starts_with("crates/weir/src/helpers/text.rs: a module")),
            "{found:?}"
        );
    }
}
