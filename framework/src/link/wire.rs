//! What goes over connections: the messages of the handshake, and records after it.
//!
//! A message of the handshake is the same in all versions up to its length:
//!
//! ```text
//! 0        8      9          11         13       15
//! ├────────┼──────┼──────────┼──────────┼────────┼──────────────┐
//! │DURALINK│ kind │ lowest   │ highest  │ length │ postcard ... │
//! │        │  u8  │ version  │ version  │  u16   │ ≤ 1024 bytes │
//! └────────┴──────┴──────────┴──────────┴────────┴──────────────┘
//! ```
//!
//! Who dials says `Hello`, hears `Answer`, says `Confirm`, hears `Welcome`. Either side may say
//! `Refuse` instead, and that is the end.
//!
//! Then come records, each for itself or many to a parcel of the session:
//!
//! ```text
//! 0      1         2        6
//! ├──────┼─────────┼────────┼─────────┐
//! │ kind │ channel │ length │ bytes   │   numbers are little-endian
//! │  u8  │   u8    │  u32   │         │
//! └──────┴─────────┴────────┴─────────┘
//! ```

use duractor_journal::{Member, transport::Class};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    config::DataLane,
    refusal::{Refusal, Refused},
};

const MAGIC: [u8; 8] = *b"DURALINK";
const PREFIX: usize = 15;
/// The longest body of a message of the handshake.
pub(crate) const MAX_MESSAGE: usize = 1024;

/// Versions of the protocol, from the lowest to the highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Versions {
    pub(crate) lowest: u16,
    pub(crate) highest: u16,
}

/// What this node speaks.
pub(crate) const SPOKEN: Versions = Versions { lowest: 1, highest: 1 };

impl Versions {
    /// The highest that both speak.
    pub(crate) fn common(self, other: Self) -> Option<u16> {
        let highest = self.highest.min(other.highest);
        (highest >= self.lowest.max(other.lowest)).then_some(highest)
    }
}

/// A random number that is used once.
pub(crate) type Nonce = [u8; 16];

/// What both sides call a session; only they know it.
pub(crate) type Token = [u8; 16];

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Purpose {
    /// A new session.
    Session,
    /// The Data lane of this session.
    Data(Token),
    /// The Bulk lane of this session.
    Bulk(Token),
}

/// Who speaks: in `Hello` and `Answer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Speaker {
    pub(crate) cluster: String,
    pub(crate) member: Member,
    /// Drawn when the process started.
    pub(crate) boot: u64,
    /// The gateway's number among the process's actors.
    pub(crate) gateway: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) speaker: Speaker,
    pub(crate) nonce: Nonce,
    pub(crate) purpose: Purpose,
    /// Whether Data has a lane of its own in this session.
    pub(crate) own_data: bool,
}

