//! A Pub/Sub that cannot be reached, on real sockets: addresses that accept and close, and
//! connections that swallow everything.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use emulators::pubsub::{Config, PubSub};
use futures_util::future::try_join_all;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use worker::pubsub::{
    Admin, Connection, Delivery, Intake, IntakeSettings, OUTSTANDING_BYTES, Outgoing, Publisher,
    Source as _, SubscriptionPlan,
};

/// No machine is so slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a gate does with connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Forward,
    /// Accepts and closes; what is open is closed.
    Close,
    /// Accepts and is silent; what is open falls silent.
    Swallow,
}

/// Stands in front of the emulator.
struct Gate {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    accepted: watch::Receiver<usize>,
}

impl Gate {
    async fn open(behind: String, mode: Mode) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (mode, changes) = watch::channel(mode);
        let (count, accepted) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                count.send_modify(|count| *count += 1);
                tokio::spawn(carry(socket, behind.clone(), changes.clone()));
            }
        });
        Ok(Self { address, mode, accepted })
    }

    fn connection(&self) -> Connection {
        Connection { emulator: Some(self.address.to_string()) }
    }

    fn accepted(&self) -> usize {
        *self.accepted.borrow()
    }

    /// Waits for so many connections.
    async fn has_accepted(&self, connections: usize) -> anyhow::Result<()> {
        let mut accepted = self.accepted.clone();
        let seen = accepted.wait_for(|accepted| *accepted >= connections);
        tokio::time::timeout(PATIENCE, seen).await.context("no connection")??;
        Ok(())
    }
}

async fn carry(mut socket: TcpStream, behind: String, mut mode: watch::Receiver<Mode>) {
    if *mode.borrow_and_update() == Mode::Forward {
        let Ok(mut server) = TcpStream::connect(behind).await else { return };
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut socket, &mut server) => return,
            _ = mode.changed() => {}
        }
    }
    if *mode.borrow() == Mode::Swallow {
        // Held, and never read, until the test ends.
        std::future::pending::<()>().await;
    }
}

/// A topic with a subscription on a fresh emulator.
struct Ground {
    pubsub: PubSub,
    publisher: Publisher,
}

impl Ground {
    async fn new(subscriptions: usize) -> anyhow::Result<Self> {
        let pubsub = PubSub::start(Config::default()).await?;
        let connection = Connection { emulator: Some(pubsub.address().to_string()) };
        let admin = Admin::connect(&connection).await.map_err(anyhow::Error::msg)?;
        admin.create_topic(TOPIC).await.map_err(anyhow::Error::msg)?;
        for number in 0..subscriptions {
            let plan = SubscriptionPlan {
                name: subscription(number),
                topic: TOPIC.to_owned(),
                dead_topic: None,
                ordering: false,
                min_backoff: Duration::ZERO,
            };
            admin.create_subscription(&plan).await.map_err(anyhow::Error::msg)?;
        }
        Ok(Self { pubsub, publisher: Publisher::open(&connection, TOPIC).await? })
    }

    async fn gate(&self, mode: Mode) -> anyhow::Result<Gate> {
        Gate::open(self.pubsub.address().to_string(), mode).await
    }

    async fn publish(&self, text: &'static str) -> anyhow::Result<()> {
        self.publisher.publish(Outgoing { data: text.into(), ..Outgoing::default() }).await?;
        Ok(())
    }
}

const TOPIC: &str = "projects/p/topics/jobs";

fn subscription(number: usize) -> String {
    format!("projects/p/subscriptions/jobs-{number}")
}

async fn intake(gate: &Gate, number: usize) -> anyhow::Result<Intake> {
    open_intake(&gate.connection(), number, 10).await
}

async fn open_intake(
    connection: &Connection,
    number: usize,
    max_outstanding: usize,
) -> anyhow::Result<Intake> {
    let settings = IntakeSettings {
        subscription: subscription(number),
        max_outstanding,
        max_outstanding_bytes: OUTSTANDING_BYTES,
        ack_extension: Duration::from_secs(10),
    };
    Ok(Intake::open(connection, settings).await?)
}

