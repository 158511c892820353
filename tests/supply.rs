//! What this program is built from: licences, bans, sources, for the host's platform.
//!
//! The same rules as `deny.toml`, checked without cargo-deny, so that they are part of every test run.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Never linked, with the reason.
const BANNED: [(&str, &str); 3] = [
    ("ring", "one cryptography library: aws-lc-rs"),
    ("openssl-sys", "one cryptography library, and nothing to install"),
    ("native-tls", "rustls"),
];
/// Our own types pass through these, so there may be only one version of each.
const SINGLE: [&str; 6] = ["http", "hyper", "prost", "rustls", "tokio", "tonic"];

/// One package that is built for the host, for the program or for its tests.
struct Package {
    name: String,
    version: String,
    /// Empty for packages of the registry.
    place: String,
    licence: String,
}

/// What is really built; `cargo metadata` would also list what only an unused feature asks for.
fn packages() -> Vec<Package> {
    let arguments = ["tree", "--locked", "--offline", "--prefix", "none", "--format", "{p}|{l}"];
    let output =
        Command::new(env!("CARGO")).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines: BTreeSet<&str> = lines.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    let packages: Vec<Package> = lines.into_iter().filter(|line| !line.is_empty()).map(package).collect();
    assert!(packages.len() > 100, "the list of packages is complete");
    packages
}

/// Reads a line such as `tonic v0.14.9|MIT`.
fn package(line: &str) -> Package {
    let (package, licence) = line.split_once('|').unwrap();
    let mut words = package.splitn(3, ' ');
    let mut word = || words.next().unwrap_or("").to_owned();
    let (name, version) = (word(), word());
    let place = word().replace("(proc-macro)", "").trim().to_owned();
    Package { name, version, place, licence: licence.to_owned() }
}

/// Licences allowed in `deny.toml`: the one list.
fn allowed() -> BTreeSet<String> {
    let deny = include_str!("../deny.toml");
    let list = deny.split_once("allow = [").unwrap().1.split_once(']').unwrap().0;
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Whether an SPDX expression can be met with allowed licences. `AND` binds tighter than `OR`.
fn is_met(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let met = any(&mut rest, allowed);
    met && rest.is_empty()
}

fn any(rest: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let mut met = all(rest, allowed);
    while let Some(("OR", tail)) = rest.split_first().map(|(word, tail)| (*word, tail)) {
        *rest = tail;
        met |= all(rest, allowed);
    }
    met
}

fn all(rest: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let mut met = one(rest, allowed);
    while let Some(("AND", tail)) = rest.split_first().map(|(word, tail)| (*word, tail)) {
        *rest = tail;
        met &= one(rest, allowed);
    }
    met
}

fn one(rest: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    match *rest {
        ["(", tail @ ..] => {
            *rest = tail;
            let met = any(rest, allowed);
            *rest = rest.strip_prefix(&[")"]).unwrap_or(&["unbalanced"]);
            met
        }
        [name, "WITH", exception, tail @ ..] => {
            *rest = tail;
            allowed.contains(&format!("{name} WITH {exception}"))
        }
        [name, tail @ ..] => {
            *rest = tail;
            allowed.contains(*name)
        }
        [] => false,
    }
}

#[test]
fn licence_expressions_are_understood() {
    let allowed = BTreeSet::from(["MIT".to_owned(), "ISC".to_owned()]);
    for good in ["MIT", "GPL-3.0 OR MIT", "GPL-3.0/MIT", "ISC AND (MIT OR GPL-3.0)", "MIT AND ISC OR GPL-3.0"]
    {
        assert!(is_met(good, &allowed), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT", "MIT WITH a-catch", "MIT ISC"] {
        assert!(!is_met(bad, &allowed), "{bad}");
    }
}

#[test]
fn every_licence_is_allowed() {
    let allowed = allowed();
    let refused: Vec<String> = packages()
        .iter()
        .filter(|package| !is_met(&package.licence, &allowed))
        .map(|package| format!("{}: {}", package.name, package.licence))
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn nothing_banned_nothing_twice_and_only_from_the_registry() {
    let mut faults = Vec::new();
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for Package { name, version, place, .. } in packages() {
        if name != "kdsync" && !place.is_empty() {
            faults.push(format!("{name} comes from {place}"));
        }
        if let Some((_, reason)) = BANNED.iter().find(|(banned, _)| *banned == name) {
            faults.push(format!("{name} is banned: {reason}"));
        }
        versions.entry(name).or_default().insert(version);
    }
    for name in SINGLE {
        let found = &versions[name];
        if found.len() != 1 {
            faults.push(format!("{name} is there {} times: {found:?}", found.len()));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}
