//! The simulation: thousands of lives of a global and its zones, each from one seed.
//!
//! Decides: what must be true at every step and at the end (`world`, `zone`, `peer`). Never does: wait,
//! read a clock or touch a disk; a life is a loop over events in an order that the seed draws.
//!
//! Two profiles. *Tampering*: somebody writes into the zones, and the zones repair. *Bare*: nobody
//! tampers and repair is switched off, because self-healing hides a wrong protocol. A failing seed is
//! printed; `SEED=n` replays it with everything that happened. The mutation table at the end switches one
//! rule off at a time and shows that seeds notice.

mod global;
mod kuma_global;
mod kuma_zone;
mod peer;
mod rest;
mod store;
mod upheaval;
mod verdict;
mod world;
mod zone;

use std::fmt::Write as _;

use super::knobs::Mutation;
use super::message::Answer;
use super::plan::Transmit;
use world::World;

/// What holds, or what does not.
type Step = Result<(), String>;

/// Seeds that are run every time.
const FIXED: u64 = 5_000;
/// Seeds that are drawn anew every time.
const FRESH: usize = 1_000;
/// How many seeds a mutation may need.
const PATIENCE: u64 = 2_000;

/// Who else writes into the zones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Profile {
    Tampering,
    Bare,
}

/// Counters by name.
macro_rules! counters {
    ($($name:ident: $words:literal),+ $(,)?) => {
        /// How often things happened, so that a simulation in which nothing happens is noticed.
        #[derive(Clone, Debug, Default)]
        struct Stats {
            $($name: u64,)+
        }

        impl Stats {
            fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$(($words, self.$name)),+]
            }

            fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)+
            }
        }
    };
}

counters! {
    swept: "swept",
    quarantined: "quarantined",
    repaired: "repaired",
    contended: "contended",
    refetched: "refetched",
    rejected: "rejected",
    accepted: "accepted",
    kept: "kept",
    apart: "apart",
    no_cluster_id: "no cluster id",
    store_failures: "store failures",
    mismatches: "digest mismatches",
    disconnects: "disconnects",
    crashes: "crashes",
    nacked: "nacked",
    withheld: "withheld",
    stale: "stale nonces",
    whole: "whole answers",
    pruned: "pruned answers",
    since: "answers since",
    equal: "equal answers",
    behind: "behind answers",
    foreign: "foreign answers",
    later_pages: "later pages",
}

impl Stats {
    fn answer(&mut self, transmit: &Transmit) {
        self.later_pages += u64::from(transmit.part > 0);
        match transmit.plan.answer {
            Answer::Whole => self.whole += 1,
            Answer::Pruned => self.pruned += 1,
            Answer::Since(_) => self.since += 1,
            Answer::Equal => self.equal += 1,
            Answer::Behind => self.behind += 1,
            Answer::Foreign => self.foreign += 1,
        }
    }
}

/// One life. The error is what went wrong.
fn live(seed: u64, profile: Profile, mutation: Option<Mutation>) -> (Step, Stats) {
    let mut world = World::new(seed, profile, mutation, None);
    let outcome = world.live();
    (outcome, world.into_stats().0)
}

/// The same life again, told step by step.
fn tell(seed: u64, profile: Profile) -> String {
    let mut world = World::new(seed, profile, None, Some(Vec::new()));
    let outcome = world.live();
    let (_, story) = world.into_stats();
    let mut text = String::new();
    for line in story.unwrap_or_default() {
        let _ = writeln!(text, "{line}");
    }
    let _ = writeln!(text, "{outcome:?}");
    text
}

fn survive(seeds: impl IntoIterator<Item = u64>, profile: Profile) -> Stats {
    let mut stats = Stats::default();
    let mut failed = Vec::new();
    for seed in seeds {
        let (outcome, of_this) = live(seed, profile, None);
        stats.add(&of_this);
        failed.extend(outcome.err().map(|reason| (seed, reason)));
    }
    let total = failed.len();
    let Some((seed, reason)) = failed.first() else { return stats };
    let list: Vec<_> = failed.iter().take(10).map(|(seed, reason)| format!("{seed}: {reason}")).collect();
    panic!(
        "{total} seeds fail in profile {profile:?}:\n{}\n\nreplay with SEED={seed}:\n{}\n{reason}",
        list.join("\n"),
        tail(&tell(*seed, profile))
    );
}

