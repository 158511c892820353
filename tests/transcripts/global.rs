//! The server session under a script: `side global`.
//!
//! Decides: as the driver in `src/global/stream.rs` does; messages go through their real bytes. Never does:
//! judge what is sent, except that no nonce returns, that no session asks to be called again at once, and
//! that nothing a stock zone gets is larger than it takes.
//!
//! - `commit a=1 -b` one commit at global. `keep 3` keeps the history of that many commits. `lag` stops
//!   publishing commits, `publish` catches up. `backup` and `restore` copy the store; `store B` is a new one.
//! - `zone kdsync page=1000`, `zone 2.14.3 max=4000 unadmitted`, `zone 2.2.9`: a zone opens its stream.
//! - `open Secret at 3 a b`: its first request of a type (`Secret` if none is named), stating the position at
//!   that revision or under a name that `mark p` gave; `altered`: with another digest. Names subscribe beside `*`.
//! - `subscribe a`: by name. `ack`, `nack "why"`, `refuse a "why" b "why"`: what it says to the last answer;
//!   `ack n` to that nonce.
//! - `advance 5s`: time passes. `admit`: an operator admits the zone. `parked`: names that are parked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kdsync::core::served::Audience;
use kdsync::core::{Key, Position, ResourceType, Revision, Version};
use kdsync::kds::knobs::Knobs;
use kdsync::kds::message::{Nack, Rejection, Request, Response};
use kdsync::kds::plan::Transmit;
use kdsync::kds::server::{Event, Peer, ServerSession};
use kdsync::kds::snapshot::Snapshot;
use kdsync::kds::wire::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use kdsync::kds::wire::{Message as _, decode_request, decode_response, encode_request, to_bytes};
use smol_str::SmolStr;

use super::history::History;
use super::notation::{Clock, Put, duration, identity, key, number, put, short, value};
use super::script::Player;

/// The largest message of Kuma unless it is told otherwise.
const TEN_MIB: usize = 10 << 20;

/// The stream of the zone.
struct Stream {
    peer: Peer,
    admitted: bool,
    sessions: BTreeMap<ResourceType, ServerSession>,
    /// What was sent last.
    last: Option<(ResourceType, SmolStr)>,
    nonces: BTreeSet<(ResourceType, SmolStr)>,
}

pub(crate) struct Global {
    clock: Clock,
    history: History,
    backup: Option<History>,
    published: Snapshot,
    lags: bool,
    marks: BTreeMap<String, BTreeMap<ResourceType, Position>>,
    stream: Option<Stream>,
    out: Vec<String>,
}

impl Player for Global {
    fn play(&mut self, words: &[String]) -> Result<Vec<String>, String> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if let Some((command, rest)) = words.split_first() {
            self.command(command, rest)?;
        }
        self.settle()?;
        Ok(std::mem::take(&mut self.out))
    }
}

impl Global {
    pub(crate) fn new() -> Self {
        let history = History::new(kdsync::core::StoreIdentity {
            id: kdsync::core::StoreId(uuid::Uuid::from_u128(10)),
            epoch: 1,
        });
        Self {
            clock: Clock::new(),
            published: history.snapshot.clone(),
            history,
            backup: None,
            lags: false,
            marks: BTreeMap::new(),
            stream: None,
            out: Vec::new(),
        }
    }

    fn command(&mut self, command: &str, rest: &[&str]) -> Result<(), String> {
        match (command, rest) {
            ("commit", changes) => {
                let changes = changes.iter().map(|change| read_change(change)).collect::<Result<_, _>>()?;
                self.history.commit(changes)?;
                self.publish();
            }
            ("keep", [kept]) => self.history.kept = number(kept)?,
            ("lag", []) => self.lags = true,
            ("publish", []) => {
                self.lags = false;
                self.publish();
            }
            ("backup", []) => self.backup = Some(self.history.clone()),
            ("restore", []) => self.change_store(self.backup.clone().ok_or("there is no backup")?),
            ("store", [letter]) => self.change_store(History::new(identity(letter, 1)?)),
            ("mark", [name]) => {
                let types = ResourceType::SECRETS.into_iter();
                let now = types.filter_map(|ty| Some((ty, self.history.snapshot.get(ty)?.position)));
                self.marks.insert((*name).to_owned(), now.collect());
            }
            ("zone", [kind, flags @ ..]) => self.connect(kind, flags)?,
            ("advance", [time]) => self.advance(duration(time)?)?,
            _ => self.zone_says(command, rest)?,
        }
        Ok(())
    }

