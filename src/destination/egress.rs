//! **P** Which addresses the operator connects to for a tenant, and which it never does.
//!
//! Whoever writes a BackupJob says where the operator connects to. Without this page he could have it talk to what only the
//! operator reaches: its own loopback, the node's metadata service, the API server. What is refused is an *address*, looked
//! at after the name was resolved and before the connection is made (see [`super::resolver`]), so that neither a name, nor
//! another way to write an address, nor an answer of the name server that changes meanwhile gets past it. The command line
//! runs with its user's own network and is not restricted.

use crate::error::{Failure, Reason};
use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What nobody's backups lie behind, whatever the installation.
const NEVER: &[(&str, Kind)] = &[
    ("127.0.0.0/8", Kind::Loopback),           // RFC 1122, 3.2.1.3
    ("::1/128", Kind::Loopback),               // RFC 4291, 2.5.3
    ("0.0.0.0/8", Kind::Unspecified),          // RFC 1122, 3.2.1.3; Linux takes 0.0.0.0 for loopback
    ("::/128", Kind::Unspecified),             // RFC 4291, 2.5.2; the same
    ("255.255.255.255/32", Kind::Unspecified), // RFC 919: everybody here
    ("224.0.0.0/4", Kind::Unspecified),        // RFC 1112: groups
    ("ff00::/8", Kind::Unspecified),           // RFC 4291, 2.7: groups
    ("169.254.0.0/16", Kind::LinkLocal),       // RFC 3927; also the metadata service of AWS, Azure, Google and others
    ("fe80::/10", Kind::LinkLocal),            // RFC 4291, 2.5.6
    ("fd00:ec2::/32", Kind::Metadata),         // AWS: metadata over IPv6 (::254), credentials of pods (::23)
    ("fd20:ce::254/128", Kind::Metadata),      // Google: metadata over IPv6
    ("100.100.100.200/32", Kind::Metadata),    // Alibaba
    ("168.63.129.16/32", Kind::Metadata),      // Azure: the host's agent
    ("192.0.0.192/32", Kind::Metadata),        // Oracle
];

/// The IPv4 addresses of the world, seen through a translator (RFC 6052, 2.1).
const TRANSLATED: [u16; 6] = [0x64, 0xff9b, 0, 0, 0, 0];

/// Why an address is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The operator's own loopback.
    Loopback,
    /// Of no single host: unspecified, broadcast, multicast.
    Unspecified,
    /// Good on one link only, which is the node's own.
    LinkLocal,
    /// A cloud's metadata service.
    Metadata,
    /// The operator's own pod or Service.
    Own,
    /// The Kubernetes API server, with its port.
    ApiServer,
    /// `--deny-destination-cidr`.
    Denied,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "a loopback address, which is the operator itself",
            Self::Unspecified => "no address of a single host",
            Self::LinkLocal => "a link-local address, where clouds answer with a node's credentials",
            Self::Metadata => "a cloud's metadata address",
            Self::Own => "the operator's own address",
            Self::ApiServer => "the Kubernetes API server",
            Self::Denied => "in a network that --deny-destination-cidr of the operator names",
        })
    }
}

/// An address that is not connected to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{host} is at {address}, {kind}; the operator does not connect there. Give the destination an endpoint at another address"
)]
pub struct Forbidden {
    /// As it was written.
    pub host: String,
    /// Where it is.
    pub address: IpAddr,
    /// Why not.
    pub kind: Kind,
}

impl From<Forbidden> for Failure {
    fn from(forbidden: Forbidden) -> Self {
        Self::new(Reason::DestinationForbidden, forbidden.to_string())
    }
}

/// What is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    networks: Vec<(IpNet, Kind)>,
    hosts: Vec<IpAddr>,
    servers: Vec<SocketAddr>,
}

impl Egress {
    /// Nothing is refused: for the command line.
    pub fn unrestricted() -> Self {
        Self::default()
    }

    /// What the operator starts from: everything that is refused in every installation.
    pub fn of_operator() -> Self {
        let networks = NEVER.iter().filter_map(|(network, kind)| Some((network.parse().ok()?, *kind)));
        Self { networks: networks.collect(), ..Self::default() }
    }

    /// Whether anything is refused at all.
    pub fn is_restricted(&self) -> bool {
        *self != Self::default()
    }

    /// Refuses a network, too (`--deny-destination-cidr`).
    #[must_use]
    pub fn denying(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        self.networks.extend(networks.into_iter().map(|network| (network, Kind::Denied)));
        self
    }

    /// Refuses the operator's own addresses, at every port.
    #[must_use]
    pub fn besides(mut self, own: impl IntoIterator<Item = IpAddr>) -> Self {
        self.hosts.extend(own.into_iter().map(plain));
        self
    }

    /// Refuses these addresses of the API server, each with its port: something else may be served at another port.
    #[must_use]
    pub fn without_servers(mut self, servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.servers.extend(servers.into_iter().map(|at| SocketAddr::new(plain(at.ip()), at.port())));
        self
    }

