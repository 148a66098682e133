//! Pub/Sub, Cloud Storage and Google's identity on loopback, for clients of any language.
//!
//! ```text
//! cargo run -p emulators --example serve            # free ports
//! cargo run -p emulators --example serve -- 8085    # 8085 to 8088
//! ```
//!
//! Prints the variables that clients read, one a line, and serves until its standard
//! input ends, so that whoever starts it with a pipe stops it by closing that.
//! `GOOGLE_EMULATOR_USERS` are two users' credentials, as `authorized_user` files have them; they
//! have granted every scope of the APIs' reference.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};

use emulators::google::{self, ClientKind, Google, User};
use emulators::pubsub::{self, PubSub};
use emulators::storage::{self, Storage};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

/// Two users who have granted everything, so that a client narrows it as it likes.
fn users(google: &Google) -> Value {
    let client = google.client_json(ClientKind::Installed, &["http://localhost"]);
    let client = &client["installed"];
    let user = |name: &str| {
        let user = User {
            sub: name.to_owned(),
            email: format!("{name}@example.com"),
            name: name.to_owned(),
            ..User::default()
        };
        let granted = google.add_user(user, google::api_scopes());
        json!({
            "type": "authorized_user",
            "client_id": client["client_id"],
            "client_secret": client["client_secret"],
            "token_uri": client["token_uri"],
            "refresh_token": granted.refresh_token,
        })
    };
    json!([user("ann"), user("bob")])
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let base: u16 = std::env::args().nth(1).map_or(Ok(0), |port| port.parse())?;
    let at = |nth: u16| -> SocketAddr {
        (Ipv4Addr::LOCALHOST, if base == 0 { 0 } else { base + nth }).into()
    };
    let pubsub = PubSub::start(pubsub::Config { listen: at(0) }).await?;
    let storage = Storage::start(storage::Config {
        http: at(1),
        grpc: at(2),
        // Clients do not expect it, as production allows short bursts.
        one_mutation_per_second: false,
    })
    .await?;
    let google =
        Google::start(google::Config { listen: at(3), ..google::Config::default() }).await?;
    let mut out = io::stdout();
    writeln!(out, "PUBSUB_EMULATOR_HOST={}", pubsub.address())?;
    writeln!(out, "STORAGE_EMULATOR_HOST={}", storage.http_origin())?;
    writeln!(out, "STORAGE_EMULATOR_HOST_GRPC={}", storage.grpc_address())?;
    writeln!(out, "GOOGLE_EMULATOR_ORIGIN={}", google.origin())?;
    writeln!(out, "GOOGLE_EMULATOR_USERS={}", users(&google))?;
    out.flush()?;
    let mut rest = Vec::new();
    tokio::io::stdin().read_to_end(&mut rest).await?;
    pubsub.stop().await;
    Ok(())
}
