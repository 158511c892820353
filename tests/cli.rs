//! The real program: what it says and the code it ends with.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

const NOBODY: &str = "http://127.0.0.1:1";

fn kdsync(args: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kdsync"))
        .args(args)
        .env_remove("KDSYNC_ADDRESS")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that fails early does not read.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn help_teaches_with_examples() {
    for (args, text) in [
        (&["--help"][..], "kdsync apply -f"),
        (&["apply", "--help"], "--dry-run"),
        (&["get", "--help"], "--zone"),
        (&["zone", "--help"], "admit"),
        (&["dev", "--help"], "--ephemeral"),
    ] {
        let output = kdsync(args, "");
        assert_eq!(code(&output), 0, "{args:?}");
        assert!(out(&output).contains(text), "{args:?}: {}", out(&output));
    }
}

#[test]
fn wrong_usage_is_2() {
    for args in [
        &[][..],
        &["nosuch"],
        &["apply"],
        &["get", "secret"],
        &["--address", "ftp://x", "get", "secrets"],
        &["--address", "https://x", "get", "secrets"],
        &["--timeout", "soon", "get", "secrets"],
        &["dev", "--zones", "Bad"],
        &["completion", "nosuch"],
    ] {
        let output = kdsync(args, "");
        assert_eq!(code(&output), 2, "{args:?}: {}", err(&output));
    }
}

#[test]
fn nobody_there_is_3_and_says_what_to_do() {
    let good = "type: GlobalSecret\nname: a\ndata: YQ==\n";
    for args in [
        &["get", "secrets"][..],
        &["get", "secrets", "--zone", "east"],
        &["delete", "secret", "a"],
        &["zone", "admit", "east"],
        &["events"],
        &["apply", "-f", "-"],
    ] {
        let args = [&["--address", NOBODY], args].concat();
        let output = kdsync(&args, good);
        assert_eq!(code(&output), 3, "{args:?}: {}", err(&output));
        assert!(err(&output).contains(NOBODY) && err(&output).contains("kdsync dev"), "{}", err(&output));
    }
    let output = kdsync(&["--address", NOBODY, "version"], "");
    assert_eq!(code(&output), 0);
    assert!(out(&output).contains("Server: none at"));
}

#[test]
fn bad_documents_are_1_before_anything_is_sent() {
    let cases = [
        ("type: Secret\nmesh: m\nname: a\ndata: '*'\n", "stdin:4 (document 1): data: illegal base64"),
        ("type: Secret\nname: a\ndata: YQ==\n", "mesh: cannot be empty"),
        ("type: GlobalSecret\nmesh: m\nname: a\ndata: YQ==\n", "mesh: must not be set"),
        ("type: GlobalSecret\nname: a\ndata: ''\n", "data: cannot be empty"),
        ("type: GlobalSecret\nname: a\ndata: YQ==\nfoo: 1\n", "--ignore-unknown"),
        ("a: [\n", "stdin:"),
        ("{\"a\": ", "stdin:1 (document 1)"),
        ("", "no documents in -"),
    ];
    for (text, expected) in cases {
        let output = kdsync(&["--address", NOBODY, "apply", "-f", "-"], text);
        assert_eq!(code(&output), 1, "{text:?}: {}", err(&output));
        assert!(err(&output).contains(expected), "{text:?}: {}", err(&output));
    }
    let output = kdsync(&["--address", NOBODY, "apply", "-f", "/nosuch.yaml"], "");
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("cannot read /nosuch.yaml"));
}

#[test]
fn completion_is_a_script_of_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let output = kdsync(&["completion", shell], "");
        assert_eq!(code(&output), 0);
        assert!(out(&output).contains("kdsync"));
    }
}

#[test]
fn configuration_is_printed_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.yaml");
    let path = file.to_str().unwrap();
    for component in ["global", "zone"] {
        let example = kdsync(&["config", "example", component], "");
        std::fs::write(&file, &example.stdout).unwrap();
        let output = kdsync(&["config", "check", "-f", path], "");
        assert_eq!(code(&output), 0, "{}", err(&output));
        assert!(out(&output).contains(&format!("of a {component}")), "{}", out(&output));
    }
    std::fs::write(&file, "apiServer:\n  http:\n    interface: 0.0.0.0\n").unwrap();
    for args in [&["config", "check", "-f", path][..], &["global", "--config", path]] {
        let output = kdsync(args, "");
        assert_eq!(code(&output), 1);
        assert!(err(&output).contains("c.yaml:3: apiServer.http.interface"), "{}", err(&output));
        assert!(err(&output).contains("--insecure-listen"), "{}", err(&output));
    }
}
