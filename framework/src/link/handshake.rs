//! Both sides of the handshake: who is it, of which cluster, and is it really now.
//!
//! TLS has already proved who holds the certificate. Here each side claims to be a member, which must
//! be the node that its certificate names; and each repeats a number that the other has just drawn, so
//! that a recorded handshake gets nowhere, on insecure links either.

use duractor_journal::{Member, env::Entropy};

use super::{
    config::DataLane,
    connection::{Secured, Wire},
    refusal::{Refusal, Refused},
    who::{Certified, is_client},
    wire::{Answer, Confirm, Hello, Nonce, Purpose, Speaker, Token, Welcome, hear, refuse, say},
};

/// Whom a handshake was with, and what both agreed on.
#[derive(Debug, Clone)]
pub(crate) struct Met {
    pub(crate) peer: Member,
    pub(crate) boot: u64,
    pub(crate) gateway: u64,
    pub(crate) purpose: Purpose,
    pub(crate) data_lane: DataLane,
    /// The session's name, where this connection begins one.
    pub(crate) token: Token,
    /// What ractor_cluster asks for: known to both sides alone.
    pub(crate) cookie: String,
    /// Sessions that the dialler lost, the last one last.
    pub(crate) lost: Vec<Token>,
    /// Who the peer's certificate names.
    pub(crate) name: Option<String>,
}

/// What is said of a connection of a process with itself.
pub(crate) const MYSELF: &str = "it is this process";

/// Decides whether a connection is wanted, when all is known about it.
pub(crate) type Decide<'a, T> = dyn Fn(&Met) -> Result<T, Refused> + Send + Sync + 'a;

pub(crate) fn nonce(entropy: &dyn Entropy) -> Nonce {
    let (high, low) = (entropy.next_u64(), entropy.next_u64());
    ((u128::from(high) << 64) | u128::from(low)).to_le_bytes()
}

/// The acceptor's side. `decide` runs when the peer has proved itself; what it returns is handed back
/// once the peer was told.
pub(crate) async fn accept<T>(
    mut secured: Secured,
    me: &Speaker,
    entropy: &dyn Entropy,
    decide: &Decide<'_, T>,
) -> Result<(Wire, Met, T), Refused> {
    let done = accept_on(&mut secured, me, entropy, decide).await;
    finish(secured, done).await
}

/// The dialler's side. `decide` runs when the peer has proved itself, before it is told that the
/// connection is wanted.
pub(crate) async fn dial<T>(
    mut secured: Secured,
    me: &Speaker,
    (purpose, data_lane): (Purpose, DataLane),
    entropy: &dyn Entropy,
    decide: &Decide<'_, (T, Vec<Token>)>,
) -> Result<(Wire, Met, T), Refused> {
    let hello = Hello {
        speaker: me.clone(),
        nonce: nonce(entropy),
        purpose,
        own_data: data_lane == DataLane::Own,
    };
    let done = dial_on(&mut secured, me, &hello, decide).await;
    finish(secured, done).await
}

async fn finish<T>(
    mut secured: Secured,
    done: Result<(Met, T), Refused>,
) -> Result<(Wire, Met, T), Refused> {
    match done {
        Ok((met, decided)) => Ok((secured.wire, met, decided)),
        Err(refused) => {
            if !refused.by_peer && refused.reason != Refusal::Closed {
                refuse(&mut secured.wire, &refused).await;
            }
            Err(refused)
        }
    }
}

async fn accept_on<T>(
    secured: &mut Secured,
    me: &Speaker,
    entropy: &dyn Entropy,
    decide: &Decide<'_, T>,
) -> Result<(Met, T), Refused> {
    // What the certificate says is checked before anything that the peer sends is read.
    check_certificate(secured.certified.as_ref(), secured.insecure, me)?;
    let wire = &mut secured.wire;
    let hello: Hello = hear(wire).await?;
    check_claim(secured.certified.as_ref(), &hello.speaker, me)?;
    let mine = nonce(entropy);
    say(wire, &Answer { speaker: me.clone(), nonce: mine, echo: hello.nonce }).await?;
    let confirm: Confirm = hear(wire).await?;
    if confirm.echo != mine {
        return Err(Refused::new(Refusal::Replay, format!("by {}", hello.speaker.member)));
    }
    let mut met = meet(&hello, &hello.speaker, hello.nonce, mine);
    met.lost = confirm.lost;
    met.name = secured.certified.as_ref().map(Certified::uri);
    let decided = decide(&met)?;
    say(wire, &Welcome { echo: hello.nonce }).await?;
    Ok((met, decided))
}

