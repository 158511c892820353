//! The rules that a compiler does not check: who may import whom, who owns which library, where values
//! are opened, how files look, and that the documents say what the tree says.
//!
//! Decides: what is a fault, with file and line. Never does: repair one.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod documents;
mod source;

use source::{Line, all_text, lines_of, rust_files};

/// What a directory or file of `src/` may use of this crate; `ARCHITECTURE.md` has the reasons.
const ARROWS: [(&str, &[&str]); 12] = [
    ("core/", &[]),
    ("kds/", &["core"]),
    ("telemetry/", &["core"]),
    ("config/", &["core"]),
    ("supervisor.rs", &[]),
    ("tls.rs", &[]),
    ("store/", &["core", "telemetry"]),
    ("global/", &["core", "kds", "store", "telemetry", "supervisor"]),
    ("zone/", &["core", "kds", "store", "telemetry", "tls"]),
    ("api/", &["core", "store", "telemetry"]),
    ("app/", &["core", "kds", "store", "telemetry", "supervisor", "tls", "global", "zone", "api", "config"]),
    ("cli/", &["core", "telemetry", "api", "config", "app"]),
];

/// Which files may name a library.
const OWNERS: [(&str, &[&str]); 24] = [
    ("prost", &["kds/wire.rs"]),
    ("tonic", &["global/", "zone/", "kds/wire.rs"]),
    ("tonic::transport", &["zone/"]),
    ("redb", &["store/embedded/"]),
    ("postcard", &["store/embedded/codec.rs", "zone/records.rs"]),
    ("axum", &["api/"]),
    ("hyper", &["api/serve.rs", "global/server.rs"]),
    ("rustls", &["tls.rs", "zone/dial.rs"]),
    ("tokio_rustls", &["zone/dial.rs"]),
    ("clap", &["cli/"]),
    ("clap_complete", &["cli/"]),
    ("comfy_table", &["cli/"]),
    ("owo_colors", &["cli/"]),
    ("anstream", &["cli/", "app/dev.rs"]),
    ("anyhow", &["app/", "cli/", "supervisor.rs", "zone/mod.rs"]),
    ("prometheus_client", &["telemetry/mod.rs", "global/metrics.rs", "zone/report.rs"]),
    ("tracing_subscriber", &["telemetry/logging.rs"]),
    ("dashmap", &["global/zones.rs"]),
    ("sha2", &["core/"]),
    ("pkcs1", &["core/served.rs"]),
    ("base64", &["api/body.rs", "kds/message.rs"]),
    ("flate2", &["global/body.rs"]),
    ("rpds", &["kds/snapshot.rs"]),
    ("serde_saphyr", &["config/layers.rs", "cli/"]),
];

/// SEC-1: the files that may open a value.
const OPENERS: [&str; 9] = [
    "core/secret.rs",
    "core/resource.rs",
    "core/served.rs",
    "kds/wire.rs",
    "kds/client/answer.rs",
    "kds/client/stock.rs",
    "store/embedded/codec.rs",
    "zone/records.rs",
    "api/body.rs",
];

/// What pure code never names.
const IMPURE: [&str; 6] = ["tokio::", "std::fs", "std::net", "std::env", "std::thread", "tracing::"];

/// Tests that wait for something that nobody announces look again after a pause, each in one function.
const POLLING: [&str; 1] = ["tests/global/rig.rs"];

