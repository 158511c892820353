//! One resource at a time: rules, labels, paging, filters, writes on zones.

use http::StatusCode;
use kdsync::api::LocalWrites;
use kdsync::core::validate::MAX_VALUE;

use super::support::{global, zone};

const URL: &str = "/meshes/default/secrets/a";

#[tokio::test]
async fn put_creates_updates_and_keeps_the_time_of_creation() {
    let server = global();
    assert_eq!(server.put("default", "a", "YQ==").await.status, StatusCode::CREATED);
    let first = server.get(URL).await.json();
    assert_eq!(server.put("default", "a", "Yg==").await.status, StatusCode::OK);
    assert_eq!(server.put("default", "a", "Yg==").await.status, StatusCode::OK);
    let second = server.get(URL).await.json();
    assert_eq!(first["creationTime"], second["creationTime"]);
    assert_eq!(second["data"], "Yg==");
    let gone = server.call("DELETE", URL, "").await;
    assert_eq!((gone.status, gone.text.as_str()), (StatusCode::OK, "{}\n"));
    assert_eq!(server.call("DELETE", URL, "").await.error().0, 404);
}

#[tokio::test]
async fn both_spellings_of_global_secrets_are_one() {
    let server = global();
    let body = r#"{"type":"GlobalSecret","name":"g","data":"AP8="}"#;
    assert_eq!(server.call("PUT", "/global-secrets/g", body).await.status, StatusCode::CREATED);
    let json = server.get("/globalsecrets/g").await.json();
    assert_eq!(json["data"], "AP8=");
    assert!(json.get("labels").is_none() && json.get("mesh").is_none());
    assert_eq!(server.get("/global-secrets").await.json()["total"], 1);
}

