//! The client session under a script: `side zone`.
//!
//! Decides: as the driver in `src/zone/mod.rs` does; messages go through their real bytes. Never does: judge
//! what the session does, except that it does not ask to be called again at once for ever.
//!
//! - `global kdsync B epoch=2`, `global 2.14.3`, `global 2.2.9`: who is at the other end (`kdsync A` at first).
//!   `connect`, `refused "why"`, `lost "why"`: what becomes of the connection. `synced a=1 global:b=2`: all of the
//!   first contact in one line, unshown.
//! - `answer Secret whole at 3 page 1/2 nonce x +a=1 -b`: an answer of that type (`Secret` if none is named). The
//!   kind (`whole`, `pruned`, `since:2`, `equal`, `behind`, `foreign`) and the revision are a kdsync global's; its
//!   digest is right unless `history Secret 3 a=1` declared another set. `+a?` cannot be read, `removed:x` is a
//!   removed name as it stands on the wire.
//! - `write a=1`, `delete a`: somebody in the zone does. `store fails "why"`: the next effect does, twice: the next
//!   two. `store refuses a "why"` until `store takes a`. `store waits` keeps effects in hand, `store next` does the one
//!   in hand, `store done` that and all others. `copy-lost a`: its last-good copy is gone.
//! - `advance 5s`, `restart`: time passes; the process starts again. `rows`, `held`: what there is.

use std::collections::VecDeque;
use std::time::Duration;

use kdsync::core::ResourceType;
use kdsync::kds::client::{Apply, ClientSession, Config, Effect, Event, Global, Reached};
use kdsync::kds::knobs::Knobs;
use kdsync::kds::message::{Node, Request, Response};
use kdsync::kds::wire::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use kdsync::kds::wire::{Message as _, decode_request, decode_response, encode_request, to_bytes};

use super::answers::{Answers, Kind};
use super::notation::{Clock, Line, duration, key, lettered, put, short, span, value};
use super::script::Player;
use super::store::{Done, Store};

/// More rounds without a pause than any command needs.
const HOT: usize = 1000;

pub(crate) struct Zone {
    clock: Clock,
    session: ClientSession,
    store: Store,
    answers: Answers,
    /// Answers that wait until the session reads them.
    inbox: VecDeque<DeltaDiscoveryResponse>,
    /// True while store effects are kept in hand.
    waits: bool,
    in_hand: Option<Effect>,
    out: Vec<String>,
}

impl Player for Zone {
    fn play(&mut self, words: &[String]) -> Result<Vec<String>, String> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if let Some((command, rest)) = words.split_first() {
            self.command(command, rest)?;
        }
        self.settle()?;
        Ok(std::mem::take(&mut self.out))
    }
}

fn open(store: &Store, clock: Clock) -> ClientSession {
    let node = Node { id: "east".into(), ..Node::default() };
    let config = Config { node, ..Config::default() };
    ClientSession::new(config, store.ledger.clone(), 7, Knobs::default(), clock.now)
}

impl Zone {
    pub(crate) fn new() -> Self {
        let (clock, store) = (Clock::new(), Store::default());
        Self {
            clock,
            session: open(&store, clock),
            store,
            answers: Answers::new(),
            inbox: VecDeque::new(),
            waits: false,
            in_hand: None,
            out: Vec::new(),
        }
    }

    fn command(&mut self, command: &str, rest: &[&str]) -> Result<(), String> {
        match (command, rest) {
            ("global", words) => self.answers.become_other(words)?,
            ("connect", []) => {
                let global = if self.answers.kind == Kind::Kdsync { Global::Kdsync } else { Global::Stock };
                self.session.on_connected(global, self.clock.now);
            }
            ("refused" | "lost", [reason]) => self.lose(reason, None),
            ("refused" | "lost", [reason, after]) => self.lose(reason, Some(duration(after)?)),
            ("synced", contents) => self.first_contact(contents)?,
            ("answer", words) => {
                let message = self.answers.answer(words)?;
                self.inbox.push_back(message);
            }
            ("history", words) => self.answers.declare(words)?,
            ("advance", [time]) => self.advance(duration(time)?)?,
            ("restart", []) => {
                self.inbox.clear();
                self.in_hand = None;
                self.session = open(&self.store, self.clock);
            }
            ("rows", []) => self.out.push(format!("= rows:{}", self.store.shown())),
            ("held", []) => self.show_held(),
            _ => self.in_the_zone(command, rest)?,
        }
        Ok(())
    }

