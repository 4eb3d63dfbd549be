//! Bytes that gates let through against bytes that the proxy has exchanged: is somebody else there, where only the proxy is
//! to be?
//!
//! Pure. Nothing is exact: headers are estimated, segments sent twice, and what a socket has received and nobody has read is
//! on no account yet. What is far beyond that, twice in a row, is told.

use std::collections::BTreeMap;

use crate::domain::BottleId;
use crate::kernel::IfIndex;

/// Ethernet, IPv4, and TCP with its usual options. One that is segmented later counts once, with one header.
const HEADER_BYTES: u64 = 66;
/// What may be missing in any case.
const SLACK_BYTES: u64 = 1 << 20;
/// What one connection may have received that nobody has read: the largest receive buffer of most hosts (`tcp_rmem`).
const UNREAD_BYTES_MAX: u64 = 6 << 20;
/// The part of what is accounted for that may be sent twice: one eighth.
const REPEATED_PART: u64 = 8;

/// What a gate has let through in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

/// What the proxy has exchanged since it last said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exchanged {
    pub(super) bottle: BottleId,
    pub(super) from_bottle: u64,
    pub(super) to_bottle: u64,
    /// Connections that are open.
    pub(super) connections: u32,
}

/// News of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It is a new one: what the last one did not say is on no account.
    Started,
    /// See there.
    Exchanged(Exchanged),
}

/// Bytes that nobody accounts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unaccounted {
    pub(super) is_from_bottle: bool,
    /// What passed, without headers.
    pub(super) passed: u64,
    /// How much of it the proxy knows of.
    pub(super) accounted: u64,
}

/// The accounts of all bottles.
#[derive(Debug, Default)]
pub(super) struct Accounts(BTreeMap<BottleId, Account>);

#[derive(Debug, Default)]
struct Account {
    interface: Option<IfIndex>,
    from_bottle: Side,
    to_bottle: Side,
    connections: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Side {
    /// Where the account begins.
    base: Passed,
    accounted: u64,
    /// Not accounted for at the last look.
    suspected: u64,
    /// Told of already.
    told: u64,
}

impl Accounts {
    /// Takes down what the proxy says.
    pub(super) fn hear(&mut self, news: News) {
        match news {
            // Every account begins anew at the next look.
            News::Started => self.0.clear(),
            News::Exchanged(Exchanged { bottle, from_bottle, to_bottle, connections }) => {
                let account = self.0.entry(bottle).or_default();
                account.from_bottle.accounted += from_bottle;
                account.to_bottle.accounted += to_bottle;
                account.connections = connections;
            }
        }
    }

    /// Compares with what a bottle's gate has let through. What was told is told again when it has doubled.
    pub(super) fn look(
        &mut self,
        bottle: BottleId,
        interface: IfIndex,
        [from_bottle, to_bottle]: [Passed; 2],
    ) -> Vec<Unaccounted> {
        let account = self.0.entry(bottle).or_default();
        let is_reset = from_bottle.bytes < account.from_bottle.base.bytes;
        if account.interface != Some(interface) || is_reset {
            let begin = |side: Side, base| Side { base, accounted: 0, ..side };
            account.interface = Some(interface);
            account.from_bottle = begin(account.from_bottle, from_bottle);
            account.to_bottle = begin(account.to_bottle, to_bottle);
            return Vec::new();
        }
        let unread = u64::from(account.connections) * UNREAD_BYTES_MAX;
        let sides = [(&mut account.from_bottle, from_bottle, true), (&mut account.to_bottle, to_bottle, false)];
        let found = sides.into_iter().filter_map(|(side, passed, is_from_bottle)| {
            let (passed, accounted) = side.look(passed, unread)?;
            Some(Unaccounted { is_from_bottle, passed, accounted })
        });
        found.collect()
    }

