//! Who a certificate names: a node of a cluster, or a client of one.
//!
//! A node is `duractor://CLUSTER/node/N`, a client `duractor://CLUSTER/client/NAME`. Where links are
//! counted and addressed both are a [`Member`], so that everything that sends frames works for both:
//! numbers from [`FIRST_CLIENT`] on are clients', drawn anew by each process. A certificate of the one
//! kind never gets through as the other.

use duractor_journal::{Member, NodeId, env::Entropy};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The lowest number of a client. Nodes have the numbers below it.
pub const FIRST_CLIENT: u32 = 1 << 31;

/// Whether this is a client: it takes no part in any group, stores nothing and is no member.
pub(crate) fn is_client(member: Member) -> bool {
    member.node.0 >= FIRST_CLIENT
}

/// A client that nobody else is: 62 of its 64 bits are drawn. Among 10 000 clients two are the same
/// once in 10^11 times.
pub(crate) fn draw_client(entropy: &dyn Entropy) -> Member {
    let drawn = entropy.next_u64();
    let (number, incarnation) = ((drawn >> 32) as u32, drawn as u32);
    // An incarnation is 1 or more, and the highest one means something among members.
    Member::new(number | FIRST_CLIENT, (incarnation >> 1) + 1)
}

/// Whether a cluster may be called this: it must fit into a certificate. So must a client.
pub(crate) fn is_name(name: &str) -> bool {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=64).contains(&name.len()) && name.bytes().all(ok)
}

/// Who it is within its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Who {
    /// The node of this number.
    Node(NodeId),
    /// A client of this name. Any number of processes may have the same.
    Client(String),
}

/// Who a certificate names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certified {
    pub(crate) cluster: String,
    pub(crate) who: Who,
}

impl Certified {
    pub(crate) fn node(cluster: &str, node: NodeId) -> Self {
        Self { cluster: cluster.to_owned(), who: Who::Node(node) }
    }

    pub(crate) fn client(cluster: &str, name: &str) -> Self {
        Self { cluster: cluster.to_owned(), who: Who::Client(name.to_owned()) }
    }

    /// The name in the certificate.
    pub(crate) fn uri(&self) -> String {
        match &self.who {
            Who::Node(node) => format!("duractor://{}/node/{node}", self.cluster),
            Who::Client(name) => format!("duractor://{}/client/{name}", self.cluster),
        }
    }

    /// Whether its holder may be this one.
    pub(crate) fn may_be(&self, member: Member) -> bool {
        match &self.who {
            Who::Node(node) => !is_client(member) && *node == member.node,
            Who::Client(_) => is_client(member),
        }
    }

    /// Whether it is a client's.
    pub(crate) fn is_clients(&self) -> bool {
        matches!(self.who, Who::Client(_))
    }

    fn parse(uri: &str) -> Option<Self> {
        let (cluster, rest) = uri.strip_prefix("duractor://")?.split_once('/')?;
        let certified = match rest.split_once('/')? {
            ("node", number) => Self::node(cluster, NodeId(number.parse().ok()?)),
            ("client", name) if is_name(name) => Self::client(cluster, name),
            _ => return None,
        };
        // One has one spelling: no leading zeros, no plus sign.
        (certified.uri() == uri).then_some(certified)
    }

    /// Who the first of a peer's certificates names. `None` where it names nobody, or several.
    pub(crate) fn of(certificates: Option<&[CertificateDer<'_>]>) -> Option<Self> {
        let der = certificates?.first()?;
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let names = certificate.subject_alternative_name().ok()??;
        let mut found = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with("duractor:") => Some(Self::parse(uri)),
            _ => None,
        });
        let first = found.next()??;
        found.next().is_none().then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_spelling() {
        let of = Certified::parse;
        assert_eq!(of("duractor://shop/node/2"), Some(Certified::node("shop", NodeId(2))));
        assert_eq!(of("duractor://shop/client/web-1"), Some(Certified::client("shop", "web-1")));
        for wrong in [
            "duractor://shop/node/02",
            "duractor://shop/node/+2",
            "duractor://shop/node/2/",
            "duractor://shop/node/",
            "duractor://shop",
            "https://shop/node/2",
            "duractor://shop/client/",
            "duractor://shop/client/a/b",
            "duractor://shop/Client/a",
        ] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn neither_kind_may_be_the_other() {
        let (node, client) = (Member::new(2, 1), Member::new(FIRST_CLIENT + 2, 1));
        let certified = Certified::node("shop", NodeId(2));
        assert!(certified.may_be(node) && !certified.may_be(client));
        let high = Certified::node("shop", client.node);
        assert!(!high.may_be(client), "a node's certificate with a client's number");
        let certified = Certified::client("shop", "web");
        assert!(certified.may_be(client) && !certified.may_be(node));
    }
}