impl Hello {
    pub(crate) fn data_lane(&self) -> DataLane {
        if self.own_data { DataLane::Own } else { DataLane::Session }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) speaker: Speaker,
    pub(crate) nonce: Nonce,
    /// The dialler's nonce.
    pub(crate) echo: Nonce,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Confirm {
    /// The acceptor's nonce.
    pub(crate) echo: Nonce,
    /// Sessions with this peer that the dialler lost, the last one last.
    pub(crate) lost: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Welcome {
    /// The dialler's nonce.
    pub(crate) echo: Nonce,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Refuse {
    reason: u8,
    detail: String,
}

/// A message of the handshake.
pub(crate) trait Message: Serialize + DeserializeOwned {
    const KIND: u8;
}

impl Message for Hello {
    const KIND: u8 = 1;
}
impl Message for Answer {
    const KIND: u8 = 2;
}
impl Message for Confirm {
    const KIND: u8 = 3;
}
impl Message for Welcome {
    const KIND: u8 = 4;
}
impl Message for Refuse {
    const KIND: u8 = 5;
}

/// The numbers of reasons on the wire. Never change one.
const REASONS: [(u8, Refusal); 17] = [
    (1, Refusal::Crowded),
    (2, Refusal::Deadline),
    (3, Refusal::Closed),
    (4, Refusal::Tls),
    (5, Refusal::Certificate),
    (6, Refusal::Protocol),
    (7, Refusal::TooLong),
    (8, Refusal::Version),
    (9, Refusal::Cluster),
    (10, Refusal::Node),
    (11, Refusal::Replay),
    (12, Refusal::Myself),
    (13, Refusal::Duplicate),
    (14, Refusal::NoSession),
    (15, Refusal::Closing),
    (16, Refusal::Clients),
    (17, Refusal::Role),
];

fn encode<M: Message>(message: &M, versions: Versions) -> Result<Vec<u8>, Refused> {
    let body = postcard::to_stdvec(message)
        .map_err(|error| Refused::new(Refusal::Protocol, format!("cannot be encoded: {error}")))?;
    let mut bytes = Vec::with_capacity(PREFIX + body.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.push(M::KIND);
    bytes.extend_from_slice(&versions.lowest.to_le_bytes());
    bytes.extend_from_slice(&versions.highest.to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// Sends a message of the handshake.
pub(crate) async fn say<S: AsyncWrite + Unpin, M: Message>(
    stream: &mut S,
    message: &M,
) -> Result<(), Refused> {
    let bytes = encode(message, SPOKEN)?;
    stream.write_all(&bytes).await.map_err(broken)?;
    stream.flush().await.map_err(broken)
}

/// Tells the peer why it is refused, if it still listens.
pub(crate) async fn refuse<S: AsyncWrite + Unpin>(stream: &mut S, refused: &Refused) {
    let reason = REASONS.iter().find(|(_, reason)| *reason == refused.reason);
    let mut detail = refused.detail.clone();
    while detail.len() > 200 {
        detail.pop();
    }
    let refuse = Refuse { reason: reason.map_or(0, |(number, _)| *number), detail };
    if say(stream, &refuse).await.is_ok() {
        let _ = stream.shutdown().await;
    }
}

/// Hears a message of the handshake. Reads no more than it, and nothing that is too long.
pub(crate) async fn hear<S: AsyncRead + Unpin, M: Message>(stream: &mut S) -> Result<M, Refused> {
    let mut prefix = [0; PREFIX];
    // Strangers are found out by their first bytes, not when they have sent enough.
    stream.read_exact(&mut prefix[..MAGIC.len()]).await.map_err(broken)?;
    if prefix[..MAGIC.len()] != MAGIC {
        let detail = format!("it begins with {:02x?}", &prefix[..MAGIC.len()]);
        return Err(Refused::new(Refusal::Protocol, detail));
    }
    stream.read_exact(&mut prefix[MAGIC.len()..]).await.map_err(broken)?;
    let number = |at: usize| u16::from_le_bytes([prefix[at], prefix[at + 1]]);
    let (kind, theirs) = (prefix[8], Versions { lowest: number(9), highest: number(11) });
    let length = usize::from(number(13));
    if length > MAX_MESSAGE {
        return Err(Refused::new(Refusal::TooLong, format!("{length} bytes")));
    }
    let mut body = [0; MAX_MESSAGE];
    stream.read_exact(&mut body[..length]).await.map_err(broken)?;
    if kind == Refuse::KIND {
        let told: Refuse = decode(&body[..length])?;
        let reason = REASONS.iter().find(|(number, _)| *number == told.reason);
        let reason = reason.map_or(Refusal::Other, |(_, reason)| *reason);
        return Err(Refused::by_peer(reason, told.detail.escape_debug()));
    }
    if SPOKEN.common(theirs).is_none() {
        let detail = format!(
            "it speaks {} to {}, this node {} to {}",
            theirs.lowest, theirs.highest, SPOKEN.lowest, SPOKEN.highest
        );
        return Err(Refused::new(Refusal::Version, detail));
    }
    if kind != M::KIND {
        return Err(Refused::new(Refusal::Protocol, format!("message {kind} out of turn")));
    }
    decode(&body[..length])
}

fn decode<M: Message>(bytes: &[u8]) -> Result<M, Refused> {
    postcard::from_bytes(bytes).map_err(|error| Refused::new(Refusal::Protocol, error))
}

/// What a broken connection means during the handshake.
pub(crate) fn broken(error: std::io::Error) -> Refused {
    use rustls::{AlertDescription as Alert, Error};
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match tls {
        Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented) => {
            Refused::new(Refusal::Certificate, error)
        }
        Some(Error::AlertReceived(
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateRequired
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::CertificateUnknown
            | Alert::UnsupportedCertificate
            | Alert::DecryptError,
        )) => Refused::by_peer(Refusal::Certificate, error),
        Some(Error::AlertReceived(_)) => Refused::by_peer(Refusal::Tls, error),
        Some(_) => Refused::new(Refusal::Tls, error),
        None => Refused::new(Refusal::Closed, error),
    }
}

/// The length of a record's head.
pub(crate) const RECORD_HEAD: usize = 6;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The last piece of a frame of this class, or all of it.
    Frame(Class),
    /// A piece of a Data frame, with more to come.
    Piece,
    /// How many bytes of each class were taken so far: three numbers of 8 bytes.
    Credit,
    /// A sign of life.
    Beat,
}

impl Kind {
    const fn number(self) -> u8 {
        match self {
            Self::Frame(Class::Control) => 1,
            Self::Frame(Class::Data) => 2,
            Self::Frame(Class::Bulk) => 3,
            Self::Piece => 4,
            Self::Credit => 5,
            Self::Beat => 6,
        }
    }

    fn of(number: u8) -> Option<Self> {
        [
            Self::Frame(Class::Control),
            Self::Frame(Class::Data),
            Self::Frame(Class::Bulk),
            Self::Piece,
            Self::Credit,
            Self::Beat,
        ]
        .into_iter()
        .find(|kind| kind.number() == number)
    }
}

/// A record's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    pub(crate) channel: u8,
    pub(crate) length: usize,
}

impl Head {
    pub(crate) fn encode(self) -> [u8; RECORD_HEAD] {
        let length = (self.length as u32).to_le_bytes();
        [self.kind.number(), self.channel, length[0], length[1], length[2], length[3]]
    }

    /// `None` where it is nonsense.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let head: [u8; RECORD_HEAD] = bytes.get(..RECORD_HEAD)?.try_into().ok()?;
        let length = u32::from_le_bytes([head[2], head[3], head[4], head[5]]) as usize;
        Some(Self { kind: Kind::of(head[0])?, channel: head[1], length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        let member = Member::new(2, 1);
        let speaker = Speaker { cluster: "shop".into(), member, boot: 7, gateway: 3 };
        Hello { speaker, nonce: [9; 16], purpose: Purpose::Session, own_data: true }
    }

    #[tokio::test]
    async fn a_message_comes_as_it_was_said() {
        let mut bytes = Vec::new();
        say(&mut bytes, &hello()).await.ok().unwrap();
        let heard: Hello = hear(&mut bytes.as_slice()).await.ok().unwrap();
        assert_eq!(heard, hello());
    }

    #[tokio::test]
    async fn other_versions_are_told_apart_from_garbage() {
        let later = Versions { lowest: 2, highest: 9 };
        let bytes = encode(&hello(), later).ok().unwrap();
        let refused = hear::<_, Hello>(&mut bytes.as_slice()).await.unwrap_err();
        assert_eq!(refused.reason, Refusal::Version);
        assert!(refused.detail.contains("2 to 9"), "{}", refused.detail);

        let refused = hear::<_, Hello>(&mut &[0_u8; 64][..]).await.unwrap_err();
        assert_eq!(refused.reason, Refusal::Protocol);
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_is_not_read() {
        let mut bytes = encode(&hello(), SPOKEN).ok().unwrap();
        bytes[13..15].copy_from_slice(&1025_u16.to_le_bytes());
        let refused = hear::<_, Hello>(&mut bytes.as_slice()).await.unwrap_err();
        assert_eq!(refused.reason, Refusal::TooLong);
    }

    #[tokio::test]
    async fn a_refusal_reaches_the_peer_with_its_reason() {
        let mut bytes = Vec::new();
        refuse(&mut bytes, &Refused::new(Refusal::Cluster, "of shop")).await;
        let refused = hear::<_, Hello>(&mut bytes.as_slice()).await.unwrap_err();
        assert!(refused.by_peer);
        assert_eq!((refused.reason, refused.detail.as_str()), (Refusal::Cluster, "of shop"));
    }

    #[test]
    fn versions_in_common() {
        let of = |lowest, highest| Versions { lowest, highest };
        assert_eq!(of(1, 3).common(of(2, 5)), Some(3));
        assert_eq!(of(1, 1).common(of(2, 5)), None);
        assert_eq!(of(4, 9).common(of(2, 5)), Some(5));
    }

    #[test]
    fn heads_come_back() {
        for number in 0..=255 {
            let Some(kind) = Kind::of(number) else { continue };
            let head = Head { kind, channel: 4, length: 70_000 };
            assert_eq!(Head::decode(&head.encode()), Some(head));
        }
        assert_eq!(Head::decode(&[9, 0, 0, 0, 0, 0]), None);
        assert_eq!(Head::decode(&[1, 0]), None);
    }
}