/// The next message with this text; others are acknowledged.
async fn expect(intake: &mut Intake, text: &str) -> anyhow::Result<Delivery> {
    let found = async {
        loop {
            let delivery = intake.next().await?;
            if delivery.received.data == text.as_bytes() {
                return anyhow::Ok(delivery);
            }
            delivery.settle.ack().await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.context("no message came")?
}

/// Receives until the intake has trouble; what it says.
async fn receive_until_trouble(intake: &mut Intake) -> anyhow::Result<String> {
    let mut trouble = intake.trouble();
    let trouble = trouble.wait_for(Option::is_some);
    let seen = tokio::select! {
        seen = tokio::time::timeout(PATIENCE, trouble) => seen.context("no trouble")??,
        next = intake.next() => anyhow::bail!("{next:?}"),
    };
    Ok(seen.as_deref().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn thirty_of_thirty_come_back_from_an_address_that_accepted_and_closed() -> anyhow::Result<()>
{
    let ground = &Ground::new(30).await?;
    ground.publish("a").await?;
    let one = async |number: usize| {
        let gate = ground.gate(Mode::Close).await?;
        let mut intake = intake(&gate, number).await?;
        let why = receive_until_trouble(&mut intake).await?;
        assert!(why.starts_with("Pub/Sub cannot be reached: "), "{why}");
        gate.has_accepted(5).await?;
        gate.mode.send_replace(Mode::Forward);
        expect(&mut intake, "a").await?.settle.ack().await;
        assert_eq!(*intake.trouble().borrow(), None);
        assert!(gate.accepted() < 20, "{} connections", gate.accepted());
        anyhow::Ok(())
    };
    try_join_all((0..30).map(one)).await?;
    Ok(())
}

#[tokio::test]
async fn an_address_that_begins_to_accept_and_close_meets_no_storm() -> anyhow::Result<()> {
    let ground = &Ground::new(1).await?;
    let gate = ground.gate(Mode::Forward).await?;
    let mut intake = intake(&gate, 0).await?;
    ground.publish("a").await?;
    expect(&mut intake, "a").await?.settle.ack().await;
    let before = gate.accepted();
    gate.mode.send_replace(Mode::Close);
    receive_until_trouble(&mut intake).await?;
    let connections = gate.accepted() - before;
    // The client opens as many as the machine can until the look has failed, which takes about
    // a quarter of a second; a storm would be thousands in each second.
    assert!(connections < 4_000, "{connections} connections before the first look failed");
    // From here on there are looks only.
    let looks = gate.accepted();
    gate.has_accepted(looks + 3).await?;
    gate.mode.send_replace(Mode::Forward);
    ground.publish("b").await?;
    expect(&mut intake, "b").await?.settle.ack().await;
    println!("{connections} connections before the first failed look");
    Ok(())
}

#[tokio::test]
async fn connections_that_swallow_everything_are_noticed_and_left() -> anyhow::Result<()> {
    let ground = &Ground::new(1).await?;
    let gate = ground.gate(Mode::Forward).await?;
    let mut intake = intake(&gate, 0).await?;
    ground.publish("a").await?;
    expect(&mut intake, "a").await?.settle.ack().await;
    gate.mode.send_replace(Mode::Swallow);
    let began = tokio::time::Instant::now();
    let why = receive_until_trouble(&mut intake).await?;
    println!("noticed after {:?}", began.elapsed());
    assert_eq!(why, "Pub/Sub cannot be reached: no answer within 10s");
    gate.mode.send_replace(Mode::Forward);
    ground.publish("b").await?;
    // A stream that fell silent leased it, or a new one has it: either way it comes.
    expect(&mut intake, "b").await?.settle.ack().await;
    Ok(())
}

/// How many messages are published while an intake takes none.
const WAITING: usize = 300;

/// Ten minutes of a pause take no attempt from what waits. The emulator would burn attempts on
/// a stream that is open and not read, as the service does.
#[tokio::test]
async fn a_pause_takes_no_attempts_from_what_waits() -> anyhow::Result<()> {
    let pubsub = PubSub::start(Config::default()).await?;
    let connection = Connection { emulator: Some(pubsub.address().to_string()) };
    let admin = Admin::connect(&connection).await.map_err(anyhow::Error::msg)?;
    let dead = "projects/p/topics/dead";
    for topic in [TOPIC, dead] {
        admin.create_topic(topic).await.map_err(anyhow::Error::msg)?;
    }
    let plan = SubscriptionPlan {
        name: subscription(0),
        topic: TOPIC.to_owned(),
        // Without a dead topic attempts are not counted.
        dead_topic: Some(dead.to_owned()),
        ordering: false,
        min_backoff: Duration::ZERO,
    };
    admin.create_subscription(&plan).await.map_err(anyhow::Error::msg)?;
    let publisher = Publisher::open(&connection, TOPIC).await?;
    let publish = |data: &'static str| {
        publisher.publish(Outgoing { data: data.into(), ..Outgoing::default() })
    };
    let mut intake = open_intake(&connection, 0, 2 * WAITING).await?;
    publish("first").await?;
    let first = expect(&mut intake, "first").await?;
    assert!(intake.pause().await.is_empty(), "nothing else was published");
    try_join_all((0..WAITING).map(|_| publish("waiting"))).await?;
    tokio::time::pause();
    for _ in 0..10 {
        tokio::time::advance(Duration::from_secs(60)).await;
        // What is due by then happens.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
    tokio::time::resume();
    let stats = pubsub.subscription_stats(&subscription(0)).unwrap();
    assert!(stats.backlog > u64::try_from(WAITING)? && stats.outstanding <= 1, "{stats:?}");
    for _ in 0..WAITING {
        let delivery = expect(&mut intake, "waiting").await?;
        assert_eq!(delivery.received.delivery_attempt, Some(1));
        delivery.settle.ack().await;
    }
    first.settle.ack().await;
    Ok(())
}
