//! Where a stack that stays up listens: a block of ports that are the same each time.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::Context as _;
use shared::adapters::SystemClock;
use shared::ports::Clock as _;

/// What `--port-base` is by default.
const BASE: u16 = 8400;
/// How many ports a stack may use.
const BLOCK: u16 = 50;
/// How many blocks are looked at.
const BLOCKS: u16 = 40;
const CONTROL: u16 = 4;
/// The pages' first; the replicas' metrics have the rest of the block.
const PAGES: u16 = 5;
const METRICS: u16 = 10;
/// Where the last block of all begins.
const LAST_BASE: u16 = u16::MAX - (BLOCK - 1);
/// How often, and how far apart, the ports of a killed stack are looked at.
const LOOKS: u32 = 100;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// A block of ports, all of which exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ports {
    base: u16,
}

/// Reads where the ports of a stack begin.
///
/// # Errors
/// A text that says what it may be.
pub(super) fn port_base(text: &str) -> Result<Ports, String> {
    let base = text.parse().ok().filter(|base| (1..=LAST_BASE).contains(base));
    base.map(|base| Ports { base })
        .ok_or_else(|| format!("{BLOCK} ports begin there: write a number from 1 to {LAST_BASE}"))
}

impl Default for Ports {
    fn default() -> Self {
        Self { base: BASE }
    }
}

/// As [`port_base`] reads it.
impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.base.fmt(f)
    }
}

impl Ports {
    /// The first block from this one on of which all are free, and the listener of its
    /// control. Whoever holds that holds the block: of two stacks that start at once each gets
    /// its own.
    pub(super) fn take(self) -> anyhow::Result<(Self, TcpListener)> {
        let base = self.base;
        let bases = (0..BLOCKS).map_while(|n| base.checked_add(n * BLOCK));
        for base in bases.filter(|base| *base <= LAST_BASE) {
            let ports = Self { base };
            let Ok(control) = TcpListener::bind(ports.control()) else { continue };
            if ports.is_free() {
                return Ok((ports, control));
            }
        }
        let last = base.saturating_add((BLOCKS - 1) * BLOCK).min(LAST_BASE);
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
        let (first, held) = Ports { base: 21_400 }.take().unwrap();
        let (second, also_held) = first.take().unwrap();
        assert!(second.base >= first.base + BLOCK, "{first:?} {second:?}");
        drop(held);
        let other = TcpListener::bind(first.google()).unwrap();
        let (third, _held) = first.take().unwrap();
        assert!(third.base > second.base, "a port of the first block is somebody else's");
        drop((other, also_held));
        assert_eq!(first.take().unwrap().0, first);
        let last = port_base("65486").unwrap();
        let _control = TcpListener::bind(last.control());
        let why = format!("{:#}", last.take().unwrap_err());
        assert!(why.contains("from 65486 to 65486; name others by --port-base"), "{why}");
    }

    #[test]
    fn a_block_ends_where_ports_do() {
        for text in ["1", "8400", "65486"] {
            assert_eq!(port_base(text).unwrap().to_string(), text);
        }
        assert_eq!(port_base("65486").unwrap().at(BLOCK - 1).port(), u16::MAX);
        for text in ["0", "65487", "65533", "70000", "-1", "", "x"] {
            assert!(port_base(text).unwrap_err().contains("from 1 to 65486"), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_anywhere() {
        let ports = Ports { base: 8400 };
        assert_eq!((ports.page(1).port(), ports.page(2).port()), (8405, 8406));
        assert_eq!((ports.metrics(1).port(), ports.metrics(40).port()), (8410, 8449));
        assert_eq!(ports.metrics(41).port(), 0);
    }
}