    fn in_the_zone(&mut self, command: &str, rest: &[&str]) -> Result<(), String> {
        match (command, rest) {
            ("write", [content]) => {
                let put = put(content, ResourceType::Secret)?;
                self.store.touch(put.key, Some(put.data));
                self.session.on_store_changed();
            }
            ("delete", [name]) => {
                self.store.touch(key(name, ResourceType::Secret), None);
                self.session.on_store_changed();
            }
            ("copy-lost", [name]) => self.store.lose_copy(&key(name, ResourceType::Secret)),
            ("store", ["fails", reason]) => self.store.fails.push_back((*reason).to_owned()),
            ("store", ["refuses", name, reason]) => {
                let key = key(name, ResourceType::Secret);
                self.store.refuses.insert(key, (*reason).to_owned());
            }
            ("store", ["takes", name]) => drop(self.store.refuses.remove(&key(name, ResourceType::Secret))),
            ("store", ["waits"]) => self.waits = true,
            ("store", [step @ ("next" | "done")]) => {
                let effect = self.in_hand.take().ok_or("the store has nothing in hand")?;
                self.waits = *step == "next";
                self.execute(effect)?;
            }
            _ => return Err("no such command".to_owned()),
        }
        Ok(())
    }

    fn lose(&mut self, reason: &str, after: Option<Duration>) {
        self.inbox.clear();
        self.session.on_disconnected(reason, after, self.clock.now);
    }

    /// The first contact, up to where both types are complete.
    fn first_contact(&mut self, contents: &[&str]) -> Result<(), String> {
        self.command("connect", &[])?;
        self.settle()?;
        if self.answers.kind != Kind::Kdsync {
            self.command("answer", &["Config", "+config:kuma-cluster-id=A"])?;
            self.settle()?;
        }
        for ty in ResourceType::SECRETS {
            let mut items = Vec::new();
            for content in contents {
                if put(content, ResourceType::Secret)?.key.ty == ty {
                    items.push(format!("+{content}"));
                }
            }
            let revision = usize::from(!items.is_empty()).to_string();
            let mut words = vec![ty.as_str()];
            if self.answers.kind == Kind::Kdsync {
                words.extend(["whole", "at", &revision]);
            }
            words.extend(items.iter().map(String::as_str));
            self.command("answer", &words)?;
            self.settle()?;
        }
        if ResourceType::SECRETS.iter().any(|ty| !self.session.progress(*ty).complete) {
            return Err(format!("the first contact did not succeed: {:#?}", self.out));
        }
        self.out.clear();
        Ok(())
    }

    fn show_held(&mut self) {
        for ty in ResourceType::SECRETS {
            let progress = self.session.progress(ty);
            let ledger = self.session.ledger();
            let mut line = Line::new(format!("= {ty}:"));
            for (key, entry) in ledger.of_type(ty) {
                let kept = if ledger.kept.contains_key(key) { " (kept)" } else { "" };
                line.word(format!("{}={}{kept}", short(key), self.answers.known(&entry.received)));
            }
            let unknown = self.session.unknown().keys().filter(|key| key.ty == ty);
            unknown.for_each(|key| line.word(format!("{} unknown", short(key))));
            if let Some(position) = progress.position {
                line.clause(format!("at {}", position.revision));
            }
            if progress.complete {
                line.clause("complete");
            }
            self.out.push(line.0);
        }
    }

    fn advance(&mut self, by: Duration) -> Result<(), String> {
        let target = self.clock.now + by;
        while let Some(at) = self.session.poll_timeout().filter(|at| *at <= target) {
            self.clock.now = at.max(self.clock.now);
            let quiet = self.out.len();
            self.out.push(self.clock.mark());
            self.settle()?;
            if self.out.len() == quiet + 1 {
                self.out.pop();
            }
            if self.session.poll_timeout().is_some_and(|next| next <= self.clock.now) {
                return Err("the session asks to be called again at once, for ever".to_owned());
            }
        }
        self.clock.now = target;
        Ok(())
    }

    /// Does what the session wants until it wants nothing more.
    fn settle(&mut self) -> Result<(), String> {
        for _ in 0..HOT {
            self.hear()?;
            if let Some(effect) = self.session.poll_effect(self.clock.now) {
                self.hear()?;
                self.perform(effect)?;
            } else if self.session.wants_response() && !self.inbox.is_empty() {
                if let Some(message) = self.inbox.pop_front() {
                    self.receive(&message)?;
                }
            } else {
                return self.hear();
            }
        }
        Err("the session never comes to rest".to_owned())
    }

    fn receive(&mut self, message: &DeltaDiscoveryResponse) -> Result<(), String> {
        let bytes = to_bytes(message);
        let message = DeltaDiscoveryResponse::decode(bytes).map_err(|error| error.to_string())?;
        let response: Result<Response, _> = decode_response(message);
        match response {
            Ok(response) => self.session.on_response(response, self.clock.now),
            Err(error) => self.lose(&error.to_string(), None),
        }
        Ok(())
    }

    fn hear(&mut self) -> Result<(), String> {
        while let Some(event) = self.session.poll_event() {
            self.out.extend(describe(event));
        }
        while let Some(request) = self.session.poll_transmit() {
            let bytes = to_bytes(&encode_request(&request));
            let message = DeltaDiscoveryRequest::decode(bytes).map_err(|error| error.to_string())?;
            let read = decode_request(message);
            if read.node.id != "east" {
                return Err("a request without its node".to_owned());
            }
            self.out.push(self.sent(&read));
        }
        Ok(())
    }