    fn zone_says(&mut self, command: &str, rest: &[&str]) -> Result<(), String> {
        match (command, rest) {
            ("open", rest) => self.open(rest),
            ("subscribe", names) => {
                let first = names.first().ok_or("a name is missing")?;
                let ty = key(first, ResourceType::Secret).ty;
                let mut request = request(ty.as_str());
                request.subscribe = names.iter().map(|name| key(name, ty).wire_name().into()).collect();
                self.on_request(&request)
            }
            ("ack", [nonce]) => {
                let ty = type_of(nonce)?;
                self.on_request(&Request { nonce: (*nonce).into(), ..request(ty) })
            }
            ("ack", []) => self.reply(None),
            ("nack", [message]) => {
                self.reply(Some(Nack { message: (*message).to_owned(), rejected: Vec::new() }))
            }
            ("refuse", list) if !list.is_empty() && list.len() % 2 == 0 => self.refuse(list),
            ("admit", []) => {
                let stream = self.stream.as_mut().ok_or("no zone is connected")?;
                stream.admitted = true;
                stream.sessions.values_mut().for_each(ServerSession::on_admitted);
                Ok(())
            }
            ("parked", []) => {
                let stream = self.stream.as_ref().ok_or("no zone is connected")?;
                let parked: Vec<_> = stream.sessions.values().flat_map(ServerSession::parked).collect();
                self.out.push(format!("= parked: {}", parked.join(" ")));
                Ok(())
            }
            _ => Err("no such command".to_owned()),
        }
    }

    /// A global that comes up with another file closes every stream.
    fn change_store(&mut self, history: History) {
        self.history = history;
        self.stream = None;
        self.publish();
    }

    fn publish(&mut self) {
        if self.lags {
            return;
        }
        self.published = self.history.snapshot.clone();
        for (ty, session) in self.stream.iter_mut().flat_map(|stream| &mut stream.sessions) {
            if let Some(set) = self.published.get(*ty) {
                session.on_snapshot(set.clone());
            }
        }
    }

    fn connect(&mut self, kind: &str, flags: &[&str]) -> Result<(), String> {
        let option = |name: &str| flags.iter().find_map(|flag| flag.strip_prefix(name));
        let max_message = option("max=").map_or(Ok(TEN_MIB), number)?;
        let peer = match kind {
            "kdsync" => Peer::Kdsync { page: option("page=").map_or(Ok(1 << 20), number)? },
            "2.14.3" => Peer::Stock { audience: Audience::All, max_message },
            "2.2.9" => Peer::Stock { audience: Audience::Legacy, max_message },
            _ => return Err(format!("there is no zone of kind {kind}")),
        };
        let admitted = !flags.contains(&"unadmitted");
        let (sessions, nonces) = (BTreeMap::new(), BTreeSet::new());
        self.stream = Some(Stream { peer, admitted, sessions, last: None, nonces });
        Ok(())
    }

    fn open(&mut self, words: &[&str]) -> Result<(), String> {
        let mut words = words.iter().copied().peekable();
        let is_type = |word: &&str| word.starts_with(char::is_uppercase);
        let mut request = request(words.next_if(is_type).unwrap_or("Secret"));
        request.subscribe.push("*".into());
        let ty = request.type_url.parse().unwrap_or(ResourceType::Secret);
        if words.next_if_eq(&"at").is_some() {
            let mut position = self.position(ty, words.next().ok_or("at which revision?")?)?;
            if words.next_if_eq(&"altered").is_some() {
                position.digest.add(&Key::zone("nobody"), &Version([7; 32]));
            }
            request.position = Some(position);
        }
        request.subscribe.extend(words.map(|name| SmolStr::from(key(name, ty).wire_name())));
        self.on_request(&request)
    }

