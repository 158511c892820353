//! The command line: exit codes, refusals, `dev`, `demo`, and the README as typed.

use super::world::{Process, World, binary, free_port, good, run, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_tell_who_is_to_blame() {
    let world = World::new();
    let global = world.global("global", "").await;
    let address = global.api.as_str();
    let at = |name: &str| world.dir.path().join(name);
    assert_eq!(run(&["get", "secrets", "--address", address]).await.code, Some(0));
    assert_eq!(run(&["get", "secret", "none", "--address", address]).await.code, Some(1));
    assert_eq!(run(&["get", "nonsense"]).await.code, Some(2));
    assert_eq!(run(&["apply"]).await.code, Some(2));
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let said = run(&["get", "secrets", "--address", &nobody]).await;
    assert_eq!(said.code, Some(3));
    assert!(said.err.contains(&nobody) && said.err.contains("kdsync dev"), "{said:?}");
    // Bad documents: the file, the document, the line and the field are named, and nothing is written.
    let cases = [
        ("type: Secret\nmesh: default\nname: a\ndata: '***'\n", "data"),
        ("type: Secret\nmesh: default\nname: a\ndata: YQ==\nextra: 1\n", "extra"),
        ("type: Secret\nmesh: default\nname: UPPER\ndata: YQ==\n", "name"),
        ("type: Secret\nmesh: default\nname: ''\ndata: YQ==\n", "name"),
        ("type: Secret\nname: a\ndata: YQ==\n", "mesh"),
        ("type: GlobalSecret\nmesh: default\nname: a\ndata: YQ==\n", "mesh"),
        ("type: Secret\nmesh: default\nname: a\ndata: ''\n", "data"),
        ("type: Secret\n  mesh: [\n", "line"),
    ];
    for (number, (text, word)) in cases.into_iter().enumerate() {
        let fine = "type: Secret\nmesh: default\nname: fine\ndata: YQ==\n---\n";
        let file = write(&at(&format!("bad{number}.yaml")), &format!("{fine}{text}"));
        let said = run(&["apply", "-f", &file, "--address", address]).await;
        assert_eq!(said.code, Some(1), "{text}: {said:?}");
        assert!(said.err.contains(word), "{text}: {said:?}");
    }
    let twice = "type: Secret\nmesh: default\nname: a\ndata: YQ==\n---\n".repeat(2);
    let file = write(&at("twice.yaml"), &twice);
    assert_eq!(run(&["apply", "-f", &file, "--address", address]).await.code, Some(1));
    assert!(!good(&["get", "secrets", "-o", "name", "--address", address]).await.contains("fine"));
    let file = write(&at("good.yaml"), "type: Secret\nmesh: default\nname: fine\ndata: YQ==\n");
    good(&["apply", "-f", &file, "--dry-run", "--address", address]).await;
    assert!(!good(&["get", "secrets", "-o", "name", "--address", address]).await.contains("fine"));
    good(&["apply", "-f", &file, "--address", address]).await;
    assert!(good(&["get", "secrets", "-o", "name", "--address", address]).await.contains("fine"));
    global.interrupt(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_named_with_its_flag() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for flag in ["--api-port", "--kds-port", "--diagnostics-port"] {
        let mut args = vec!["dev", "--ephemeral", "--zone-port-base", "0"];
        for name in ["--api-port", "--kds-port", "--diagnostics-port"] {
            args.extend([name, if name == flag { port.as_str() } else { "0" }]);
        }
        let said = run(&args).await;
        assert_eq!(said.code, Some(1));
        assert!(said.err.contains(&port) && said.err.contains(flag), "{said:?}");
    }
    let ports = ["--api-port", "0", "--kds-port", "0", "--diagnostics-port", "0", "--zone-port-base", &port];
    let said = run(&[&["dev", "--ephemeral"][..], &ports].concat()).await;
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains(&port) && said.err.contains("--zone-port-base"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_loopback_somebody_must_insist() {
    let world = World::new();
    let mut command = world.global_command("global", "0");
    command.env("KDSYNC_API_SERVER_HTTP_INTERFACE", "0.0.0.0");
    let mut global = Process::start(command);
    assert_eq!(global.ended().await.code(), Some(1));
    global.line_of_text("--insecure-listen").await;
    let mut command = world.global_command("global", "0");
    command.env("KDSYNC_API_SERVER_HTTP_INTERFACE", "0.0.0.0").arg("--insecure-listen");
    let global = Process::start(command);
    assert_eq!(global.line("listening beyond loopback").await["level"], "WARN");
    global.interrupt(&[]).await;
}

fn dev() -> Process {
    let mut command = binary();
    command.args(["dev", "--ephemeral", "--log-format", "json", "--api-port", "0", "--kds-port", "0"]);
    command.args(["--diagnostics-port", "0", "--zone-port-base", "0"]);
    Process::start(command)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_introduces_itself_and_stops_cleanly() {
    let dev = dev();
    dev.line_of_text("Ctrl-C stops everything").await;
    let text = dev.log.text();
    for word in [
        "global    API http://127.0.0.1:",
        "east ",
        "west ",
        "in memory",
        "kdsync apply -f examples/secrets.yaml",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    dev.interrupt(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_tells_its_story() {
    let said = run(&["demo"]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains(" ms") && said.out.contains("swe"), "{said:?}");
}

/// The lines of README's section "Quickstart" that a reader types.
fn quickstart(readme: &str) -> Vec<String> {
    let section = readme.split("\n## ").find(|section| section.starts_with("Quickstart"));
    let lines = section.unwrap_or_default().lines().map(|line| line.trim_start_matches("$ "));
    let typed = lines.filter(|line| line.starts_with("kdsync ") && !line.starts_with("kdsync dev"));
    typed.map(|line| line.split(" #").next().unwrap_or_default().trim().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_readme_works_as_typed() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let typed = quickstart(&std::fs::read_to_string(readme).unwrap());
    assert!(typed.len() >= 5, "the quickstart has {} commands", typed.len());
    let dev = dev();
    let global = dev.line("global started").await;
    let east = dev.line("zone started").await;
    dev.line("in sync with global").await;
    let global = format!("http://{}", global["api"].as_str().unwrap());
    let east = east["api"].as_str().unwrap();
    for line in typed {
        let line = line.replace("127.0.0.1:6681", east);
        let args: Vec<&str> = line.split_whitespace().skip(1).collect();
        super::world::until(&line, || async {
            let output = binary().args(&args).env("KDSYNC_ADDRESS", &global).output().await.unwrap();
            // A zone tells its address a moment after it is in sync.
            let early = args.contains(&"--zone") && output.status.code() == Some(1);
            assert!(early || output.status.success(), "{line}: {output:?}");
            (!early).then_some(())
        })
        .await;
    }
    dev.interrupt(&[]).await;
}