/// The end of a story, which is where it went wrong.
fn tail(story: &str) -> String {
    let lines: Vec<&str> = story.lines().collect();
    lines[lines.len().saturating_sub(120)..].join("\n")
}

/// `SEED=n` replays one seed in both profiles and nothing else.
#[expect(clippy::disallowed_methods, reason = "a test is told its seed by the environment")]
fn replay() -> Option<u64> {
    std::env::var("SEED").ok()?.parse().ok()
}

fn fixed(profile: Profile) -> Stats {
    match replay() {
        Some(seed) => {
            let (outcome, stats) = live(seed, profile, None);
            assert!(outcome.is_ok(), "{}", tell(seed, profile));
            stats
        }
        None => survive(0..FIXED, profile),
    }
}

#[test]
fn fixed_seeds_with_tampering() {
    let stats = fixed(Profile::Tampering);
    let idle: Vec<_> = stats.named().into_iter().filter(|(_, count)| *count == 0).collect();
    assert!(replay().is_some() || idle.is_empty(), "never happened: {idle:?}");
}

#[test]
fn fixed_seeds_bare() {
    let stats = fixed(Profile::Bare);
    assert_eq!(stats.repaired, 0, "somebody tampered in the bare profile");
}

#[test]
fn fresh_seeds() {
    let seeds: Vec<u64> = std::iter::repeat_with(|| fastrand::u64(..)).take(FRESH).collect();
    survive(seeds.iter().copied(), Profile::Tampering);
    survive(seeds, Profile::Bare);
}

/// Every rule, and every bug that a seed once found.
const MUTATIONS: [Mutation; 20] = [
    Mutation::SweepBeforeComplete,
    Mutation::CompleteSurvivesReconnect,
    Mutation::ClearOnDisconnect,
    Mutation::AckDespiteStoreError,
    Mutation::IgnoreStatement,
    Mutation::ManyInFlight,
    Mutation::NackIsAck,
    Mutation::NamedSubscribeIgnored,
    Mutation::FirstMayBeSilent,
    Mutation::PartialBeforeAck,
    Mutation::CompleteOnFirstPage,
    Mutation::RejectedIsSwept,
    Mutation::TakeAnyHistory,
    Mutation::AbsenceDeletes,
    Mutation::NoRepair,
    Mutation::NoGuard,
    Mutation::TrustAfterFailure,
    Mutation::StaleLedger,
    Mutation::ForgetRefusals,
    Mutation::WholeWithoutTombstones,
];

/// The first seed of a profile that notices a mutation.
fn noticed(mutation: Mutation, profile: Profile, patience: u64) -> Option<(u64, String)> {
    (0..patience).find_map(|seed| live(seed, profile, Some(mutation)).0.err().map(|reason| (seed, reason)))
}

#[test]
fn every_rule_is_missed_when_it_is_switched_off() {
    let mut unnoticed = Vec::new();
    for mutation in MUTATIONS {
        let found = noticed(mutation, Profile::Tampering, PATIENCE)
            .or_else(|| noticed(mutation, Profile::Bare, PATIENCE));
        if found.is_none() {
            unnoticed.push(mutation);
        }
    }
    assert!(unnoticed.is_empty(), "no seed notices: {unnoticed:?}");
}

/// How many of the fixed seeds notice each mutation: `MUTATIONS=1 cargo test --lib mutation_table -- --nocapture`
/// prints the table of `docs/simulation.md`. Without the variable a few seeds of one mutation are enough.
#[test]
#[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a table is printed on request")]
fn mutation_table() {
    let all = std::env::var("MUTATIONS").is_ok();
    let (mutations, seeds) = if all { (&MUTATIONS[..], FIXED) } else { (&MUTATIONS[..1], 50) };
    let count =
        |mutation, profile| (0..seeds).filter(|seed| live(*seed, profile, Some(mutation)).0.is_err()).count();
    for mutation in mutations {
        let (tampering, bare) = (count(*mutation, Profile::Tampering), count(*mutation, Profile::Bare));
        println!("| {mutation:?} | {tampering} | {bare} |");
        assert!(tampering + bare > 0);
    }
}
