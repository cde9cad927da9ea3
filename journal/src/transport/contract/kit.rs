//! What the cases are written with.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::Notify;

use super::{
    super::{Channel, Class, Event, Member, Receiver, SendError, Transport},
    Provider,
};

/// Keeps all that it hears.
#[derive(Default)]
pub(super) struct Recorder {
    events: Mutex<Vec<Event>>,
    more: Notify,
}

impl Receiver for Recorder {
    fn event(&self, event: Event) {
        self.lock().push(event);
        self.more.notify_waiters();
    }
}

impl Recorder {
    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until what was heard satisfies `found`.
    pub(super) async fn until<T>(&self, found: impl Fn(&[Event]) -> Option<T>) -> T {
        loop {
            let mut more = std::pin::pin!(self.more.notified());
            more.as_mut().enable();
            if let Some(found) = found(&self.lock()) {
                return found;
            }
            more.await;
        }
    }

    /// Waits for the beginning of the `count`th session with a peer: its number.
    pub(super) async fn up(&self, of: Member, count: usize) -> u64 {
        self.until(|events| {
            let ups = events.iter().filter_map(|event| match event {
                Event::Up { peer, session } if *peer == of => Some(*session),
                _ => None,
            });
            ups.clone().nth(count - 1)
        })
        .await
    }

    /// Waits for the end of a session.
    pub(super) async fn down(&self, of: Member, number: u64) {
        let down = Event::Down { peer: of, session: number };
        self.until(|events| events.contains(&down).then_some(())).await;
    }

    /// Waits until `count` frames have come: all frames that have.
    pub(super) async fn frames(&self, count: usize) -> Vec<Bytes> {
        self.until(|events| {
            let frames: Vec<_> = frames_of(events).cloned().collect();
            (frames.len() >= count).then_some(frames)
        })
        .await
    }
}

/// The frames among events.
pub(super) fn frames_of(events: &[Event]) -> impl Iterator<Item = &Bytes> {
    events.iter().filter_map(|event| match event {
        Event::Frame { frame, .. } => Some(frame),
        _ => None,
    })
}

/// A node, and what it hears on [`Channel::Journal`].
pub(super) struct Node {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) heard: Arc<Recorder>,
}

impl Node {
    pub(super) async fn start(provider: &impl Provider, node: u32) -> Self {
        let transport = provider.start(node).await;
        let heard = Arc::new(Recorder::default());
        transport.listen(Channel::Journal, heard.clone());
        Self { transport, heard }
    }

    pub(super) fn me(&self) -> Member {
        self.transport.me()
    }

    /// Sends a frame, again and again while the link is full.
    pub(super) async fn send(&self, to: &Node, class: Class, frame: Bytes) {
        loop {
            match self.transport.send(to.me(), Channel::Journal, class, frame.clone()) {
                Ok(()) => return,
                Err(SendError::Full) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) => panic!("a frame of {class:?} was not sent: {error}"),
            }
        }
    }
}

/// Two nodes with a link that the first one asked for.
pub(super) async fn pair(provider: &impl Provider) -> (Node, Node) {
    let (one, two) = (Node::start(provider, 1).await, Node::start(provider, 2).await);
    one.transport.reach(&provider.address(2));
    one.heard.up(two.me(), 1).await;
    two.heard.up(one.me(), 1).await;
    (one, two)
}

/// A frame with a number and so many bytes, which follow from the number.
pub(super) fn numbered(number: u64, bytes: usize) -> Bytes {
    let mut frame = number.to_le_bytes().to_vec();
    frame.extend((0..bytes).map(|at| (number as usize + at) as u8));
    frame.into()
}

/// The number of such a frame, which must be as it was made.
pub(super) fn number_of(frame: &Bytes) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&frame[..8]);
    let number = u64::from_le_bytes(number);
    assert!(*frame == numbered(number, frame.len() - 8), "frame {number} was changed");
    number
}