    fn position(&self, ty: ResourceType, at: &str) -> Result<Position, String> {
        if let Some(mark) = self.marks.get(at) {
            return mark.get(&ty).copied().ok_or_else(|| format!("{ty} has no position"));
        }
        let revision = Revision(number(at)?);
        self.history.position(ty, revision).ok_or_else(|| format!("{ty} has no position"))
    }

    fn last(&self) -> Result<(ResourceType, SmolStr), String> {
        let last = self.stream.as_ref().ok_or("no zone is connected")?.last.clone();
        last.ok_or_else(|| "nothing was sent that is not answered".to_owned())
    }

    fn reply(&mut self, nack: Option<Nack>) -> Result<(), String> {
        let (ty, nonce) = self.last()?;
        let subscribe = nack.iter().map(|_| SmolStr::new_static("*")).collect();
        self.on_request(&Request { nonce, nack, subscribe, ..request(ty.as_str()) })
    }

    fn refuse(&mut self, list: &[&str]) -> Result<(), String> {
        let (ty, nonce) = self.last()?;
        let rejected = list.chunks_exact(2).filter_map(|pair| match pair {
            [name, reason] => Some(Rejection { key: key(name, ty), reason: (*reason).to_owned() }),
            _ => None,
        });
        let nack = Nack { message: "some were refused".to_owned(), rejected: rejected.collect() };
        self.on_request(&Request { nonce, nack: Some(nack), ..request(ty.as_str()) })
    }

    /// As `src/global/stream.rs`: a type that is not in the snapshot has no session and gets no answer.
    fn on_request(&mut self, request: &Request) -> Result<(), String> {
        let bytes = to_bytes(&encode_request(request));
        let message = DeltaDiscoveryRequest::decode(bytes).map_err(|error| error.to_string())?;
        let request = decode_request(message);
        let stream = self.stream.as_mut().ok_or("no zone is connected")?;
        stream.last.take_if(|(_, nonce)| *nonce == request.nonce);
        let ty = request.type_url.parse().ok();
        let Some((ty, set)) = ty.and_then(|ty| Some((ty, self.published.get(ty)?))) else { return Ok(()) };
        let new = || ServerSession::new(stream.peer, set.clone(), stream.admitted, Knobs::default());
        let session = stream.sessions.entry(ty).or_insert_with(new);
        if let Err(error) = session.on_request(&request, self.clock.now) {
            self.out.push(format!("! the stream ends: {error}"));
            self.stream = None;
        }
        Ok(())
    }

    fn advance(&mut self, by: Duration) -> Result<(), String> {
        let target = self.clock.now + by;
        while let Some(at) = self.deadline().filter(|at| *at <= target) {
            self.clock.now = at;
            let quiet = self.out.len();
            self.out.push(self.clock.mark());
            self.settle()?;
            if self.out.len() == quiet + 1 {
                self.out.pop();
            }
        }
        self.clock.now = target;
        Ok(())
    }

    fn deadline(&self) -> Option<std::time::Instant> {
        let sessions = self.stream.iter().flat_map(|stream| stream.sessions.values());
        sessions.filter_map(|session| session.poll_timeout(self.clock.now)).min()
    }

    /// Takes everything that the sessions have to say.
    fn settle(&mut self) -> Result<(), String> {
        let now = self.clock.now;
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let mut ends = None;
        for (ty, session) in &mut stream.sessions {
            loop {
                let next = session.poll_transmit(now);
                while let Some(event) = session.poll_event() {
                    self.out.extend(describe(event));
                }
                match next {
                    Ok(None) => break,
                    Ok(Some(transmit)) => {
                        self.out.push(sent(&transmit, stream.peer)?);
                        if !stream.nonces.insert((*ty, transmit.nonce())) {
                            return Err(format!("nonce {} was used before (KDS-5)", transmit.nonce()));
                        }
                        stream.last = Some((*ty, transmit.nonce()));
                    }
                    Err(error) => {
                        ends = Some(format!("! the stream ends: {error}"));
                        break;
                    }
                }
            }
            if session.poll_timeout(now).is_some_and(|at| at <= now) {
                return Err(format!("the {ty} session asks to be called again at once"));
            }
        }
        if let Some(line) = ends {
            self.out.push(line);
            self.stream = None;
        }
        Ok(())
    }
}

