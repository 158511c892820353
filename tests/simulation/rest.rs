//! The end of trouble: everything is delivered, and the world comes to rest.
//!
//! Decides: whether it does come to rest. Never does: leave a fault in place, or hurry anybody.

use std::time::{Duration, Instant};

use super::Step;
use super::peer::End;
use super::world::{HOT, World};

/// How long a world is left in peace before it is judged: more than the longest hold after a NACK.
const PEACE: Duration = Duration::from_secs(30 * 60);
/// More answers than this on the way to rest are a loop.
const RESTLESS: u64 = 1_000;

impl World {
    pub(super) fn make_peace(&mut self) {
        self.say(|| "peace".to_owned());
        self.undo_upheavals();
        for at in 0..self.peers.len() {
            self.peers[at].admit();
            match &mut self.peers[at].end {
                End::Zone(zone) => zone.store.calm(),
                End::Kuma(zone) => zone.refused.clear(),
            }
            self.lose(at, "peace");
        }
    }

    /// Everything is delivered, then time passes to the next deadline, until the peace has lasted.
    pub(super) fn come_to_rest(&mut self) -> Step {
        let until = self.now + PEACE;
        let answered = self.answers();
        let mut steps = 0;
        while self.now < until {
            let mut busy = false;
            for at in 0..self.peers.len() {
                self.pump_zone(at, true)?;
                self.pump_server(at)?;
                busy |= self.peers[at].dialing;
                self.dial(at);
                busy |= self.settle_peer(at)?;
            }
            steps += 1;
            if steps > HOT {
                return Err("a hot loop".to_owned());
            }
            if self.answers() > answered + RESTLESS {
                return Err("it never comes to rest".to_owned());
            }
            if !busy {
                let next = self.next_deadline().unwrap_or(until);
                self.now = next.max(self.now + Duration::from_millis(1)).min(until);
            }
        }
        Ok(())
    }

    fn settle_peer(&mut self, at: usize) -> Result<bool, String> {
        let mut busy = false;
        let work = match &self.peers[at].end {
            End::Zone(zone) => zone.has_work(),
            End::Kuma(_) => false,
        };
        if work {
            self.step_work(at)?;
            busy = true;
        }
        let queued = self.peers[at].stream.as_ref().map(|s| (!s.up.is_empty(), !s.down.is_empty()));
        if let Some((up, down)) = queued {
            if up {
                self.deliver_up(at);
            }
            let before = self.peers[at].stream.as_ref().map_or(0, |s| s.down.len());
            if down {
                self.deliver_down(at)?;
            }
            let after = self.peers[at].stream.as_ref().map_or(0, |s| s.down.len());
            busy |= up || before != after;
        }
        Ok(busy)
    }

    fn next_deadline(&self) -> Option<Instant> {
        let zones = self.peers.iter().filter_map(|peer| match &peer.end {
            End::Zone(zone) => zone.session.poll_timeout(),
            End::Kuma(_) => None,
        });
        let servers = self.peers.iter().filter_map(|peer| peer.server_timeout(self.now));
        zones.chain(servers).min()
    }

    fn answers(&self) -> u64 {
        let stats = &self.stats;
        stats.whole + stats.since + stats.equal + stats.pruned
    }
}
