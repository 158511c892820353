//! Reading YAML and JSON files: what is wrong is said here, with file, document, line and field,
//! before anything is sent.
//!
//! Decides: what a document is, and that each is good. Never does: quote a value in a message.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

use crate::api::body::Body;
use crate::core::validate::{self, Violation};
use crate::core::{Key, ResourceType};

/// Files larger than this are not read: no batch could carry them.
pub(super) const MAX_FILE: u64 = 64 * 1024 * 1024;

/// Where a document stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    file: String,
    number: usize,
    line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} (document {})", self.file, self.line, self.number)
    }
}

/// A document that is good to send.
#[derive(Debug)]
pub(super) struct Document {
    /// Where it stands.
    pub place: Place,
    /// What it names.
    pub key: Key,
    /// As it is sent.
    pub value: Value,
}

/// Reads files and collects what is wrong with them.
#[derive(Debug, Default)]
pub(super) struct Documents {
    /// The good ones.
    pub good: Vec<Document>,
    /// What is wrong, in lines that a person can act on.
    pub wrong: Vec<String>,
    /// What is odd and was let pass.
    pub warnings: Vec<String>,
    ignore_unknown: bool,
    seen: HashMap<Key, Place>,
}

impl Documents {
    /// `ignore_unknown`: fields that nobody knows are warned of, not refused.
    pub(super) fn new(ignore_unknown: Unknown) -> Self {
        Self { ignore_unknown: ignore_unknown == Unknown::Ignored, ..Self::default() }
    }

    /// Reads the text of one file.
    pub(super) fn read(&mut self, file: &str, text: &str) {
        let parsed =
            if text.trim_start().starts_with('{') { read_json(file, text) } else { read_yaml(file, text) };
        let mut number = 0;
        for entry in parsed {
            let node = match entry {
                Ok(node) => node,
                Err(wrong) => {
                    self.wrong.push(wrong);
                    continue;
                }
            };
            // A list as `kdsync get secrets -o yaml` prints it is as good as its items.
            for node in node.into_items() {
                number += 1;
                self.document(file, number, node);
            }
        }
    }

    fn document(&mut self, file: &str, number: usize, node: Node) {
        let place = Place { file: file.to_owned(), number, line: node.line };
        let lines: HashMap<String, u64> =
            node.fields.iter().map(|(field, value)| (field.clone(), value.line)).collect();
        let fields: Map<String, Value> = node.fields.into_iter().map(|(f, v)| (f, v.value)).collect();
        let value = Value::Object(fields);
        let at = |field: &str| {
            let top = field.split(['[', '.']).next().unwrap_or_default();
            Place { line: lines.get(top).copied().unwrap_or(place.line), ..place.clone() }
        };
        let read = Body::from_value(value.clone()).and_then(|body| body.key().map(|key| (key, body)));
        let (key, body) = match read {
            Ok(read) => read,
            Err(wrong) => {
                self.wrong.push(message(&at(&wrong.field), &wrong));
                return;
            }
        };
        let mut found = validate::key(&key);
        found.extend(validate::value(body.data.len()));
        found.extend(validate::labels_syntax(&body.labels));
        let before = self.wrong.len();
        self.wrong.extend(found.iter().map(|wrong| message(&at(&wrong.field), wrong)));
        for field in &body.unknown {
            let place = at(field);
            if self.ignore_unknown {
                self.warnings.push(format!("{place}: {field}: unknown field, ignored"));
            } else {
                let hint = "unknown field; remove it, or pass --ignore-unknown";
                self.wrong.push(format!("{place}: {field}: {hint}"));
            }
        }
        if let Some(first) = self.seen.insert(key.clone(), place.clone()) {
            self.wrong.push(format!("{place}: {key} was given before, at {first}: keep one of them"));
        }
        if self.wrong.len() == before {
            self.good.push(Document { place, key, value });
        }
    }
}

/// What to do with fields that nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    /// Refuse the document.
    Refused,
    /// Warn.
    Ignored,
}

fn message(place: &Place, wrong: &Violation) -> String {
    let field = if wrong.field.is_empty() { String::new() } else { format!("{}: ", wrong.field) };
    format!("{place}: {field}{}", wrong.reason)
}

/// The name a user types for a kind.
pub(super) fn kind(ty: ResourceType) -> &'static str {
    match ty {
        ResourceType::Secret => "secret",
        ResourceType::GlobalSecret => "global-secret",
        ResourceType::Zone => "zone",
        ResourceType::Config => "config",
    }
}

/// A mapping with the line of each field.
#[derive(Debug, Default)]
struct Node {
    line: u64,
    fields: Vec<(String, Field)>,
    items: Option<Vec<Node>>,
}

#[derive(Debug)]
struct Field {
    line: u64,
    value: Value,
}

impl Node {
    /// The same node, that many lines further down.
    fn moved(mut self, by: u64) -> Self {
        self.line += by;
        for (_, field) in &mut self.fields {
            field.line += by;
        }
        self.items = self.items.map(|items| items.into_iter().map(|item| item.moved(by)).collect());
        self
    }