    fn sent(&self, request: &Request) -> String {
        let ty = request.type_url.parse().unwrap_or(ResourceType::Secret);
        let named = |name: &str| kdsync::core::Key::from_wire_name(ty, name).map(|key| short(&key));
        let mut line = Line::new(format!("> {} {ty}", verb(request)));
        if !request.nonce.is_empty() {
            line.word(format!("{}", request.nonce));
        }
        if let Some(position) = &request.position {
            line.word(format!("at {}", position.revision));
        }
        for (name, version) in &request.versions {
            let name = named(name).unwrap_or_else(|| "?".to_owned());
            line.word(format!("has {name}={}", self.answers.known(version)));
        }
        for name in request.subscribe.iter().filter(|name| *name != "*") {
            line.word(format!("asks for {}", named(name).unwrap_or_else(|| "?".to_owned())));
        }
        if let Some(nack) = &request.nack {
            line.word(format!("\"{}\"", nack.message));
            nack.rejected.iter().for_each(|r| line.word(format!("names {}", short(&r.key))));
        }
        line.0
    }

    fn perform(&mut self, effect: Effect) -> Result<(), String> {
        match &effect {
            Effect::Connect => self.out.push("! connect".to_owned()),
            Effect::Disconnect { .. } => {
                self.inbox.clear();
                self.out.push("! disconnect".to_owned());
            }
            Effect::Apply(apply) => self.out.push(applies(apply)),
            Effect::Mend(audit) => {
                let mut line = Line::new("! mend:");
                audit.sweep.iter().for_each(|(key, _)| line.word(format!("sweep {}", short(key))));
                audit.repair.iter().for_each(|d| line.word(format!("repair {}", short(&d.key))));
                self.out.push(line.0);
            }
            Effect::Load => self.out.push("! load the ledger".to_owned()),
            // Reading changes nothing.
            Effect::List { .. } => {}
        }
        if matches!(effect, Effect::Connect | Effect::Disconnect { .. }) {
            return Ok(());
        }
        if self.waits {
            if self.in_hand.replace(effect).is_some() {
                return Err("two store effects at once".to_owned());
            }
            return Ok(());
        }
        self.execute(effect)
    }

    fn execute(&mut self, effect: Effect) -> Result<(), String> {
        let now = self.clock.now;
        match self.store.execute(effect)? {
            Done::Applied(result) => self.session.on_applied(result, now),
            Done::Listed(result) => self.session.on_listed(result, now),
            Done::Mended(result) => self.session.on_mended(result, now),
            Done::Loaded(result) => self.session.on_loaded(result, now),
        }
        Ok(())
    }
}

fn verb(request: &Request) -> &'static str {
    match (request.nonce.is_empty(), &request.nack) {
        (true, _) => "subscribe",
        (false, None) => "ack",
        (false, Some(_)) => "nack",
    }
}

fn applies(apply: &Apply) -> String {
    let mut line = Line::new(format!("! apply {}", apply.ty));
    for upsert in &apply.upserts {
        let received = &upsert.received;
        line.word(format!("+{}={}", short(&received.key), value(received.data.expose())));
    }
    for (key, held) in &apply.remove {
        line.word(format!("{}{}", if held.is_some() { "-" } else { "forget " }, short(key)));
    }
    apply.keep.iter().for_each(|(key, _)| line.word(format!("keep {}", short(key))));
    match apply.reached {
        Reached::Unchanged => {}
        Reached::At(position) => line.clause(format!("reached {}", position.revision)),
        Reached::Forget => line.clause("position forgotten"),
    }
    if apply.source.is_some() {
        line.clause("follow this store");
    }
    if apply.only_new {
        line.clause("new names only");
    }
    line.0
}

/// An event as a line; what an effect says already is left out.
fn describe(event: Event) -> Option<String> {
    let text = match event {
        Event::Applied { .. } => return None,
        Event::Connected(_) => "connected".to_owned(),
        Event::Disconnected { reason, retry_in } => {
            format!("disconnected: {reason}; again in {}", span(retry_in))
        }
        Event::Complete(ty) => format!("complete {ty}"),
        Event::Rejected(rejection) => format!("rejected {}: {}", short(&rejection.key), rejection.reason),
        Event::Accepted(key) => format!("accepted {}", short(&key)),
        Event::Swept(key) => format!("swept {}", short(&key)),
        Event::Repaired(key) => format!("repaired {}", short(&key)),
        Event::Contended { key, pause } => {
            format!("contended {}: left alone for {}", short(&key), span(pause))
        }
        Event::Refetched(key) => format!("no good copy of {}", short(&key)),
        Event::Kept { key, reason } => format!("kept {}: {reason}", short(&key)),
        Event::Apart { verdict, theirs } => format!("apart: {verdict:?}, {}", lettered(&theirs)),
        Event::NoClusterId => "no kuma-cluster-id".to_owned(),
        Event::DigestMismatch(ty) => format!("digest mismatch {ty}"),
        Event::StoreFailed(reason) => format!("store failed: {reason}"),
    };
    Some(format!("* {text}"))
}
