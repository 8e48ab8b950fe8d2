//! **A** Names to addresses, where every address is looked at before anything connects to it.
//!
//! reqwest asks the resolver once per connection and connects to nothing but what it answers, so that a name that is first
//! one host and then another gains nothing: the answer that was checked is the one that is used. An address that stands in
//! the URL itself is never resolved; [`check_url`] looks at it, after the parser has made one form of the many in which an
//! address can be written (`http://2130706433`, `http://0x7f.1`). No redirect is followed and no proxy is used: either
//! would connect to what was not looked at.

use super::egress::{Egress, Forbidden};
use futures::future::BoxFuture;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Looks a name up.
type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

/// The system's resolver, with its answers looked at.
pub(super) struct Guarded {
    egress: Arc<Egress>,
    /// The port that is connected to, which a resolver is not told.
    port: u16,
    lookup: Lookup,
}

impl Guarded {
    pub(super) fn new(egress: Arc<Egress>, port: u16) -> Self {
        let lookup: Lookup = Arc::new(|name| {
            Box::pin(async move {
                let found = tokio::net::lookup_host((name, 0)).await?;
                Ok(found.map(|at| at.ip()).collect())
            })
        });
        Self { egress, port, lookup }
    }
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let (egress, port) = (Arc::clone(&self.egress), self.port);
        let name = name.as_str().to_owned();
        let found = (self.lookup)(name.clone());
        Box::pin(async move {
            let found = found.await?;
            // One bad address among good ones is no mistake that happens: nothing of the answer is used.
            for address in &found {
                egress.check(&name, *address, port)?;
            }
            // Port 0 stands for that of the URL.
            let found: Addrs = Box::new(found.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(found)
        })
    }
}

/// Looks at an address that stands in the URL itself; a name is looked at when it has been resolved.
pub(super) fn check_url(egress: &Egress, url: &Url) -> Result<(), Forbidden> {
    // In the brackets of a URL stands an IPv6 address.
    let host = url.host_str().unwrap_or_default();
    let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() else { return Ok(()) };
    egress.check(host, address, url.port_or_known_default().unwrap_or_default())
}

/// The refused address among the causes of an error.
pub(super) fn forbidden<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Forbidden> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::egress::Kind;
    use super::*;
    use std::sync::Mutex;

    /// A resolver whose name server gives these answers, one after the other.
    fn scripted(port: u16, answers: &[&[&str]]) -> Guarded {
        let egress = Egress::of_operator().without_servers(["10.0.0.1:6443".parse().unwrap()]);
        let read = |answer: &&[&str]| answer.iter().map(|text| text.parse().unwrap()).collect();
        let answers: Vec<Vec<IpAddr>> = answers.iter().map(read).collect();
        let left = Arc::new(Mutex::new(answers.into_iter()));
        let lookup: Lookup = Arc::new(move |_| {
            let next = left.lock().unwrap().next().ok_or_else(|| io::Error::other("no more answers"));
            Box::pin(std::future::ready(next))
        });
        Guarded { egress: Arc::new(egress), port, lookup }
    }

    async fn resolved(resolver: &Guarded) -> Result<Vec<SocketAddr>, Option<Kind>> {
        match resolver.resolve("s3.example.com".parse().unwrap()).await {
            Ok(found) => Ok(found.collect()),
            Err(error) => Err(forbidden(&*error).map(|forbidden| forbidden.kind)),
        }
    }

    #[tokio::test]
    async fn every_answer_is_looked_at_when_it_is_used() {
        let good = "10.0.0.9:0".parse().unwrap();
        let resolver = scripted(9000, &[&["10.0.0.9"], &["169.254.169.254"], &["10.0.0.9", "::1"], &["10.0.0.9"]]);
        assert_eq!(resolved(&resolver).await, Ok(vec![good]));
        assert_eq!(resolved(&resolver).await, Err(Some(Kind::LinkLocal)), "the same name, changed");
        assert_eq!(resolved(&resolver).await, Err(Some(Kind::Loopback)), "one of two");
        assert_eq!(resolved(&resolver).await, Ok(vec![good]));
        assert_eq!(resolved(&resolver).await, Err(None), "a name server that fails is another error");
    }

    #[tokio::test]
    async fn the_port_counts() {
        assert!(resolved(&scripted(9000, &[&["10.0.0.1"]])).await.is_ok());
        assert_eq!(resolved(&scripted(6443, &[&["10.0.0.1"]])).await, Err(Some(Kind::ApiServer)));
    }

    #[test]
    fn an_address_in_the_url_is_looked_at_in_every_form() {
        let egress = Egress::of_operator();
        let kind = |url: &str| check_url(&egress, &url.parse().unwrap()).err().map(|forbidden| forbidden.kind);
        for host in ["127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "[::1]", "[::ffff:127.0.0.1]"] {
            assert_eq!(kind(&format!("http://{host}:9000/bucket")), Some(Kind::Loopback), "{host}");
        }
        for host in ["169.254.169.254", "[::ffff:a9fe:a9fe]", "2852039166", "[fe80::1]"] {
            assert_eq!(kind(&format!("https://{host}")), Some(Kind::LinkLocal), "{host}");
        }
        for host in ["s3.example.com", "10.0.0.1", "[2001:db8::1]", "localhost"] {
            assert_eq!(kind(&format!("https://{host}")), None, "{host}: no address, or a good one");
        }
    }
}
