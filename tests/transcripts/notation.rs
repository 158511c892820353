//! How scripts write names, values and times.
//!
//! Decides: the notation. Never does: know a session.
//!
//! `a` is the Secret `a` in mesh `default`, `other/a` the one in mesh `other`, `global:a` a GlobalSecret,
//! `config:a` a Config. `a=1` gives it the value `1`, `a=x[4000]` four thousand times `x`, `a=PRIVATE-KEY`
//! an RSA key; `a=1{k=v,l=w}` labels, too.

use std::time::{Duration, Instant};

use kdsync::core::{Key, Labels, ResourceType, SecretData, StoreId, StoreIdentity};

const PRIVATE_KEY: &[u8] = include_bytes!("../conformance/signing-key.pem");

/// A name with its content.
#[derive(Clone, Debug)]
pub(crate) struct Put {
    pub(crate) key: Key,
    /// `None` if the script did not say.
    pub(crate) labels: Option<Labels>,
    pub(crate) data: SecretData,
}

/// A line that grows word by word.
#[derive(Debug)]
pub(crate) struct Line(pub(crate) String);

impl Line {
    pub(crate) fn new(start: impl Into<String>) -> Self {
        Self(start.into())
    }

    pub(crate) fn word(&mut self, word: impl AsRef<str>) {
        self.0.push(' ');
        self.0.push_str(word.as_ref());
    }

    /// A word after a comma.
    pub(crate) fn clause(&mut self, word: impl AsRef<str>) {
        self.0.push(',');
        self.word(word);
    }
}

/// The words of a line; what is between double quotes belongs to one word.
pub(crate) fn words(line: &str) -> Result<Vec<String>, String> {
    let (mut found, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    for c in line.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => found.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    found.extend(word);
    if quoted { Err("a quotation mark is missing".to_owned()) } else { Ok(found) }
}

/// Reads a name; without a prefix it is of type `ty`.
pub(crate) fn key(text: &str, ty: ResourceType) -> Key {
    if let Some(name) = text.strip_prefix("global:") {
        return Key::global_secret(name);
    }
    if let Some(name) = text.strip_prefix("config:") {
        return Key::new(ResourceType::Config, "", name);
    }
    match (ty, text.split_once('/')) {
        (ResourceType::Secret, Some((mesh, name))) => Key::secret(mesh, name),
        (ResourceType::Secret, None) => Key::secret("default", text),
        _ => Key::new(ty, "", text),
    }
}

/// Writes a name as [`key`] reads it.
pub(crate) fn short(key: &Key) -> String {
    match (key.ty, key.mesh.as_str()) {
        (ResourceType::GlobalSecret, _) => format!("global:{}", key.name),
        (ResourceType::Config, _) => format!("config:{}", key.name),
        (_, "default") => key.name.to_string(),
        (_, mesh) => format!("{mesh}/{}", key.name),
    }
}

/// Reads `name=value{labels}`.
pub(crate) fn put(text: &str, ty: ResourceType) -> Result<Put, String> {
    let (text, labels) = match text.strip_suffix('}').and_then(|text| text.split_once('{')) {
        Some((text, list)) => (text, Some(labels(list)?)),
        None => (text, None),
    };
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text} has no value"))?;
    Ok(Put { key: key(name, ty), labels, data: SecretData::new(value_of(value)?) })
}

fn labels(list: &str) -> Result<Labels, String> {
    let pairs = list.split(',').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (label, value) = pair.split_once('=').ok_or_else(|| format!("{pair} is no label"))?;
            Ok((label.to_owned(), value.to_owned()))
        })
        .collect()
}

fn value_of(text: &str) -> Result<Vec<u8>, String> {
    if text == "PRIVATE-KEY" {
        return Ok(PRIVATE_KEY.to_vec());
    }
    match text.strip_suffix(']').and_then(|text| text.split_once('[')) {
        Some((what, times)) => Ok(what.repeat(number(times)?).into_bytes()),
        None => Ok(text.as_bytes().to_vec()),
    }
}

/// Writes a value as scripts do. Values of scripts are no secrets.
pub(crate) fn value(data: &[u8]) -> String {
    let text = String::from_utf8_lossy(data);
    if let Some(label) = text.strip_prefix("-----BEGIN ").and_then(|rest| rest.split_once("-----")) {
        return label.0.replace(' ', "-");
    }
    match text.chars().next() {
        Some(first) if text.len() > 20 && text.chars().all(|c| c == first) => {
            format!("{first}[{}]", text.len())
        }
        _ => text.into_owned(),
    }
}

/// Reads a number.
pub(crate) fn number<N: std::str::FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}

/// Reads `5s`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{text}: {error}"))
}

/// Writes `5s`, to the millisecond.
pub(crate) fn span(duration: Duration) -> String {
    let whole = Duration::new(duration.as_secs(), duration.subsec_millis() * 1_000_000);
    humantime::format_duration(whole).to_string()
}

/// The store that a script calls by a capital letter.
pub(crate) fn identity(letter: &str, epoch: u64) -> Result<StoreIdentity, String> {
    match letter.as_bytes() {
        [letter @ b'A'..=b'F'] => Ok(StoreIdentity { id: store_id(*letter), epoch }),
        _ => Err(format!("{letter} is no store; stores are called A to F")),
    }
}

fn store_id(letter: u8) -> StoreId {
    StoreId(uuid::Uuid::from_u128(u128::from(letter - b'A' + 10)))
}

/// A text with the ids of stores as letters.
pub(crate) fn lettered(text: &str) -> String {
    (b'A'..=b'F').fold(text.to_owned(), |text, letter| {
        text.replace(&store_id(letter).to_string(), &char::from(letter).to_string())
    })
}

/// Virtual time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
    pub(crate) now: Instant,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "virtual time needs some instant to start from")]
    pub(crate) fn new() -> Self {
        let start = Instant::now();
        Self { start, now: start }
    }

    /// The time since the script began, as a line.
    pub(crate) fn mark(&self) -> String {
        format!("@ {}", span(self.now - self.start))
    }
}