fn fail(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// Faults of all code lines of `src/`, as `file:line: what`.
fn in_src(fault: impl Fn(&str, &Line) -> Option<String>) -> Vec<String> {
    let mut faults = Vec::new();
    for file in rust_files("src") {
        let inner = file.strip_prefix("src/").unwrap();
        for line in lines_of(&file).iter().filter(|line| !line.is_comment()) {
            faults.extend(fault(inner, line).map(|what| format!("{file}:{}: {what}", line.number)));
        }
    }
    faults
}

fn owned_by(file: &str, owners: &[&str]) -> bool {
    owners.iter().any(|owner| file == *owner || (owner.ends_with('/') && file.starts_with(owner)))
}

#[test]
fn imports_follow_the_arrows() {
    fail(&in_src(|file, line| {
        let (place, allowed) = ARROWS.iter().find(|(place, _)| owned_by(file, &[place]))?;
        let own = place.trim_end_matches('/').trim_end_matches(".rs");
        let used = line.words_after("crate::");
        let wrong = used.into_iter().find(|name| name != own && !allowed.contains(&name.as_str()))?;
        Some(format!("{own} must not use {wrong}"))
    }));
}

#[test]
fn every_file_has_a_place_among_the_arrows() {
    let places: Vec<&str> = ARROWS.iter().map(|(place, _)| *place).collect();
    let homeless = rust_files("src").into_iter().filter(|file| {
        let inner = file.strip_prefix("src/").unwrap();
        !["lib.rs", "main.rs"].contains(&inner) && !owned_by(inner, &places)
    });
    fail(&homeless.map(|file| format!("{file}: no rule says what it may import")).collect::<Vec<_>>());
}

#[test]
fn libraries_stay_with_their_owners() {
    fail(&in_src(|file, line| {
        let wrong =
            OWNERS.iter().find(|(library, owners)| line.names_path(library) && !owned_by(file, owners))?;
        Some(format!("{} belongs to {:?}", wrong.0, wrong.1))
    }));
}

#[test]
fn decisions_are_pure() {
    fail(&in_src(|file, line| {
        if !file.starts_with("core/") && !file.starts_with("kds/") {
            return None;
        }
        let word = IMPURE.iter().find(|word| line.text.contains(*word))?;
        Some(format!("{word} in code that must not do I/O"))
    }));
}

#[test]
fn values_are_opened_in_few_files() {
    fail(&in_src(|file, line| {
        (line.text.contains(".expose()") && !OPENERS.contains(&file))
            .then(|| "opens a SecretData; SEC-1 lists the files that may".to_owned())
    }));
}

#[test]
fn the_link_has_no_room_for_a_value() {
    let schema = include_str!("../../proto/zonelink.proto");
    let fields = schema.lines().enumerate().filter(|(_, line)| {
        let line = line.trim();
        !line.starts_with("//") && line.contains(" = ") && line.ends_with(';')
    });
    let faults = fields.filter_map(|(index, line)| {
        let (declared, _) = line.split_once(" = ")?;
        let (kind, name) = declared.trim().rsplit_once(' ').unwrap_or(("", declared.trim()));
        let bad_name = ["hash", "digest", "value", "data"].iter().any(|bad| name.contains(bad));
        (kind.contains("bytes") || bad_name)
            .then(|| format!("proto/zonelink.proto:{}: {}", index + 1, line.trim()))
    });
    fail(&faults.collect::<Vec<_>>());
}

#[test]
fn files_are_short_and_introduce_themselves() {
    let mut faults = Vec::new();
    for file in rust_files("src").into_iter().chain(rust_files("tests")).chain(rust_files("benches")) {
        let lines = lines_of(&file);
        if lines.len() > 500 {
            faults.push(format!("{file}: {} lines; a file has one job and at most 500", lines.len()));
        }
        if !lines.first().is_some_and(|line| line.text.starts_with("//!")) {
            faults.push(format!("{file}:1: does not say what it decides and never does (//!)"));
        }
    }
    fail(&faults);
}

#[test]
fn nothing_is_left_open() {
    let words = [
        concat!("tod", "o!("),
        concat!("unimple", "mented!("),
        concat!("#[ign", "ore"),
        concat!("db", "g!("),
    ];
    let mut faults = Vec::new();
    for file in rust_files("src").into_iter().chain(rust_files("tests")) {
        for line in lines_of(&file) {
            for word in words.iter().filter(|word| line.text.contains(*word)) {
                faults.push(format!("{file}:{}: {word}", line.number));
            }
            let sleeps = line.text.contains(concat!("sle", "ep(")) && !line.is_comment();
            if sleeps && file.starts_with("tests/") && !POLLING.contains(&file.as_str()) {
                faults.push(format!("{file}:{}: a test that waits for time", line.number));
            }
        }
    }
    fail(&faults);
}

#[test]
fn the_library_does_not_print() {
    fail(&in_src(|_, line| {
        line.names_macro(&["println", "print", "eprintln", "eprint"])
            .then(|| "prints; commands write through cli::output".to_owned())
    }));
}

#[test]
fn log_messages_are_lower_case() {
    let mut faults = Vec::new();
    for file in rust_files("src") {
        for (number, message) in source::log_messages(&file) {
            let mut letters = message.chars();
            let (first, second) = (letters.next(), letters.next());
            // ACK, KDS, TLS.
            let shout = second.is_some_and(|c| c.is_uppercase() || c.is_ascii_digit());
            let name = message.starts_with("ZoneLink");
            if first.is_some_and(char::is_uppercase) && !shout && !name {
                faults.push(format!("{file}:{number}: log message \"{message}\""));
            }
        }
    }
    fail(&faults);
}

#[test]
fn the_repository_knows_no_machine() {
    let machines =
        [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/tm", "p/wt"), concat!("/ho", "me/")];
    let mut faults = Vec::new();
    for (file, text) in all_text() {
        for (index, line) in text.lines().enumerate() {
            for machine in machines.iter().filter(|machine| line.contains(*machine)) {
                faults.push(format!("{file}:{}: {machine}", index + 1));
            }
        }
    }
    fail(&faults);
    assert!(!source::root().join(".cargo").exists(), "a .cargo folder would point at somebody's registry");
}