    /// Forgets bottles that do not run any more.
    pub(super) fn keep(&mut self, runs: impl Fn(BottleId) -> bool) {
        self.0.retain(|bottle, _| runs(*bottle));
    }
}

impl Side {
    fn look(&mut self, now: Passed, unread: u64) -> Option<(u64, u64)> {
        let (packets, bytes) =
            (now.packets.saturating_sub(self.base.packets), now.bytes - self.base.bytes.min(now.bytes));
        let payload = bytes.saturating_sub(packets.saturating_mul(HEADER_BYTES));
        let missing = payload.saturating_sub(self.accounted);
        let before = std::mem::replace(&mut self.suspected, missing);
        let allowed = SLACK_BYTES + unread + self.accounted / REPEATED_PART;
        if before.min(missing) <= allowed || missing / 2 < self.told {
            return None;
        }
        self.told = missing;
        Some((payload, self.accounted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTTLE: BottleId = BottleId(3);
    const INTERFACE: IfIndex = IfIndex(7);

    fn passed(payload: u64) -> Passed {
        let packets = payload / 1_000;
        Passed { packets, bytes: payload + packets * HEADER_BYTES }
    }

    /// What is told when a bottle sends this much at each look and the proxy knows of this much of it.
    fn check(looks: &[(u64, u64)], connections: u32, expected: &[u64]) {
        let mut accounts = Accounts::default();
        accounts.look(BOTTLE, INTERFACE, [passed(5 << 30), passed(1 << 20)]);
        let (mut sent, mut told) = (0, Vec::new());
        for (payload, known) in looks {
            sent += payload;
            let exchanged = Exchanged { bottle: BOTTLE, from_bottle: *known, to_bottle: 0, connections };
            accounts.hear(News::Exchanged(exchanged));
            let found = accounts.look(BOTTLE, INTERFACE, [passed((5 << 30) + sent), passed(1 << 20)]);
            assert!(found.iter().all(|found| found.is_from_bottle));
            told.extend(found.iter().map(|found| found.passed - found.accounted));
        }
        assert_eq!(told, expected, "{looks:?}");
    }

    const MEGA: u64 = 1_000_000;

    #[test]
    fn what_the_proxy_knows_of_is_not_told() {
        check(&[(900 * MEGA, 900 * MEGA), (0, 0), (5 * MEGA, 5 * MEGA)], 0, &[]);
        // Some of it was sent twice, or only acknowledged.
        check(&[(100 * MEGA, 90 * MEGA), (100 * MEGA, 90 * MEGA)], 0, &[]);
        check(&[(MEGA, 0), (0, 0), (0, 0)], 0, &[]);
    }

    #[test]
    fn what_is_on_its_way_is_not_told() {
        check(&[(50 * MEGA, 0), (0, 50 * MEGA), (0, 0)], 0, &[]);
        check(&[(11 * MEGA, 0), (0, 0), (0, 0)], 2, &[]);
    }

    #[test]
    fn what_nobody_knows_of_is_told_once_for_each_doubling() {
        check(&[(2 * MEGA, 0), (0, 0), (0, 0), (MEGA, 0), (MEGA, 0), (0, 0)], 0, &[2 * MEGA, 4 * MEGA]);
        check(&[(20 * MEGA, 10 * MEGA), (20 * MEGA, 10 * MEGA)], 0, &[20 * MEGA]);
    }

    #[test]
    fn another_interface_or_proxy_begins_an_account() {
        let mut accounts = Accounts::default();
        let far = [passed(100 * MEGA), passed(0)];
        for interface in [7, 8, 7] {
            assert!(accounts.look(BOTTLE, IfIndex(interface), far).is_empty());
        }
        accounts.hear(News::Started);
        for _ in 0..3 {
            assert!(accounts.look(BOTTLE, INTERFACE, far).is_empty());
        }
        // The count begins anew when a gate is made anew.
        for _ in 0..3 {
            assert!(accounts.look(BOTTLE, INTERFACE, [passed(MEGA), passed(0)]).is_empty());
        }
        accounts.keep(|_| false);
        assert!(accounts.0.is_empty());
    }
}