#[tokio::test]
async fn every_rule_refuses_with_its_field() {
    let server = global();
    let big = "A".repeat((MAX_VALUE + 3) / 3 * 4);
    let item = |extra: &str| format!(r#"{{"type":"Secret","mesh":"default","name":"a",{extra}}}"#);
    let invalid = "Could not process a resource";
    let cases = [
        (URL, item(r#""data":"""#), invalid, "data"),
        (URL, item(r#""labels":{}"#), invalid, "data"),
        (URL, item(&format!(r#""data":"{big}""#)), invalid, "data"),
        (URL, item(r#""data":"YQ==","labels":{"a b":"c"}"#), invalid, r#"labels["a b"]"#),
        (
            URL,
            item(r#""data":"YQ==","labels":{"kuma.io/origin":"zone"}"#),
            invalid,
            r#"labels["kuma.io/origin"]"#,
        ),
        (
            "/meshes/default/secrets/Bad",
            r#"{"type":"Secret","mesh":"default","name":"Bad","data":"YQ=="}"#.to_owned(),
            invalid,
            "name",
        ),
        (
            "/meshes/a.b/secrets/a",
            r#"{"type":"Secret","mesh":"a.b","name":"a","data":"YQ=="}"#.to_owned(),
            "Failed to create a resource",
            "mesh",
        ),
        (
            "/globalsecrets/a",
            r#"{"type":"GlobalSecret","mesh":"default","name":"a","data":"YQ=="}"#.to_owned(),
            invalid,
            "mesh",
        ),
        (
            "/globalsecrets/zone-token-signing-public-key-1",
            r#"{"type":"GlobalSecret","name":"zone-token-signing-public-key-1","data":"YQ=="}"#.to_owned(),
            "Failed to create a resource",
            "name",
        ),
    ];
    for (url, body, title, field) in cases {
        let (status, found, fields) = server.call("PUT", url, &body).await.error();
        assert_eq!((status, found.as_str(), fields), (400, title, vec![field.to_owned()]), "{url}");
    }
    assert_eq!(server.get("/secrets").await.json()["total"], 0);
}

#[tokio::test]
async fn unreadable_bodies_are_refused_without_quoting_them() {
    let server = global();
    for body in [r#"{"data":"hunter2*"}"#, r#""hunter2""#, "{hunter2", r#"{"labels":"hunter2"}"#, "[]", ""] {
        let answer = server.call("PUT", URL, body).await;
        assert_eq!(answer.error().0, 400);
        assert_eq!(answer.error().1, "Bad Request");
        assert!(!answer.text.contains("hunter2"), "{answer:?}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(server.call("PUT", URL, &deep).await.error().0, 400);
    let long = format!(r#"{{"data":"{}"}}"#, "A".repeat(2 * 1024 * 1024));
    assert_eq!(server.call("PUT", URL, &long).await.error().0, 413);
    assert_eq!(server.call_as("PUT", URL, "text/plain", "{}".to_owned()).await.error().0, 415);
    assert_eq!(server.call_as("PUT", URL, "", "{}".to_owned()).await.error().0, 415);
}

#[tokio::test]
async fn errors_of_the_router_are_json_too() {
    let server = global();
    for (method, uri, status) in [
        ("GET", "/nosuch", 404),
        ("GET", "/meshes//secrets", 404),
        ("POST", URL, 405),
        ("PUT", "/zones/east", 405),
        ("GET", "/meshes/%ff/secrets", 400),
        ("GET", "/kdsync/zones/%ff", 404),
        ("GET", "/kdsync/events?after=x", 400),
    ] {
        let answer = server.call(method, uri, "").await;
        assert!(!answer.status.is_success(), "{uri}: {answer:?}");
        assert!(matches!(answer.error().0, code if code == status || code == 400), "{uri}: {answer:?}");
    }
    assert!(server.call("POST", URL, "").await.headers.contains_key("allow"));
}

#[tokio::test]
async fn lists_are_paged_sorted_and_filtered() {
    let server = global();
    for (mesh, name) in [("b", "x"), ("a", "z"), ("a", "y1"), ("a", "y2")] {
        server.put(mesh, name, "YQ==").await;
    }
    let page = server.get("/secrets?size=2&name=&z=%26").await.json();
    assert_eq!((page["total"].as_u64(), page["items"][0]["name"].as_str()), (Some(4), Some("y1")));
    let next = page["next"].as_str().unwrap();
    assert_eq!(next, "http://localhost:5681/secrets?name=&offset=2&size=2&z=%26");
    let page = server.get(next.strip_prefix("http://localhost:5681").unwrap()).await.json();
    assert_eq!((page["items"][1]["mesh"].as_str(), page["next"].is_null()), (Some("b"), true));
    assert_eq!(server.get("/meshes/a/secrets?name=y").await.json()["total"], 2);
    assert_eq!(
        server.get("/meshes/a/secrets?offset=99999999999").await.json()["items"],
        serde_json::json!([])
    );
    assert_eq!(server.get("/meshes/unknown/secrets").await.json()["total"], 0);

    let body = r#"{"type":"Secret","mesh":"a","name":"l","data":"YQ==","labels":{"team":"pay"}}"#;
    server.call("PUT", "/meshes/a/secrets/l", body).await;
    let found = server.get("/secrets?filter%5Blabels.team%5D=pay&filter[labels.kuma.io/mesh]=a").await.json();
    assert_eq!(found["total"], 1);
    for bad in ["filter[name]=x", "filter[labels.]=x", "filter[=x", "size=-1", "size=1001", "offset=-1"] {
        assert_eq!(server.get(&format!("/secrets?{bad}")).await.error().0, 400, "{bad}");
    }
}

#[tokio::test]
async fn unknown_fields_are_ignored_with_a_warning() {
    let server = global();
    let body = r#"{"type":"Secret","mesh":"default","name":"a","data":"YQ==","extra":1,"kri":"x"}"#;
    let answer = server.call("PUT", URL, body).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    assert_eq!(answer.warnings(), ["unknown fields of Secret default/a are ignored: extra"]);
}

#[tokio::test]
async fn labels_tell_the_place_of_creation_and_some_cannot_change() {
    let server = global();
    server.put("default", "a", "YQ==").await;
    assert_eq!(server.get(URL).await.json()["labels"], serde_json::json!({"kuma.io/mesh": "default"}));
    let body = r#"{"type":"Secret","mesh":"default","name":"a","data":"YQ==","labels":{"kuma.io/display-name":"b"}}"#;
    let (status, title, fields) = server.call("PUT", URL, body).await.error();
    assert_eq!((status, title.as_str()), (400, "Could not update a resource"));
    assert_eq!(fields, [r#"labels["kuma.io/display-name"]"#]);

    let standalone = zone(None, LocalWrites::Refuse);
    assert_eq!(standalone.put("default", "a", "YQ==").await.status, StatusCode::CREATED);
    let labels = serde_json::json!({
        "kuma.io/env": "universal", "kuma.io/mesh": "default", "kuma.io/origin": "zone", "kuma.io/zone": "east"
    });
    assert_eq!(standalone.get(URL).await.json()["labels"], labels);
    assert!(standalone.put("default", "a", "Yg==").await.warnings().is_empty());
}

#[tokio::test]
async fn a_zone_that_follows_a_global_refuses_or_warns() {
    let global_address = Some("grpc://10.0.0.1:5685");
    let strict = zone(global_address, LocalWrites::Refuse);
    let batch = r#"{"items":[{"type":"Secret","mesh":"default","name":"a","data":"YQ=="}]}"#;
    for answer in [
        strict.put("default", "a", "YQ==").await,
        strict.call("DELETE", URL, "").await,
        strict.call("POST", "/kdsync/batch", batch).await,
    ] {
        let (status, title, _) = answer.error();
        assert_eq!((status, title.as_str()), (405, "Method not allowed"));
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.starts_with("On zone control plane you can only modify zone resources"), "{detail}");
        assert!(detail.contains("grpc://10.0.0.1:5685"), "{detail}");
    }
    let open = zone(global_address, LocalWrites::Accept);
    let answer = open.put("default", "a", "YQ==").await;
    assert_eq!((answer.status, answer.warnings().len()), (StatusCode::CREATED, 1));
    assert_eq!(open.call("POST", "/kdsync/batch", batch).await.warnings().len(), 1);
    assert_eq!(open.call("DELETE", URL, "").await.warnings().len(), 1);
}
