//! Documents that say what the tree says.
//!
//! Decides: which lists are compared with what. Never does: judge prose.

use std::collections::BTreeSet;
use std::process::Command;

use kdsync::config::{GlobalConfig, ZoneConfig};
use serde_json::Value;

use super::fail;
use super::source::{lines_of, root, rust_files};

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap()
}

/// The part of a document below a heading, up to the next heading.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let (_, rest) =
        text.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no section {heading}"));
    rest.split("\n## ").next().unwrap()
}

/// The first column of a table, unquoted.
fn first_column(section: &str) -> BTreeSet<String> {
    section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .map(str::to_owned)
        .collect()
}

/// The dotted keys of all values.
fn keys(tree: &Value, prefix: &str, into: &mut BTreeSet<String>) {
    match tree {
        Value::Object(fields) => {
            for (key, value) in fields {
                let dot = if prefix.is_empty() { "" } else { "." };
                keys(value, &format!("{prefix}{dot}{key}"), into);
            }
        }
        _ => {
            into.insert(prefix.to_owned());
        }
    }
}

fn differences(what: &str, said: &BTreeSet<String>, real: &BTreeSet<String>) -> Vec<String> {
    let missing = real.difference(said).map(|name| format!("{what} lacks {name}"));
    let extra = said.difference(real).map(|name| format!("{what} has {name}, which is not there"));
    missing.chain(extra).collect()
}

#[test]
fn the_code_map_is_the_tree() {
    let text = read("ARCHITECTURE.md");
    let map = section(&text, "Code map").split("```").nth(1).unwrap();
    let (mut folder, mut said) = ("", BTreeSet::new());
    for line in map.lines().skip(1) {
        let name = line.split_whitespace().next().unwrap_or("");
        if line.starts_with("src/") {
            folder = name;
            if folder != "src/" {
                said.insert(format!("{folder}mod.rs"));
            }
        } else if line.starts_with("  ") {
            said.insert(format!("{folder}{name}"));
        }
    }
    let real = rust_files("src").into_iter().collect();
    fail(&differences("the code map of ARCHITECTURE.md", &said, &real));
}

#[test]
fn the_configuration_table_lists_every_key() {
    let mut real = BTreeSet::new();
    keys(&serde_json::to_value(GlobalConfig::default()).unwrap(), "", &mut real);
    keys(&serde_json::to_value(ZoneConfig::default()).unwrap(), "", &mut real);
    let readme = read("README.md");
    let said = first_column(section(&readme, "Configuration"));
    fail(&differences("the configuration table of README.md", &said, &real));
}

#[test]
fn the_metrics_table_lists_every_metric() {
    let mut real = BTreeSet::new();
    for file in rust_files("src") {
        for line in lines_of(&file).iter().filter(|line| !line.is_comment()) {
            let literals = line.text.split('"').skip(1).step_by(2);
            let names = literals.filter(|name| {
                let known = name.starts_with("kds_") || name.starts_with("kdsync_zone_");
                known && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
            });
            real.extend(names.map(str::to_owned));
        }
    }
    let readme = read("README.md");
    // A unit is added to the name when it is registered.
    let said: BTreeSet<String> = first_column(section(&readme, "Metrics"))
        .into_iter()
        .map(|name| {
            let bare = ["_bytes", "_seconds"].iter().find_map(|unit| name.strip_suffix(unit));
            bare.filter(|bare| real.contains(*bare)).map_or(name.clone(), str::to_owned)
        })
        .collect();
    fail(&differences("the metrics table of README.md", &said, &real));
}

#[test]
fn examples_are_good_configurations() {
    for file in ["examples/global.yaml", "examples/zone.yaml"] {
        let output = Command::new(env!("CARGO_BIN_EXE_kdsync"))
            .args(["config", "check", "-f", file])
            .current_dir(root())
            .output()
            .unwrap();
        assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn links_of_documents_lead_somewhere() {
    let mut faults = Vec::new();
    for file in [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "docs/development.md",
        "docs/simulation.md",
        "docs/benchmarks.md",
        "deploy/README.md",
    ] {
        let text = read(file);
        let folder = root().join(file).parent().unwrap().to_owned();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let local = targets.filter(|target| !target.starts_with("http") && !target.starts_with('#'));
        faults.extend(
            local
                .filter(|target| !folder.join(target).exists())
                .map(|target| format!("{file}: {target} is not there")),
        );
    }
    fail(&faults);
}
