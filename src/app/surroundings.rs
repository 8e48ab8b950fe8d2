//! **W** What lies around the operator and is not to be connected to: the API server, its own Service, its own pod.
//!
//! Addresses of the API server change without a word (one of several is replaced), and so does a Service's that is made
//! again; what is known is therefore asked anew, at most once a minute, when an attempt or a check wants it. The API server
//! tells its own address to every client (`serverAddressByClientCIDRs`), so this takes no right that the operator does not
//! have; of several servers that one is told that answers, and the others belong into `--deny-destination-cidr`.

use crate::clock::Clock;
use crate::destination::egress::Egress;
use crate::error::Failure;
use crate::tenant::unavailable;
use ipnet::IpNet;
use kube::Client;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{ToSocketAddrs, lookup_host};
use tokio::sync::Mutex;

/// How long what is known is used.
const USED_FOR: Duration = Duration::from_mins(1);
/// How long a name server may take.
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);
/// Our own Service, as `ubo install` makes it.
const OWN_SERVICE: &str = "ubo-metrics.backup-system.svc";

/// Knows what must not be connected to.
pub(super) struct Surroundings {
    client: Client,
    clock: Arc<dyn Clock>,
    /// The API server, as this process reaches it: `host:port`.
    server: String,
    /// What no look around changes.
    fixed: Egress,
    known: Mutex<Option<Known>>,
}

/// What the last look around found.
struct Known {
    since: Instant,
    /// The last addresses of the own Service that were found.
    own: Vec<IpAddr>,
    egress: Arc<Egress>,
}

impl Surroundings {
    /// `denied` are the networks of `--deny-destination-cidr`, `own` the addresses of this pod, `server` the address at which
    /// `client` reaches the API server.
    pub(super) fn new(
        client: Client,
        clock: Arc<dyn Clock>,
        server: &http::Uri,
        denied: &[IpNet],
        own: &[IpAddr],
    ) -> Self {
        let default_port = if server.scheme_str() == Some("http") { 80 } else { 443 };
        let server = format!("{}:{}", server.host().unwrap_or_default(), server.port_u16().unwrap_or(default_port));
        let fixed = Egress::of_operator().denying(denied.iter().copied()).besides(own.iter().copied());
        Self { client, clock, server, fixed, known: Mutex::default() }
    }

    /// What is refused now.
    ///
    /// # Errors
    /// [`crate::error::Reason::ClusterUnavailable`], where the API server has never told its address: then nothing is
    /// connected to.
    pub(super) async fn egress(&self) -> Result<Arc<Egress>, Failure> {
        let mut known = self.known.lock().await;
        let now = self.clock.monotonic();
        if let Some(known) = &*known
            && now.saturating_duration_since(known.since) < USED_FOR
        {
            return Ok(Arc::clone(&known.egress));
        }
        let told = match self.client.list_core_api_versions().await {
            Ok(told) => told,
            Err(error) => {
                return match &*known {
                    Some(known) => Ok(Arc::clone(&known.egress)),
                    None => Err(unavailable("ask the API server for its address", &error)),
                };
            }
        };
        let mut servers = addresses(&self.server).await;
        for address in told.server_address_by_client_cidrs {
            servers.extend(addresses(&address.server_address).await);
        }
        let mut own: Vec<IpAddr> = addresses((OWN_SERVICE, 0)).await.into_iter().map(|at| at.ip()).collect();
        if let (true, Some(known)) = (own.is_empty(), &*known) {
            own.clone_from(&known.own); // a name server that is silent does not make it a stranger
        }
        let egress = Arc::new(self.fixed.clone().without_servers(servers).besides(own.iter().copied()));
        *known = Some(Known { since: now, own, egress: Arc::clone(&egress) });
        Ok(egress)
    }
}

/// Every address of a server; none where its name is not known.
async fn addresses(server: impl ToSocketAddrs) -> Vec<SocketAddr> {
    match tokio::time::timeout(LOOKUP_LIMIT, lookup_host(server)).await {
        Ok(Ok(found)) => found.collect(),
        _ => Vec::new(),
    }
}