async fn dial_on<T>(
    secured: &mut Secured,
    me: &Speaker,
    hello: &Hello,
    decide: &Decide<'_, (T, Vec<Token>)>,
) -> Result<(Met, T), Refused> {
    check_certificate(secured.certified.as_ref(), secured.insecure, me)?;
    let wire = &mut secured.wire;
    say(wire, hello).await?;
    let answer: Answer = hear(wire).await?;
    check_claim(secured.certified.as_ref(), &answer.speaker, me)?;
    if is_client(answer.speaker.member) {
        return Err(Refused::new(Refusal::Role, "a client was dialled"));
    }
    if answer.echo != hello.nonce {
        return Err(Refused::new(Refusal::Replay, format!("by {}", answer.speaker.member)));
    }
    let met = meet(hello, &answer.speaker, hello.nonce, answer.nonce);
    let (decided, lost) = decide(&met)?;
    say(wire, &Confirm { echo: answer.nonce, lost }).await?;
    let welcome: Welcome = hear(wire).await?;
    if welcome.echo != hello.nonce {
        return Err(Refused::new(Refusal::Replay, format!("by {}", answer.speaker.member)));
    }
    Ok((met, decided))
}

fn meet(hello: &Hello, peer: &Speaker, diallers: Nonce, acceptors: Nonce) -> Met {
    let token = u128::from_le_bytes(diallers) ^ u128::from_le_bytes(acceptors);
    let cookie =
        format!("{:032x}{:032x}", u128::from_le_bytes(diallers), u128::from_le_bytes(acceptors));
    Met {
        peer: peer.member,
        boot: peer.boot,
        gateway: peer.gateway,
        purpose: hello.purpose,
        data_lane: hello.data_lane(),
        token: token.to_le_bytes(),
        cookie,
        lost: Vec::new(),
        name: None,
    }
}

fn check_certificate(
    certified: Option<&Certified>,
    insecure: bool,
    me: &Speaker,
) -> Result<(), Refused> {
    match certified {
        None if insecure => Ok(()),
        None => Err(Refused::new(Refusal::Node, "the certificate names neither node nor client")),
        Some(name) if name.cluster != me.cluster => {
            Err(Refused::new(Refusal::Cluster, format!("the certificate is of {}", name.uri())))
        }
        Some(_) => Ok(()),
    }
}

fn check_claim(
    certified: Option<&Certified>,
    speaker: &Speaker,
    me: &Speaker,
) -> Result<(), Refused> {
    if speaker.cluster != me.cluster {
        let detail = format!("it is of {:?}", speaker.cluster);
        return Err(Refused::new(Refusal::Cluster, detail));
    }
    let client = is_client(speaker.member);
    if let Some(name) = certified.filter(|name| !name.may_be(speaker.member)) {
        let reason = if name.is_clients() == client { Refusal::Node } else { Refusal::Role };
        let detail = format!("it claims to be {} with the name {}", speaker.member, name.uri());
        return Err(Refused::new(reason, detail));
    }
    if client && is_client(me.member) {
        return Err(Refused::new(Refusal::Role, "both are clients"));
    }
    if speaker.member.node.0 == 0 || speaker.member.incarnation == 0 {
        return Err(Refused::new(Refusal::Node, format!("{} is no member", speaker.member)));
    }
    if speaker.member.node == me.member.node && !client {
        let detail =
            if speaker.boot == me.boot { MYSELF } else { "another process has its number" };
        return Err(Refused::new(Refusal::Myself, detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use duractor_journal::NodeId;

    use super::{super::who::FIRST_CLIENT, *};

    fn speaker(member: Member) -> Speaker {
        Speaker { cluster: "shop".into(), member, boot: u64::from(member.node.0), gateway: 0 }
    }

    /// Cause: what a certificate says and what its holder claims are two things. Consequence of not
    /// comparing them: whoever may ask entities could vote in groups, or answer in a node's name.
    #[test]
    fn a_certificate_of_one_kind_does_not_get_through_as_the_other() {
        let (node, client) = (Member::new(2, 1), Member::new(FIRST_CLIENT + 2, 1));
        let (of_node, of_client) =
            (Certified::node("shop", NodeId(2)), Certified::client("shop", "web"));
        let me = speaker(Member::new(1, 1));
        let check = |name: &Certified, claim, me: &Speaker| {
            check_claim(Some(name), &speaker(claim), me).map_err(|refused| refused.reason)
        };
        assert_eq!(check(&of_node, node, &me), Ok(()));
        assert_eq!(check(&of_client, client, &me), Ok(()));
        assert_eq!(check(&of_client, node, &me), Err(Refusal::Role));
        assert_eq!(check(&of_node, client, &me), Err(Refusal::Role));
        assert_eq!(check(&of_node, Member::new(3, 1), &me), Err(Refusal::Node));
        // A client takes nobody but nodes for the cluster.
        let me = speaker(Member::new(FIRST_CLIENT + 1, 1));
        assert_eq!(check(&of_node, node, &me), Ok(()));
        assert_eq!(check(&of_client, node, &me), Err(Refusal::Role));
        assert_eq!(check(&of_client, client, &me), Err(Refusal::Role));
    }
}