fn request(type_url: &str) -> Request {
    let node = kdsync::kds::message::Node { id: "east".into(), ..Default::default() };
    Request { type_url: type_url.into(), node, ..Request::default() }
}

fn read_change(text: &str) -> Result<(Key, Option<Put>), String> {
    match text.strip_prefix('-') {
        Some(name) => Ok((key(name, ResourceType::Secret), None)),
        None => put(text, ResourceType::Secret).map(|put| (put.key.clone(), Some(put))),
    }
}

fn type_of(nonce: &str) -> Result<&'static str, String> {
    let types = ResourceType::SYNCED.into_iter().map(ResourceType::as_str);
    let mut types = types.filter(|name| name.chars().next() == nonce.chars().next());
    types.next().ok_or_else(|| format!("{nonce} is no nonce of ours"))
}

/// One message as a line, read from its bytes.
fn sent(transmit: &Transmit, peer: Peer) -> Result<String, String> {
    let frame = transmit.frame();
    let body = frame.get(5..).ok_or("a frame without a prefix")?;
    if let Peer::Stock { max_message, .. } = peer
        && body.len() > max_message
    {
        return Err(format!("{} bytes were sent to a zone that takes {max_message}", body.len()));
    }
    let message = DeltaDiscoveryResponse::decode(body).map_err(|error| error.to_string())?;
    let response = decode_response(message).map_err(|error| error.to_string())?;
    if response.header.is_some() != matches!(peer, Peer::Kdsync { .. }) {
        return Err("a header is for kdsync zones, and for each of them".to_owned());
    }
    Ok(format!("> {}{}", response.nonce, content(&response)))
}

fn content(response: &Response) -> String {
    let mut text = String::new();
    let mut word = |word: &str| {
        text.push(' ');
        text.push_str(word);
    };
    if let Some(header) = &response.header {
        word(&header.answer.to_string());
        if header.pages > 1 {
            word(&format!("page {}/{}", header.page, header.pages));
        }
    }
    for received in &response.resources {
        word(&format!("+{}={}", short(&received.key), value(received.data.expose())));
    }
    response.removed.iter().for_each(|key| word(&format!("-{}", short(key))));
    if response.header.is_none() && text.is_empty() {
        text.push_str(" empty");
    }
    text
}

/// An event as a line; what a message or a command says already is left out.
fn describe(event: Event) -> Option<String> {
    let text = match event {
        Event::Opened | Event::Sent { .. } => return None,
        Event::Acked { revision, complete: true } => format!("acked {revision}, complete"),
        Event::Acked { revision, complete: false } => format!("acked {revision}"),
        Event::Nacked { nack } => {
            let names: Vec<_> = nack.rejected.iter().map(|rejection| short(&rejection.key)).collect();
            format!("nacked: {}", if names.is_empty() { nack.message } else { names.join(" ") })
        }
        Event::Stale => "stale nonce".to_owned(),
        Event::Ignored => "ignored".to_owned(),
        Event::Withheld(Some(reason)) => format!("withheld: {reason}"),
        Event::Withheld(None) => "no longer withheld".to_owned(),
        Event::Size { bytes, limit } if bytes > limit => "more than the zone takes in one message".to_owned(),
        Event::Size { bytes, limit } if bytes * 5 >= limit * 4 => "near what the zone takes".to_owned(),
        Event::Size { .. } => "well below what the zone takes".to_owned(),
        Event::Oversize(key) => format!("too large alone: {}", short(&key)),
        Event::Apart(verdict) => format!("apart: {verdict:?}"),
    };
    Some(format!("* {text}"))
}
