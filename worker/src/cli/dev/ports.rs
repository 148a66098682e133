//! Where a stack that stays up listens: a block of ports that are the same each time.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::Context as _;
use shared::adapters::SystemClock;
use shared::ports::Clock as _;

/// What `--port-base` is by default.
pub(super) const BASE: u16 = 8400;
/// How many ports a stack may use.
const BLOCK: u16 = 50;
/// How many blocks are looked at.
const BLOCKS: u16 = 40;
const CONTROL: u16 = 4;
/// The pages' first; the replicas' metrics have the rest of the block.
const PAGES: u16 = 5;
const METRICS: u16 = 10;
/// How often, and how far apart, the ports of a killed stack are looked at.
const LOOKS: u32 = 100;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// A block of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) base: u16,
}

impl Ports {
    /// The first block from this port on of which all are free, and the listener of its
    /// control. Whoever holds that holds the block: of two stacks that start at once each gets
    /// its own.
    pub(super) fn take(base: u16) -> anyhow::Result<(Self, TcpListener)> {
        let blocks = (0..BLOCKS).map_while(|n| base.checked_add(n * BLOCK)?.checked_add(BLOCK));
        for base in blocks.map(|end| end - BLOCK) {
            let ports = Self { base };
            let Ok(control) = TcpListener::bind(ports.control()) else { continue };
            if ports.is_free() {
                return Ok((ports, control));
            }
        }
        let last = base.saturating_add((BLOCKS - 1) * BLOCK);
        Err(anyhow::anyhow!("no {BLOCK} ports in a row are free"))
            .with_context(|| format!("from {base} to {last}; name others by --port-base"))
    }

    /// Waits for processes of a killed stack, which end by themselves: until all of the block
    /// is free, or it is clear that somebody else has it.
    pub(super) async fn await_the_last_ones(self) {
        for _ in 0..LOOKS {
            // Whoever has a running stack has its control.
            if TcpListener::bind(self.control()).is_err() || self.is_free() {
                return;
            }
            SystemClock::default().sleep(BETWEEN_LOOKS).await;
        }
    }

    fn is_free(self) -> bool {
        let is_free = |offset| TcpListener::bind(self.at(offset)).is_ok();
        (0..BLOCK).filter(|offset| *offset != CONTROL).all(is_free)
    }

    fn at(self, offset: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.base + offset).into()
    }

    pub(super) fn pubsub(self) -> SocketAddr {
        self.at(0)
    }

    pub(super) fn storage(self) -> SocketAddr {
        self.at(1)
    }

    pub(super) fn storage_grpc(self) -> SocketAddr {
        self.at(2)
    }

    pub(super) fn google(self) -> SocketAddr {
        self.at(3)
    }

    /// Where a running stack tells what it is.
    pub(super) fn control(self) -> SocketAddr {
        self.at(CONTROL)
    }

    /// Of the consent pages, counted from 1.
    pub(super) fn page(self, number: usize) -> SocketAddr {
        self.of_many(PAGES, METRICS, number)
    }

    /// Of a replica's metrics, counted from 1.
    pub(super) fn metrics(self, number: usize) -> SocketAddr {
        self.of_many(METRICS, BLOCK, number)
    }

    /// Any free port, where there are more than fit.
    fn of_many(self, first: u16, end: u16, number: usize) -> SocketAddr {
        let offset = u16::try_from(number - 1).ok().and_then(|n| first.checked_add(n));
        match offset.filter(|offset| *offset < end) {
            Some(offset) => self.at(offset),
            None => (Ipv4Addr::LOCALHOST, 0).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_have_blocks_of_their_own() {
        // Far from where others would be; what is taken there is passed over.
        let (first, held) = Ports::take(21_400).unwrap();
        let (second, also_held) = Ports::take(first.base).unwrap();
        assert!(second.base >= first.base + BLOCK, "{first:?} {second:?}");
        drop(held);
        let other = TcpListener::bind(first.google()).unwrap();
        let (third, _held) = Ports::take(first.base).unwrap();
        assert!(third.base > second.base, "a port of the first block is somebody else's");
        drop((other, also_held));
        assert_eq!(Ports::take(first.base).unwrap().0, first);
        assert!(Ports::take(u16::MAX - 10).unwrap_err().to_string().contains("--port-base"));
    }

    #[test]
    fn what_does_not_fit_is_anywhere() {
        let ports = Ports { base: 8400 };
        assert_eq!((ports.page(1).port(), ports.page(2).port()), (8405, 8406));
        assert_eq!((ports.metrics(1).port(), ports.metrics(40).port()), (8410, 8449));
        assert_eq!(ports.metrics(41).port(), 0);
    }
}