    /// Whether the operator may connect to this address for `host`.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, host: &str, address: IpAddr, port: u16) -> Result<(), Forbidden> {
        let plain = plain(address);
        let within = |network: &IpNet| network.contains(&plain) || network.contains(&address);
        let kind = if let Some((_, kind)) = self.networks.iter().find(|(network, _)| within(network)) {
            *kind
        } else if self.hosts.contains(&plain) {
            Kind::Own
        } else if self.servers.contains(&SocketAddr::new(plain, port)) {
            Kind::ApiServer
        } else {
            return Ok(());
        };
        Err(Forbidden { host: host.to_owned(), address, kind })
    }
}

/// The address that packets go to: IPv4 in its IPv6 forms (mapped, RFC 4291 2.5.5.2; compatible, 2.5.5.1; translated) is
/// IPv4.
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    if let Some(v4) = v6.to_ipv4_mapped() {
        return v4.into();
    }
    let segments = v6.segments();
    let low = |[.., high, low]: [u16; 8]| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    let compatible = segments[..6] == [0; 6] && v6 != Ipv6Addr::LOCALHOST && v6 != Ipv6Addr::UNSPECIFIED;
    if compatible || segments[..6] == TRANSLATED { low(segments) } else { address }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(egress: &Egress, address: &str, port: u16) -> Option<Kind> {
        egress.check("host", address.parse().unwrap(), port).err().map(|forbidden| forbidden.kind)
    }

    #[test]
    fn the_table_can_be_read() {
        assert_eq!(Egress::of_operator().networks.len(), NEVER.len());
    }

    #[test]
    fn what_is_never_connected_to() {
        let egress = Egress::of_operator();
        for (address, kind) in [
            ("127.0.0.1", Kind::Loopback),
            ("127.255.0.9", Kind::Loopback),
            ("::1", Kind::Loopback),
            ("::ffff:127.0.0.1", Kind::Loopback),
            ("::127.0.0.1", Kind::Loopback),
            ("64:ff9b::7f00:1", Kind::Loopback),
            ("0.0.0.0", Kind::Unspecified),
            ("::", Kind::Unspecified),
            ("224.0.0.1", Kind::Unspecified),
            ("169.254.169.254", Kind::LinkLocal),
            ("::ffff:169.254.169.254", Kind::LinkLocal),
            ("fe80::1", Kind::LinkLocal),
            ("fd00:ec2::254", Kind::Metadata),
            ("100.100.100.200", Kind::Metadata),
        ] {
            assert_eq!(refused(&egress, address, 443), Some(kind), "{address}");
        }
        for address in ["10.0.0.1", "192.168.1.1", "100.100.100.201", "8.8.8.8", "2001:db8::1", "fd00::1", "::2:0:0:1"]
        {
            assert_eq!(refused(&egress, address, 443), None, "{address}");
        }
        assert_eq!(refused(&Egress::unrestricted(), "127.0.0.1", 9000), None);
        assert!(egress.is_restricted() && !Egress::unrestricted().is_restricted());
    }

    #[test]
    fn what_an_installation_adds() {
        let egress = Egress::of_operator()
            .denying(["10.9.0.0/16".parse().unwrap()])
            .besides(["10.1.0.7".parse().unwrap()])
            .without_servers(["10.0.0.1:443".parse().unwrap(), "[::ffff:10.0.0.2]:6443".parse().unwrap()]);
        assert_eq!(refused(&egress, "10.9.8.7", 9000), Some(Kind::Denied));
        assert_eq!(refused(&egress, "::ffff:10.9.8.7", 9000), Some(Kind::Denied));
        assert_eq!(refused(&egress, "10.1.0.7", 1), Some(Kind::Own));
        assert_eq!(refused(&egress, "10.0.0.1", 443), Some(Kind::ApiServer));
        assert_eq!(refused(&egress, "10.0.0.1", 9000), None, "another port of that host");
        assert_eq!(refused(&egress, "10.0.0.2", 6443), Some(Kind::ApiServer));
    }

    #[test]
    fn the_message_says_what_and_why() {
        let forbidden = Egress::of_operator().check("s3.example.com", "127.0.0.1".parse().unwrap(), 80).unwrap_err();
        let failure = Failure::from(forbidden);
        assert_eq!(failure.reason, Reason::DestinationForbidden);
        assert!(failure.message.starts_with("s3.example.com is at 127.0.0.1, a loopback address"), "{failure}");
    }

    proptest::proptest! {
        // However an IPv4 address is written, it is judged as itself.
        #[test]
        fn a_form_changes_nothing(v4: [u8; 4], port: u16) {
            let egress = Egress::of_operator().denying(["10.0.0.0/9".parse().unwrap()]);
            let kind = |address: IpAddr| egress.check("host", address, port).err().map(|forbidden| forbidden.kind);
            let v4 = Ipv4Addr::from(v4);
            let [a, b] = [u16::from_be_bytes([v4.octets()[0], v4.octets()[1]]), u16::from_be_bytes([v4.octets()[2], v4.octets()[3]])];
            proptest::prop_assert_eq!(kind(v4.into()), kind(v4.to_ipv6_mapped().into()));
            proptest::prop_assert_eq!(kind(v4.into()), kind(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, a, b).into()));
        }
    }
}
