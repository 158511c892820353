//! Each rule of the protocol as a readable script: the `*.txt` files beside this one.
//!
//! Decides: that what a session does is what its script says, line by line. Never does: wait; time is virtual.
//!
//! A line of a script is a comment (`#`), a command, or what must follow the command above it:
//! `>` a message that is sent, `*` an event, `!` something the driver is told to do, `=` a state that was
//! asked for, `@` the time at which the next lines happen. `UPDATE=1` rewrites these lines from what the
//! sessions do; read the difference before you commit it. The commands are described at the top of
//! `global.rs` and `zone.rs`, the names and values in `notation.rs`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answers;
mod global;
mod history;
mod notation;
mod script;
mod store;
mod zone;

use std::path::{Path, PathBuf};

use script::{Played, play};

/// The rules, by the word that a title names, and the ends that each of them binds.
const RULES: [(&str, &[&str]); 12] = [
    ("KDS-1", &["zone"]),
    ("KDS-2", &["global", "zone"]),
    ("KDS-3", &["zone"]),
    ("KDS-4", &["global", "zone"]),
    ("KDS-5", &["global", "zone"]),
    ("KDS-6", &["global", "zone"]),
    ("KDS-7", &["global", "zone"]),
    ("KDS-8", &["global", "zone"]),
    ("KDS-9", &["zone"]),
    ("KDS-10", &["global", "zone"]),
    ("SEC-5", &["global", "zone"]),
    ("NEVER", &["global", "zone"]),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts")
}

/// Every script: its name from the root of the repository, and its text.
fn scripts() -> Vec<(String, String)> {
    let entries = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            (format!("tests/transcripts/{name}"), std::fs::read_to_string(&path).unwrap())
        })
        .collect();
    found.sort();
    found
}

#[test]
fn every_transcript_comes_true() {
    let update = std::env::var_os("UPDATE").is_some_and(|value| value == "1");
    let mut faults = Vec::new();
    for (name, text) in scripts() {
        let Played { rewritten, wrong, broken } = play(&name, &text);
        if update && broken.is_empty() {
            std::fs::write(folder().join(name.rsplit('/').next().unwrap()), rewritten).unwrap();
        } else {
            faults.extend(broken.into_iter().chain(wrong));
        }
    }
    assert!(faults.is_empty(), "{} faults\n\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn every_rule_has_a_transcript_at_every_end_it_binds() {
    let scripts = scripts();
    let mut missing = Vec::new();
    for (rule, ends) in RULES {
        let names_it = |text: &str| {
            let title = text.lines().next().unwrap_or_default();
            title.split(|c: char| !c.is_alphanumeric() && c != '-').any(|word| word == rule)
        };
        for end in ends {
            let prefix = format!("tests/transcripts/{end}-");
            if !scripts.iter().any(|(name, text)| name.starts_with(&prefix) && names_it(text)) {
                missing.push(format!("{rule}: no {end}-*.txt has it in its title"));
            }
        }
    }
    for (name, text) in &scripts {
        let side = if name.contains("/global-") { "\nside global\n" } else { "\nside zone\n" };
        let titled = text.starts_with("# ") && text.lines().next().is_some_and(|title| title.ends_with(')'));
        let happens = text.lines().filter(|line| script::MARKS.iter().any(|mark| line.starts_with(mark)));
        if !titled || !text.contains(side) || happens.count() < 3 {
            missing.push(format!(
                "{name}: needs a title that ends with its rule, a side, and something that happens"
            ));
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// A script that is right, to be bent below.
const RIGHT: &str = "# One change, one answer (KDS-5)
side global
zone kdsync
commit a=1
open
> S1.1.0 whole +a=1
# The next one comes after this.
ack
* acked 1, complete
";

fn faults(text: &str) -> Vec<String> {
    let Played { wrong, broken, .. } = play("x.txt", text);
    broken.into_iter().chain(wrong).collect()
}

#[test]
fn the_right_script_passes_and_is_rewritten_as_it_is() {
    assert_eq!(faults(RIGHT), Vec::<String>::new());
    assert_eq!(play("x.txt", RIGHT).rewritten, RIGHT);
}

#[test]
fn a_wrong_expectation_fails_with_file_line_and_difference() {
    let found = faults(&RIGHT.replace("+a=1", "+a=2"));
    assert_eq!(
        found,
        ["x.txt:6: after `open`\n  expected  > S1.1.0 whole +a=2\n  but       > S1.1.0 whole +a=1\n"]
    );
    let found = faults(&RIGHT.replace("> S1.1.0 whole +a=1\n", ""));
    assert_eq!(found, ["x.txt:6: after `open`\n  but       > S1.1.0 whole +a=1\n"]);
    let found = faults(&RIGHT.replace("complete\n", "complete\n> S1.1.1 whole +a=1\n"));
    assert_eq!(
        found,
        ["x.txt:10: after `ack`\n            * acked 1, complete\n  expected  > S1.1.1 whole +a=1\n"]
    );
}

#[test]
fn an_update_mends_the_expected_side_and_nothing_else() {
    for wrong in [
        RIGHT.replace("+a=1", "+a=2").replace("commit a=2", "commit a=1"),
        RIGHT.replace("* acked 1, complete\n", ""),
    ] {
        assert_eq!(play("x.txt", &wrong).rewritten, RIGHT);
    }
}

#[test]
fn a_script_that_cannot_be_played_says_where() {
    for (bad, says) in [
        ("side moon\n", "x.txt:1: `side moon`: there is no such side"),
        ("open\n", "x.txt:1: `open`: a script starts with its side"),
        ("side global\nopen\n", "x.txt:2: `open`: no zone is connected"),
        ("side global\njump 3\n", "x.txt:2: `jump 3`: no such command"),
        ("side zone\n! connect\nstore done\n", "x.txt:3: `store done`: the store has nothing in hand"),
        ("> S1.1.0\n", "x.txt:1: `> S1.1.0`: nothing was done yet that this could follow"),
    ] {
        assert_eq!(faults(bad), [says], "{bad}");
    }
}
