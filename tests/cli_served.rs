//! The real program against a real API: apply, get, delete, admit, events.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;

use kdsync::api::{self, ApiState, Hosts, Info, Limits, Mode};
use kdsync::core::{Key, Timestamp};
use kdsync::store::ResourceStore;
use kdsync::store::embedded::{self, EmbeddedConfig};
use kdsync::telemetry::Telemetry;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

struct Server {
    address: SocketAddr,
    telemetry: Telemetry,
    cancel: CancellationToken,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
async fn server() -> Server {
    let store: Arc<dyn ResourceStore> = embedded::open(&EmbeddedConfig::memory()).unwrap();
    let telemetry = Telemetry::default();
    let text = |text: &str| text.to_owned();
    let info = Info { hostname: text("vm"), instance_id: text("vm-1"), version: text("9.9.9") };
    let state = ApiState {
        store,
        mode: Mode::Global,
        info,
        telemetry: telemetry.clone(),
        zones: None,
        limits: Limits::default(),
        hosts: Hosts::Loopback,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let cancel = CancellationToken::new();
    tokio::spawn(api::serve(listener, api::router(state), cancel.clone()));
    Server { address, telemetry, cancel }
}

impl Server {
    async fn run(&self, args: &[&str], stdin: &str) -> (i32, String, String) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kdsync"))
            .args(args)
            .env("KDSYNC_ADDRESS", self.address.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let _ = input.write_all(stdin.as_bytes()).await;
        drop(input);
        let output = child.wait_with_output().await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    async fn ok(&self, args: &[&str], stdin: &str) -> String {
        let (code, out, err) = self.run(args, stdin).await;
        assert_eq!(code, 0, "{args:?}: {err}");
        out
    }
}

#[tokio::test]
async fn secrets_are_applied_shown_and_deleted() {
    let server = server().await;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/secrets.yaml");
    let expected = "secret/sample-secret in mesh default created\n\
                    secret/database-password in mesh default created\n\
                    global-secret/license-key created\n";
    let rehearsed = server.ok(&["apply", "-f", file, "--dry-run"], "").await;
    assert_eq!(rehearsed, expected.replace("created", "created (dry run)"));
    assert_eq!(server.ok(&["apply", "-f", file], "").await, expected);
    assert_eq!(server.ok(&["apply", "-f", file], "").await, expected.replace("created", "unchanged"));

    let table = server.ok(&["get", "secrets"], "").await;
    assert!(
        table.starts_with("MESH      NAME                AGE\ndefault   database-password   "),
        "{table}"
    );
    assert!(!table.contains("aGVsbG8"));
    assert_eq!(server.ok(&["get", "global-secrets", "-o", "name"], "").await, "global-secret/license-key\n");
    let one = server.ok(&["get", "secret", "sample-secret", "-o", "yaml"], "").await;
    assert!(one.contains("data: aGVsbG8sIHpvbmVz"), "{one}");

    assert_eq!(
        server.ok(&["delete", "secret", "sample-secret"], "").await,
        "secret/sample-secret in mesh default deleted\n"
    );
    let (code, _, err) = server.run(&["delete", "secret", "sample-secret"], "").await;
    assert_eq!(code, 1);
    assert!(err.contains("there is no secret/sample-secret"), "{err}");
    let (code, _, err) = server.run(&["get", "secret", "sample-secret"], "").await;
    assert_eq!(code, 1);
    assert!(err.contains("there is no secret \"sample-secret\" in mesh default"), "{err}");
}

#[tokio::test]
async fn what_is_printed_can_be_applied_again_and_pages_are_followed() {
    let server = server().await;
    let mut many = String::new();
    for number in 0..1_500 {
        writeln!(many, "---\ntype: Secret\nmesh: default\nname: s{number}\ndata: YQ==").unwrap();
    }
    let applied = server.ok(&["apply", "-f", "-"], &many).await;
    assert_eq!(applied.lines().count(), 1_500);
    for format in ["yaml", "json"] {
        let printed = server.ok(&["get", "secrets", "-o", format], "").await;
        let again = server.ok(&["apply", "-f", "-"], &printed).await;
        assert_eq!(again.lines().filter(|line| line.ends_with(" unchanged")).count(), 1_500, "{format}");
    }
}

#[tokio::test]
async fn the_servers_refusals_name_the_file() {
    let server = server().await;
    let text = "type: Secret\nmesh: a.b\nname: x\ndata: YQ==\n";
    let (code, _, err) = server.run(&["apply", "-f", "-"], text).await;
    assert_eq!(code, 1);
    assert!(err.contains("stdin:1 (document 1): mesh: Secret a.b/x: cannot contain a dot"), "{err}");
}

#[tokio::test]
async fn zones_are_admitted_and_events_shown() {
    let server = server().await;
    assert_eq!(server.ok(&["zone", "admit", "east"], "").await, "zone/east admitted\n");
    assert_eq!(server.ok(&["zone", "admit", "east"], "").await, "zone/east was admitted already\n");
    assert!(server.ok(&["get", "zones"], "").await.starts_with("NAME   AGE\neast   "));
    let key = Some(Key::secret("default", "local"));
    server.telemetry.events.record(Timestamp(0), "swept", "east", key, "zone-local");
    let events = server.ok(&["events", "--zone", "east"], "").await;
    assert!(
        events.ends_with("1970-01-01T00:00:00.000Z swept zone east Secret default/local: zone-local\n"),
        "{events}"
    );
    let json = server.ok(&["events", "-o", "json"], "").await;
    assert!(json.lines().all(|line| line.starts_with('{')) && json.lines().count() == 2, "{json}");
    assert!(server.ok(&["version"], "").await.contains("Server: Kuma 9.9.9 at http://"));
}
