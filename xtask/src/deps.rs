//! The only directions in which crates may depend on each other, and on what outside.
//!
//! Owns: the tables below, which say what CONTRIBUTING.md says. May not touch: sources.
//! Invariant: a crate that is not in the table is refused, so that a new one has to find its place.

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::{placement, workspace::Workspace};

/// Each of weir's crates and the ones it may be built from.
///
/// Tests of any crate may use any other: the datapath's fixtures run through the kernel, for example.
const INTERNAL: [(&str, &[&str]); 18] = [
    // No std: compiled for BPF too.
    ("weir-abi", &[]),
    ("weir-wire", &[]),
    ("weir-datapath", &["weir-abi", "weir-wire"]),
    ("weir-ebpf", &["weir-abi", "weir-datapath", "weir-wire"]),
    // Pure: no I/O, no clock.
    ("weir-maglev", &[]),
    ("weir-config", &[]),
    ("weir-plan", &["weir-abi", "weir-config", "weir-maglev"]),
    ("weir-api", &[]),
    // The kernel's edge, the only one that knows aya, bpffs and netlink.
    ("weir-kernel", &["weir-abi", "weir-bpf-build"]),
    ("weir-bpf-build", &[]),
    // The binary.
    ("weir", &["weir-abi", "weir-api", "weir-config", "weir-kernel", "weir-plan"]),
    // Development.
    (
        "weir-testkit",
        &["weir-abi", "weir-config", "weir-datapath", "weir-kernel", "weir-maglev", "weir-plan", "weir-wire"],
    ),
    ("weir-bench", &["weir-abi", "weir-kernel", "weir-maglev", "weir-testkit", "weir-wire"]),
    ("weir-verify", &["weir-kernel", "weir-testkit"]),
    ("weir-replay", &["weir-abi", "weir-config", "weir-kernel", "weir-plan"]),
    ("weir-e2e", &[]),
    ("weir-fuzz", &["weir-testkit"]),
    ("xtask", &["weir-bpf-build"]),
];

/// Dependencies from outside that only some crates may have, tests included; `*` ends a prefix.
const EXTERNAL: [(&str, &[&str]); 13] = [
    ("aya", &["weir-kernel"]),
    ("aya-obj", &["weir-kernel"]),
    ("aya-ebpf*", &["weir-ebpf"]),
    ("netlink-*", &["weir-kernel"]),
    ("rtnetlink", &["weir-kernel"]),
    ("tokio*", &["weir", "weir-api"]),
    ("tonic*", &["weir", "weir-api"]),
    ("tower*", &["weir", "weir-api"]),
    ("hyper*", &["weir", "weir-api"]),
    ("libc", &["weir-kernel", "weir", "weir-e2e", "weir-bench", "weir-testkit"]),
    ("libfuzzer-sys", &["weir-fuzz"]),
    ("nix", &["weir-kernel", "weir", "weir-e2e", "weir-bench", "weir-testkit", "weir-verify", "weir-replay"]),
    ("anyhow", &["weir", "weir-e2e", "weir-bench", "weir-replay", "xtask"]),
];

/// Checks every package of the workspace, and where things stand in the sources.
pub(crate) fn check(workspace: &Workspace) -> anyhow::Result<String> {
    let mut found = violations(&workspace.metadata)?;
    let (misplaced, files) = placement::violations(&workspace.root)?;
    found.extend(misplaced);
    if !found.is_empty() {
        bail!("{} in the wrong place:\n  {}", found.len(), found.join("\n  "));
    }
    let packages = workspace.metadata["packages"].as_array().map_or(0, Vec::len);
    Ok(format!("check-deps: {packages} crates and {files} source files are in their place"))
}

/// Every dependency in `metadata` that the tables do not allow, one line each.
fn violations(metadata: &Value) -> anyhow::Result<Vec<String>> {
    let packages = metadata["packages"].as_array().context("`cargo metadata` lists no packages")?;
    let mut found = Vec::new();
    for package in packages {
        let name = text(package, "name")?;
        let Some((_, allowed)) = INTERNAL.iter().find(|(crate_name, _)| *crate_name == name) else {
            found.push(format!("{name}: not in the table of crates; give it a place in xtask/src/deps.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let on = text(dependency, "name")?;
            let for_tests = dependency["kind"] == "dev";
            if INTERNAL.iter().any(|(crate_name, _)| *crate_name == on) {
                if !for_tests && !allowed.contains(&on) {
                    found.push(format!("{name} must not depend on {on}; it may on: {}", list(allowed)));
                }
            } else if let Some((_, only)) = EXTERNAL.iter().find(|(pattern, _)| matches(pattern, on))
                && !only.contains(&name)
            {
                found.push(format!("{name} must not depend on {on}; only these may: {}", list(only)));
            }
        }
    }
    Ok(found)
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "nothing of weir's".to_owned() } else { names.join(", ") }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    }
}

fn text<'a>(value: &'a Value, field: &str) -> anyhow::Result<&'a str> {
    value[field].as_str().with_context(|| format!("`cargo metadata` gives no {field}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn violation(package: &str, dependency: &str, kind: Option<&str>) -> Option<String> {
        let dependencies = json!([{ "name": dependency, "kind": kind }]);
        let metadata = json!({ "packages": [{ "name": package, "dependencies": dependencies }] });
        let mut found = violations(&metadata).expect("metadata is complete");
        assert!(found.len() <= 1, "{found:?}");
        found.pop()
    }

    #[test]
    fn dependencies_against_the_direction_are_refused() {
        for (package, dependency) in [
            ("weir-datapath", "weir-kernel"),
            ("weir-wire", "weir-abi"),
            ("weir-abi", "weir-wire"),
            ("weir-plan", "weir-kernel"),
            ("weir-config", "weir-plan"),
            ("weir-plan", "aya"),
            ("weir", "aya"),
            ("weir-kernel", "aya-ebpf"),
            ("weir-plan", "tokio"),
            ("weir-kernel", "tokio"),
            ("weir-config", "libc"),
            ("weir-maglev", "nix"),
            ("weir", "netlink-packet-route"),
            ("weir-kernel", "anyhow"),
        ] {
            let found = violation(package, dependency, None).expect(dependency);
            assert!(found.starts_with(&format!("{package} must not depend on {dependency}")), "{found}");
        }
    }

    #[test]
    fn dependencies_in_the_direction_are_accepted() {
        for (package, dependency, kind) in [
            ("weir-ebpf", "weir-datapath", None),
            ("weir-ebpf", "aya-ebpf", None),
            ("weir-kernel", "weir-bpf-build", Some("build")),
            ("weir-kernel", "netlink-sys", None),
            ("weir-api", "tonic-prost", None),
            ("weir-wire", "zerocopy", None),
            ("weir-datapath", "weir-testkit", Some("dev")),
        ] {
            assert_eq!(violation(package, dependency, kind), None);
        }
    }

    #[test]
    fn what_is_forbidden_is_forbidden_in_tests_and_build_scripts_too() {
        assert!(violation("weir-plan", "aya", Some("dev")).is_some());
        assert!(violation("weir-plan", "tokio", Some("build")).is_some());
    }

    #[test]
    fn a_crate_without_a_place_is_refused() {
        assert!(violation("weir-extra", "serde", None).expect("unknown").contains("not in the table"));
    }
}
