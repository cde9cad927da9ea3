//! The transport's suite catches what it is meant to: one bug at a time, on the transport in memory.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use duractor_journal::{
    Member, Transport,
    transport::{
        Channel, Class, Event, Receiver, SendError,
        contract::{self, Provider, guard},
        memory::MemoryNetwork,
    },
};
use futures_util::FutureExt;

/// What is wrong with the transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    FrameTwice,
    FrameLost,
    FramesSwapped,
    FrameChanged,
    AnyChannel,
    StrangersReached,
    AnyLength,
    NeverFull,
    ControlBehindBulk,
    NoDown,
    FrameAfterDown,
    FrameBeforeUp,
    OldSessionNumber,
    NewReceiverNotTold,
    ForgetsNothing,
}

struct Nodes(MemoryNetwork, Bug);

impl Provider for Nodes {
    async fn start(&self, node: u32) -> Arc<dyn Transport> {
        let inner = self.0.start(Member::new(node, 1), &self.address(node));
        Arc::new(Broken {
            inner,
            bug: self.1,
            held_back: Mutex::default(),
            listened: AtomicBool::new(false),
        })
    }

    async fn stop(&self, node: u32) {
        self.0.stop(&self.address(node));
    }

    fn address(&self, node: u32) -> String {
        format!("node-{node}:1")
    }

    fn hold(&self, node: u32, held: bool) {
        let address = self.address(node);
        if held { self.0.hold(&address) } else { self.0.release(&address) }
    }
}

struct Broken {
    inner: Arc<dyn Transport>,
    bug: Bug,
    held_back: Mutex<Option<Bytes>>,
    listened: AtomicBool,
}

impl Transport for Broken {
    fn me(&self) -> Member {
        self.inner.me()
    }

    fn max_frame_bytes(&self) -> usize {
        self.inner.max_frame_bytes()
    }

    fn send(
        &self,
        to: Member,
        channel: Channel,
        class: Class,
        frame: Bytes,
    ) -> Result<(), SendError> {
        let send = |class, frame| self.inner.send(to, channel, class, frame);
        let seventh = frame.len() > 100 && frame[0] % 7 == 6;
        match self.bug {
            Bug::FrameTwice if seventh => {
                send(class, frame.clone()).and_then(|()| send(class, frame))
            }
            Bug::FrameLost if seventh => Ok(()),
            Bug::FramesSwapped if class == Class::Data => {
                let mut held_back = self.held_back.lock().unwrap();
                match held_back.take() {
                    None if seventh => *held_back = Some(frame),
                    None => return send(class, frame),
                    Some(earlier) => {
                        send(class, frame).unwrap();
                        return send(class, earlier);
                    }
                }
                Ok(())
            }
            Bug::FrameChanged if seventh => {
                let mut bytes = frame.to_vec();
                bytes[50] ^= 1;
                send(class, bytes.into())
            }
            Bug::AnyChannel => self.inner.send(to, Channel::Journal, class, frame),
            Bug::StrangersReached => match send(class, frame) {
                Err(SendError::NotConnected) => Ok(()),
                sent => sent,
            },
            Bug::AnyLength => {
                let length = frame.len().min(self.max_frame_bytes());
                send(class, frame.slice(..length))
            }
            Bug::NeverFull => match send(class, frame) {
                Err(SendError::Full) => Ok(()),
                sent => sent,
            },
            Bug::ControlBehindBulk => send(Class::Bulk, frame),
            _ => send(class, frame),
        }
    }

    fn listen(&self, channel: Channel, receiver: Arc<dyn Receiver>) {
        let newer = self.listened.swap(true, SeqCst);
        let relay = Relay { to: receiver, bug: self.bug, newer, state: Mutex::default() };
        self.inner.listen(channel, Arc::new(relay));
    }

    fn reach(&self, address: &str) {
        self.inner.reach(address);
    }

    fn forget(&self, address: &str) {
        if self.bug != Bug::ForgetsNothing {
            self.inner.forget(address);
        }
    }

