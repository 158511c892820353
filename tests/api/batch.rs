//! Many documents in one transaction.

use serde_json::{Value, json};

use super::support::{Server, global, unique};

fn secret(name: &str, data: &str) -> Value {
    json!({"type": "Secret", "mesh": "default", "name": name, "data": data})
}

async fn send(server: &Server, batch: Value) -> super::support::Answer {
    server.call("POST", "/kdsync/batch", &batch.to_string()).await
}

fn outcomes(answer: &super::support::Answer) -> Vec<String> {
    let json = answer.json();
    let items = json["items"].as_array().unwrap();
    items.iter().map(|item| item["outcome"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn one_commit_tells_what_each_document_did() {
    let server = global();
    let items = json!([secret("a", "YQ=="), secret("b", "YQ=="), {"type": "GlobalSecret", "name": "g", "data": "YQ=="}]);
    let answer = send(&server, json!({"items": items, "dryRun": true})).await;
    assert_eq!(outcomes(&answer), ["created", "created", "created"]);
    assert_eq!((&answer.json()["dryRun"], &answer.json()["revision"]), (&json!(true), &json!(0)));
    assert_eq!(server.get("/secrets").await.json()["total"], 0);

    let answer = send(&server, json!({"items": items})).await;
    assert_eq!(outcomes(&answer), ["created", "created", "created"]);
    assert_eq!(answer.json()["revision"], 1);

    let mixed = json!({
        "items": [secret("a", "YQ=="), secret("b", "Yg=="), secret("c", "YQ==")],
        "delete": [{"type": "GlobalSecret", "name": "g"}, {"type": "GlobalSecret", "name": "h"}],
    });
    let expected = ["unchanged", "updated", "created", "deleted", "missing"];
    let mut rehearsal = mixed.clone();
    rehearsal["dryRun"] = json!(true);
    assert_eq!(outcomes(&send(&server, rehearsal).await), expected);
    let answer = send(&server, mixed).await;
    assert_eq!(outcomes(&answer), expected);
    assert_eq!(answer.json()["revision"], 2);
}

#[tokio::test]
async fn one_bad_document_keeps_all_out_and_is_named() {
    let server = global();
    let cases = [
        (secret("Bad", "YQ=="), "items[1].name", "Secret default/Bad: invalid characters"),
        (secret("b", "*"), "items[1].data", "illegal base64"),
        (secret("b", ""), "items[1].data", "Secret default/b: cannot be empty"),
        (secret("a", "Yg=="), "items[1].name", "was given before, in items[0]"),
        (json!({"type": "Secret", "name": "b", "data": "YQ=="}), "items[1].mesh", "cannot be empty"),
        (json!({"type": "Mesh", "name": "b"}), "items[1].type", "unknown type \"Mesh\""),
        (json!({"type": "Zone", "name": "b"}), "items[1].type", "unknown type \"Zone\""),
        (json!({"name": "b"}), "items[1].type", "cannot be empty"),
        (json!("hunter2"), "items[1]", "must be an object, not a string"),
        (json!({"type": "Secret", "mesh": "a.b", "name": "b", "data": "YQ=="}), "items[1].mesh", "dot"),
    ];
    for (bad, field, reason) in cases {
        let answer = send(&server, json!({"items": [secret("a", "YQ=="), bad]})).await;
        let (status, title, fields) = answer.error();
        assert_eq!((status, title.as_str()), (400, "Could not apply a batch"));
        assert_eq!(fields, [field]);
        assert!(answer.text.replace("\\\"", "\"").contains(reason), "{}", answer.text);
    }
    assert_eq!(server.get("/secrets").await.json()["total"], 0);
}

#[tokio::test]
async fn a_misspelt_dry_run_does_not_write() {
    let server = global();
    for batch in [
        json!({"items": [secret("a", "YQ==")], "dryrun": true}),
        json!({"items": [secret("a", "YQ==")], "dryRun": "yes"}),
        json!({"items": secret("a", "YQ==")}),
        json!([secret("a", "YQ==")]),
    ] {
        assert_eq!(send(&server, batch).await.error().0, 400);
    }
    assert_eq!(server.get("/secrets").await.json()["total"], 0);
    assert_eq!(outcomes(&send(&server, json!({})).await), Vec::<String>::new());
}

#[tokio::test]
async fn a_thousand_documents_are_one_revision() {
    let server = global();
    let items: Vec<_> = (0..1000).map(|n| secret(&format!("s{n}"), "YQ==")).collect();
    let answer = send(&server, json!({"items": items})).await;
    assert_eq!(answer.json()["revision"], 1);
    assert_eq!(server.get("/secrets?size=1").await.json()["total"], 1000);
}

#[tokio::test]
async fn a_rehearsal_refuses_what_the_store_would_refuse_and_names_the_document() {
    let server = unique();
    let other = json!({"type": "Secret", "mesh": "other", "name": "a", "data": "YQ=="});
    for dry_run in [true, false] {
        let batch = json!({"items": [secret("a", "YQ=="), other], "dryRun": dry_run});
        let answer = send(&server, batch).await;
        let (status, _, fields) = answer.error();
        assert_eq!((status, fields), (400, vec!["items[1].name".to_owned()]), "dry run: {dry_run}");
        assert!(answer.text.contains("names are unique"), "{}", answer.text);
    }
    // A rehearsal leaves no claim on a name behind.
    let rehearsed = send(&server, json!({"items": [secret("a", "YQ==")], "dryRun": true})).await;
    assert_eq!(outcomes(&rehearsed), ["created"]);
    assert_eq!(outcomes(&send(&server, json!({"items": [other]})).await), ["created"]);
}

#[tokio::test]
async fn a_rehearsal_sees_a_change_of_labels_as_a_write_does() {
    let server = global();
    send(&server, json!({"items": [secret("a", "YQ==")]})).await;
    let mut labelled = secret("a", "YQ==");
    labelled["labels"] = json!({"kuma.io/env": "universal"});
    for dry_run in [true, false] {
        let answer = send(&server, json!({"items": [labelled], "dryRun": dry_run})).await;
        assert_eq!(outcomes(&answer), ["updated"], "dry run: {dry_run}");
    }
}
