//! The desk: answers at once what needs no waiting, and passes on the rest.
//!
//! It must never wait for the journal: a quorum forms only when peers are let in, and that is done
//! here.

use std::sync::{Arc, Weak};

use duractor_journal::{
    Member,
    transport::{Event, Receiver},
};
use ractor::ActorRef;

use super::{
    error::Refusal,
    hello::{check_peer, client_comes, client_goes, say_hello, turn_away},
    manager::ManagerMessage,
    probe::answer_probe,
    shared::Shared,
    wire::{Message, Reply, Request, decode},
};
use crate::link::is_client;

/// Hears what arrives on the cluster's channel.
pub(super) struct Desk {
    pub(super) shared: Weak<Shared>,
    pub(super) manager: ActorRef<ManagerMessage>,
}

impl Receiver for Desk {
    fn event(&self, event: Event) {
        let Some(shared) = self.shared.upgrade() else { return };
        match event {
            Event::Up { peer, session } if is_client(peer) => client_comes(&shared, peer, session),
            Event::Down { peer, session } if is_client(peer) => client_goes(&shared, peer, session),
            // Members are told and asked by members.
            Event::Frame { from, .. } if is_client(from) => {
                tracing::warn!(%from, "a client has nothing to say about the cluster: not heard");
            }
            Event::Up { peer, session } => {
                shared.session_up(peer, session);
                say_hello(&shared, peer);
            }
            Event::Down { peer, session } => shared.session_down(peer, session),
            Event::Frame { from, session, frame } => match decode(&frame) {
                Ok(message) => self.take(&shared, from, session, message),
                Err(reason) => {
                    tracing::warn!(%from, reason, "a message of the cluster is not understood");
                    shared.problem(&format!("node {}", from.node), Some(reason));
                }
            },
        }
    }
}

impl Desk {
    fn take(&self, shared: &Arc<Shared>, from: Member, session: u64, message: Message) {
        let known = shared.gate.is_admitted(from);
        match message {
            // Who is out has nothing to say to members, nor to hear from them.
            Message::Hello { .. } if shared.out().is_some() => {}
            Message::Hello { cluster_id, cluster, known } => {
                match check_peer(shared, from, cluster_id, &cluster) {
                    Ok(()) => {
                        shared.heard_well(from);
                        shared.gate.admit(from, session);
                        // What was said first may have come before the peer listened.
                        if !known {
                            say_hello(shared, from);
                        }
                    }
                    Err(refusal) => {
                        tracing::warn!(%from, %refusal, "a node is refused");
                        turn_away(shared, from, refusal);
                    }
                }
            }
            Message::Refused { cluster_id, refusal } => {
                // A stranger's word does not put a member out.
                let out = refusal.is_final() && cluster_id == shared.identity().cluster_id;
                shared.refused_by(from, refusal, out);
            }
            Message::Ask { id, request: Request::Which } => {
                let identity = shared.identity();
                let (cluster_id, cluster) = (identity.cluster_id, identity.cluster);
                let reply = Reply::Cluster { cluster_id, cluster };
                shared.calls.tell(from, &Message::Answer { id, reply });
            }
            Message::Ask { id, request: Request::Probe { member } } if known => {
                shared.spawn(answer_probe(shared.clone(), (from, id), member));
            }
            Message::Ask { id, request } if known || matches!(request, Request::Join { .. }) => {
                // A manager that is gone answers nobody; whoever asks tries another node.
                let _ = self.manager.cast(ManagerMessage::Asked { from, id, request });
            }
            Message::Ask { id, .. } => {
                let refusal = Refusal::NotNow { reason: "you are not let in yet".into() };
                shared.calls.tell(from, &Message::Answer { id, reply: Reply::Refused { refusal } });
            }
            Message::Answer { id, reply } => shared.calls.answered(from, id, reply),
            Message::Report { groups, about, loads } if known => {
                shared.reported(from, groups);
                shared.told(from, about, loads);
            }
            Message::Overview { term, status } if known => shared.take_overview(term, *status),
            // The last is for clients.
            Message::Report { .. } | Message::Overview { .. } | Message::Members { .. } => {}
        }
    }
}