    fn peers(&self) -> Vec<Member> {
        self.inner.peers()
    }
}

#[derive(Default)]
struct State {
    begun: HashMap<Member, u64>,
    frame: Option<Event>,
    early: Vec<Event>,
}

struct Relay {
    to: Arc<dyn Receiver>,
    bug: Bug,
    /// Whether it took the place of another.
    newer: bool,
    state: Mutex<State>,
}

impl Receiver for Relay {
    fn event(&self, mut event: Event) {
        let state = &mut *self.state.lock().unwrap();
        match (self.bug, &mut event) {
            (Bug::NoDown, Event::Down { .. }) => return,
            (
                Bug::OldSessionNumber,
                Event::Up { peer, session } | Event::Down { peer, session },
            ) => {
                *session = *state.begun.entry(*peer).or_insert(*session);
            }
            (Bug::OldSessionNumber, Event::Frame { from, session, .. }) => {
                *session = state.begun[from];
            }
            (Bug::FrameAfterDown, Event::Frame { .. }) if state.frame.is_none() => {
                state.frame = Some(event);
                return;
            }
            (Bug::FrameAfterDown, Event::Down { .. }) => {
                self.to.event(event);
                return state.frame.take().into_iter().for_each(|frame| self.to.event(frame));
            }
            (Bug::FrameBeforeUp, Event::Up { .. }) => {
                state.early.push(event);
                return;
            }
            (Bug::FrameBeforeUp, Event::Frame { .. }) => {
                self.to.event(event);
                return state.early.drain(..).for_each(|up| self.to.event(up));
            }
            (Bug::NewReceiverNotTold, Event::Up { .. }) => {
                if self.newer {
                    return;
                }
            }
            _ => {}
        }
        self.to.event(event);
    }
}

macro_rules! catches {
    ($($test:ident: $bug:ident by $case:ident;)+) => {$(
        /// Hanging counts as caught: the clock is paused, so that it takes no time.
        #[tokio::test(start_paused = true)]
        async fn $test() {
            let sound = Nodes(MemoryNetwork::new(), Bug::None);
            guard(stringify!($case), contract::$case(&sound)).await;
            let broken = Nodes(MemoryNetwork::new(), Bug::$bug);
            let case = guard(stringify!($case), contract::$case(&broken));
            let caught = AssertUnwindSafe(case).catch_unwind().await;
            assert!(caught.is_err(), "{} passes with {:?}", stringify!($case), Bug::$bug);
        }
    )+};
}

catches! {
    a_frame_that_comes_twice: FrameTwice by frames_come_once_each_in_order;
    a_frame_that_is_lost: FrameLost by frames_come_once_each_in_order;
    frames_that_are_swapped: FramesSwapped by frames_come_once_each_in_order;
    a_frame_that_is_changed: FrameChanged by frames_come_once_each_in_order;
    frames_on_any_channel: AnyChannel by channels_are_apart;
    strangers_that_are_reached: StrangersReached by an_unknown_peer_is_not_connected;
    frames_of_any_length: AnyLength by the_longest_frames_fit_and_no_longer;
    a_link_that_is_never_full: NeverFull by a_peer_that_does_not_read_fills_the_link;
    control_behind_bulk: ControlBehindBulk by bulk_does_not_hold_up_control;
    no_end_announced: NoDown by a_restarted_peer_gets_a_new_session;
    a_frame_after_the_end: FrameAfterDown by up_comes_before_frames_and_down_after;
    a_frame_before_the_beginning: FrameBeforeUp by up_comes_before_frames_and_down_after;
    sessions_with_the_same_number: OldSessionNumber by a_restarted_peer_gets_a_new_session;
    a_new_receiver_that_is_not_told: NewReceiverNotTold by a_new_receiver_is_told_who_is_up;
    an_address_that_is_not_forgotten: ForgetsNothing by forgetting_gives_up_the_link;
}