    fn into_items(self) -> Vec<Self> {
        let typed = self.fields.iter().any(|(field, _)| field == "type");
        match self.items {
            Some(items) if !typed => items,
            Some(_) => {
                let items = Field { line: self.line, value: Value::Array(Vec::new()) };
                let mut fields = self.fields;
                fields.push(("items".to_owned(), items));
                vec![Self { fields, items: None, line: self.line }]
            }
            None => vec![self],
        }
    }
}

/// The value of `items`: a list of documents, or nothing.
struct Items;

impl<'de> serde::de::DeserializeSeed<'de> for Items {
    type Value = Vec<Node>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Node>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Items {
    type Value = Vec<Node>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of documents")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Node>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element::<Spanned<Node>>()? {
            items.push(placed(item));
        }
        Ok(items)
    }

    fn visit_unit<E>(self) -> Result<Vec<Node>, E> {
        Ok(Vec::new())
    }

    // A message must not quote what is there instead: it may be a secret.
    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Vec<Node>, E> {
        Err(E::custom("items: must be a list of documents"))
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Vec<Node>, E> {
        self.visit_str("")
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Vec<Node>, E> {
        self.visit_str("")
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Vec<Node>, E> {
        self.visit_str("")
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Vec<Node>, E> {
        self.visit_str("")
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping with type, name and data")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut node = Node::default();
                while let Some(field) = map.next_key::<String>()? {
                    if field == "items" {
                        node.items = Some(map.next_value_seed(Items)?);
                    } else {
                        let value: Spanned<Value> = map.next_value()?;
                        let line = value.referenced.line();
                        node.fields.push((field, Field { line, value: value.value }));
                    }
                }
                Ok(node)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

fn placed(node: Spanned<Node>) -> Node {
    let line = node.referenced.line();
    Node { line, ..node.value }
}

fn read_yaml(file: &str, text: &str) -> Vec<Result<Node, String>> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! { max_documents: 100_000, max_nodes: 4_000_000, max_events: 8_000_000 },
    };
    let mut bytes = text.as_bytes();
    let documents = serde_saphyr::read_with_options::<_, Spanned<Node>>(&mut bytes, options);
    let mut parsed = Vec::new();
    for (number, document) in (1..).zip(documents) {
        let failed = document.is_err();
        parsed.push(document.map(placed).map_err(|error| {
            let line = error.location().map_or(1, |location| location.line()).max(1);
            let place = Place { file: file.to_owned(), number, line };
            format!("{place}: {error}")
        }));
        if failed {
            break;
        }
    }
    parsed
}

fn read_json(file: &str, text: &str) -> Vec<Result<Node, String>> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let line_at = |offset: usize| {
        let rest = text.get(offset..).unwrap_or_default();
        let start = offset + (rest.len() - rest.trim_start().len());
        text.get(..start).map_or(1, |before| before.matches('\n').count() as u64 + 1)
    };
    let (mut parsed, mut number) = (Vec::new(), 0);
    loop {
        let start = stream.byte_offset();
        let line = line_at(start);
        let Some(document) = stream.next() else { break };
        let source = text.get(start..stream.byte_offset()).unwrap_or_default();
        number += 1;
        let failed = document.is_err();
        parsed.push(
            document
                .map_err(|error| {
                    let place = Place { file: file.to_owned(), number, line: error.line().max(1) as u64 };
                    format!("{place}: {error}")
                })
                .and_then(|value| placed_json(file, number, source.trim_start(), line, value)),
        );
        if failed {
            break;
        }
    }
    parsed
}

/// A good JSON document, read once more as the YAML that it is, which knows the line of each field and
/// refuses a field that is there twice. What only a JSON parser can read has the line of its document.
fn placed_json(file: &str, number: usize, source: &str, line: u64, value: Value) -> Result<Node, String> {
    match read_yaml(file, source).pop() {
        Some(Ok(node)) => Ok(node.moved(line.saturating_sub(1))),
        Some(Err(wrong)) if wrong.contains("duplicate") => {
            let place = Place { file: file.to_owned(), number, line };
            let what = wrong.split_once("): ").map_or(wrong.as_str(), |(_, what)| what);
            Err(format!("{place}: {what}"))
        }
        _ => Ok(json_node(value, line)),
    }
}

/// JSON carries no lines: those of the document stand for its fields.
fn json_node(value: Value, line: u64) -> Node {
    let Value::Object(fields) = value else { return Node { line, ..Node::default() } };
    let mut node = Node { line, ..Node::default() };
    for (field, value) in fields {
        match value {
            Value::Array(items) if field == "items" => {
                node.items = Some(items.into_iter().map(|item| json_node(item, line)).collect());
            }
            value => node.fields.push((field, Field { line, value })),
        }
    }
    node
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Documents {
        let mut documents = Documents::new(Unknown::Refused);
        documents.read("a.yaml", text);
        documents
    }

    fn wrong(text: &str) -> String {
        let documents = read(text);
        assert!(documents.good.len() + documents.wrong.len() > 0);
        documents.wrong.join("\n")
    }

    #[test]
    fn yaml_and_json_streams_and_lists_are_read() {
        let yaml = "# comment\n---\ntype: Secret\nmesh: m\nname: a\ndata: YQ==\n---\n---\ntype: GlobalSecret\nname: b\ndata: |\n  YQ\n  ==\n";
        let documents = read(yaml);
        assert_eq!(documents.wrong, Vec::<String>::new());
        let keys: Vec<_> = documents.good.iter().map(|d| d.key.clone()).collect();
        assert_eq!(keys, [Key::secret("m", "a"), Key::global_secret("b")]);
        let json = r#"{"type":"Secret","mesh":"m","name":"a","data":"YQ=="}
            {"total":1,"items":[{"type":"GlobalSecret","name":"b","data":"YQ==","labels":{"a":"b"}}],"next":null}"#;
        assert_eq!(read(json).good.len(), 2);
        let list = "total: 1\nitems:\n- type: GlobalSecret\n  name: b\n  data: YQ==\nnext: null\n";
        assert_eq!(read(list).good.len(), 1, "{:?}", read(list).wrong);
    }

    #[test]
    fn errors_name_file_line_document_and_field() {
        let good = "type: Secret\nmesh: m\nname: a\ndata: YQ==\n---\n";
        let cases = [
            ("type: Secret\nmesh: m\nname: b\ndata: '*'\n", "a.yaml:9 (document 2): data: illegal base64"),
            ("type: Secret\nname: b\ndata: YQ==\n", "a.yaml:6 (document 2): mesh: cannot be empty"),
            (
                "type: GlobalSecret\nmesh: m\nname: b\ndata: YQ==\n",
                "a.yaml:7 (document 2): mesh: must not be set",
            ),
            (
                "type: Secret\nmesh: m\nname: B\ndata: YQ==\n",
                "a.yaml:8 (document 2): name: invalid characters",
            ),
            ("type: Secret\nmesh: m\nname: b\n", "a.yaml:6 (document 2): data: cannot be empty"),
            (
                "type: Secret\nmesh: m\nname: a\ndata: YQ==\n",
                "Secret m/a was given before, at a.yaml:1 (document 1)",
            ),
            ("type: Mesh\nname: m\n", "a.yaml:6 (document 2): type: unknown type \"Mesh\""),
            (
                "type: Secret\nmesh: m\nname: b\ndata: YQ==\ndta: x\n",
                "a.yaml:10 (document 2): dta: unknown field",
            ),
            (
                "type: Secret\nmesh: m\nname: 12\ndata: YQ==\n",
                "a.yaml:8 (document 2): name: must be a string",
            ),
            ("type: Secret\n  mesh: m\n", "a.yaml:7 (document 2)"),
            ("name: a\nname: b\n", "a.yaml:7 (document 2)"),
            ("- a\n", "a.yaml:6 (document 2)"),
            ("hunter2\n", "a.yaml:6 (document 2)"),
        ];
        for (text, expected) in cases {
            let found = wrong(&format!("{good}{text}"));
            assert!(found.contains(expected), "{text:?}: {found}");
            assert!(!found.contains("hunter2"), "{found}");
        }
    }

    #[test]
    fn malformed_json_is_placed() {
        assert!(wrong("{\n\"type\": Secret}").contains("a.yaml:2 (document 1)"));
        let text = "{\"type\":\"GlobalSecret\",\"name\":\"b\",\"data\":\"YQ==\"}\n{\"type\":\"Secret\"}";
        assert!(wrong(text).contains("a.yaml:2 (document 2): mesh"), "{}", wrong(text));
        let tall = "\n{\"type\":\"GlobalSecret\",\n\t\"name\":\"b\",\n  \"data\":\"*\"}\n{\"type\":\"Secret\",\n\"name\":\"B\"}";
        assert!(wrong(tall).contains("a.yaml:4 (document 1): data: illegal base64"), "{}", wrong(tall));
        let twice = "{\"type\":\"GlobalSecret\",\"name\":\"b\",\"data\":\"YQ==\",\n\"data\":\"hunter2\"}";
        assert!(wrong(twice).contains("a.yaml:1 (document 1)"), "{}", wrong(twice));
        assert!(!wrong(twice).contains("hunter2"), "{}", wrong(twice));
        // What YAML reads otherwise is still JSON.
        let escaped =
            "{\"type\":\"GlobalSecret\",\"name\":\"b\",\"data\":\"YQ==\",\"labels\":{\"a\":\"\\u0062\\/c\"}}";
        assert!(wrong(escaped).contains("labels[\"a\"]"), "{}", wrong(escaped));
    }

    #[test]
    fn unknown_fields_pass_when_asked() {
        let mut documents = Documents::new(Unknown::Ignored);
        documents.read("a.yaml", "type: GlobalSecret\nname: b\ndata: YQ==\nextra: 1\n");
        assert_eq!((documents.good.len(), documents.warnings.len()), (1, 1));
    }
}
