//! No input panics, and every answer is one that a client can read.

use std::sync::LazyLock;

use proptest::prelude::*;
use tokio::runtime::Runtime;

use super::support::{Answer, Server, global};

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());

fn call(server: &Server, method: &str, uri: &str, body: String) -> Answer {
    let request = http::Request::builder()
        .method(method)
        .uri(uri)
        .header("content-type", "application/json")
        .body(axum::body::Body::from(body));
    // Not every text is a URI; those never reach a server.
    let Ok(request) = request else {
        return Answer {
            status: http::StatusCode::BAD_REQUEST,
            headers: http::HeaderMap::new(),
            text: "{}".to_owned(),
        };
    };
    RUNTIME.block_on(server.send(request))
}

fn fine(answer: &Answer) {
    assert_ne!(answer.status, 500, "{answer:?}");
    assert!(serde_json::from_str::<serde_json::Value>(&answer.text).is_ok(), "{answer:?}");
}

/// JSON that looks like a resource, with odd parts.
fn resource() -> impl Strategy<Value = String> {
    let odd = prop_oneof![
        Just("null".to_owned()),
        Just("1e999".to_owned()),
        Just("{}".to_owned()),
        Just("[[]]".to_owned()),
        Just("\"\"".to_owned()),
        Just("\"YQ==\"".to_owned()),
        Just("\"Secret\"".to_owned()),
        Just("\"a\"".to_owned()),
        Just("{\"a\":\"b\"}".to_owned()),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    let field = prop_oneof![
        Just("type"),
        Just("mesh"),
        Just("name"),
        Just("data"),
        Just("labels"),
        Just("creationTime"),
        Just("x")
    ];
    proptest::collection::vec((field, odd), 0..8).prop_map(|fields| {
        let fields: Vec<_> =
            fields.into_iter().map(|(field, value)| format!("\"{field}\":{value}")).collect();
        format!("{{{}}}", fields.join(","))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn put_takes_any_body(body in prop_oneof![resource(), any::<String>()]) {
        fine(&call(&global(), "PUT", "/meshes/a/secrets/a", body.clone()));
        fine(&call(&global(), "PUT", "/globalsecrets/a", body));
    }

    #[test]
    fn batch_takes_any_body(
        items in proptest::collection::vec(resource(), 0..4),
        delete in proptest::collection::vec(resource(), 0..2),
        other in any::<String>(),
    ) {
        let server = global();
        let body = format!("{{\"items\":[{}],\"delete\":[{}]}}", items.join(","), delete.join(","));
        fine(&call(&server, "POST", "/kdsync/batch", body));
        fine(&call(&server, "POST", "/kdsync/batch", other));
    }

    #[test]
    fn lists_take_any_query(
        query in prop_oneof!["(size|offset|name|filter%5Blabels.a%5D)=[-0-9a-z%]{0,24}", "[!-~]{0,60}"],
        path in "(/secrets|/meshes/[!-~]{0,8}/secrets|/zones|/globalsecrets)",
    ) {
        fine(&call(&global(), "GET", &format!("{path}?{query}"), String::new()));
    }

    #[test]
    fn names_in_paths_may_be_anything(name in "[!-~]{0,20}") {
        let server = global();
        for uri in [format!("/meshes/a/secrets/{name}"), format!("/zones/{name}"), format!("/kdsync/zones/{name}")] {
            fine(&call(&server, "GET", &uri, String::new()));
            let deleted = call(&server, "DELETE", &uri, String::new());
            assert_ne!(deleted.status, 500);
        }
    }
}

#[tokio::test]
async fn requests_meant_for_another_machine_are_refused() {
    let server = global();
    let ask = |name: &'static str, value: &'static str| {
        let request = http::Request::builder().uri("/secrets").header("host", "localhost:5681");
        let mut request = request.body(axum::body::Body::empty()).unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
        server.send(request)
    };
    for (name, value, status) in [
        ("host", "evil.example:5681", 403),
        ("host", "127.0.0.1:5681", 200),
        ("origin", "http://evil.example", 403),
        ("origin", "null", 403),
        ("origin", "http://localhost:5681", 200),
    ] {
        let answer = ask(name, value).await;
        assert_eq!(answer.status.as_u16(), status, "{name}: {value}");
        assert_eq!(answer.json()["title"] == "Access Denied", status == 403);
    }
}
