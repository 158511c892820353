//! Switches that break one rule at a time, so that the tests can show that they would notice.
//!
//! Decides: nothing in a product build, where the switch does not exist and the compiler removes the
//! question. Never does: reach a configuration.

/// A rule that a test can switch off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// KDS-1: sweep before the first answer is applied.
    SweepBeforeComplete,
    /// KDS-1: completeness survives a reconnect.
    CompleteSurvivesReconnect,
    /// KDS-2: forget the ledger when the stream is lost.
    ClearOnDisconnect,
    /// KDS-3: ACK although the store failed.
    AckDespiteStoreError,
    /// KDS-4: the server keeps its old view instead of the stated one.
    IgnoreStatement,
    /// KDS-5: send the next answer without waiting for the ACK.
    ManyInFlight,
    /// KDS-6: the server treats a NACK as an ACK.
    NackIsAck,
    /// KDS-7: a named subscribe is not answered.
    NamedSubscribeIgnored,
    /// KDS-8: the first request is not answered when there is nothing new.
    FirstMayBeSilent,
    /// KDS-8: a stock zone that has not ACKed yet gets only changes after a NACK.
    PartialBeforeAck,
    /// KDS-8: removals ride on the first page instead of the last.
    CompleteOnFirstPage,
    /// KDS-9: a rejected name is forgotten by the zone and may be swept.
    RejectedIsSwept,
    /// KDS-10: any history is taken for one's own.
    TakeAnyHistory,
    /// Absence counts as deletion between kdsync ends.
    AbsenceDeletes,
    /// Drift is repaired neither from the copy nor from global.
    NoRepair,
    /// The guard lets everything pass.
    NoGuard,
    /// KDS-3: after a failed commit the ledger is not read again, although the commit may be there.
    TrustAfterFailure,
    /// KDS-4: an answer is taken while it is not known what the store holds.
    StaleLedger,
    /// KDS-9: what was refused is not known any more when the stream was lost meanwhile.
    ForgetRefusals,
    /// KDS-8: a whole answer between kdsync ends carries no tombstones.
    WholeWithoutTombstones,
}

/// The switches of one session. In a product build it is empty and every rule holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Knobs {
    #[cfg(test)]
    off: u32,
}

impl Knobs {
    /// With one rule switched off.
    #[cfg(test)]
    pub(crate) fn without(rule: Mutation) -> Self {
        Self::default().and_without(rule)
    }

    /// The same with one more rule switched off.
    #[cfg(test)]
    pub(crate) fn and_without(self, rule: Mutation) -> Self {
        Self { off: self.off | 1 << rule as u32 }
    }

    /// True if a test switched this rule off.
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "empty in a product build"))]
    pub(crate) fn broken(self, rule: Mutation) -> bool {
        #[cfg(test)]
        return self.off & 1 << rule as u32 != 0;
        #[cfg(not(test))]
        {
            let _ = rule;
            false
        }
    }
}
