//! The cases.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    super::{Channel, Class, Event, Member, SendError},
    Provider,
    kit::{Node, Recorder, frames_of, number_of, numbered, pair},
};

const CLASSES: [Class; 3] = [Class::Control, Class::Data, Class::Bulk];

/// Frames of one class come in the order in which they were sent, each once, unchanged; however the
/// classes are mixed, and in both directions at once.
pub async fn frames_come_once_each_in_order(provider: &impl Provider) {
    const EACH: u64 = 1000;
    let (one, two) = pair(provider).await;
    let flood = async |from: &Node, to: &Node| {
        for number in 0..EACH {
            for (at, class) in (0_u64..).zip(CLASSES) {
                let bytes = if number % 100 == 99 && at > 0 { 200_000 } else { number as usize };
                from.send(to, class, numbered(at * EACH + number, bytes)).await;
            }
        }
    };
    futures_util::future::join(flood(&one, &two), flood(&two, &one)).await;
    for node in [&one, &two] {
        let frames = node.heard.frames(3 * EACH as usize).await;
        let numbers: Vec<_> = frames.iter().map(number_of).collect();
        for class in 0..3 {
            let of_class: Vec<_> = numbers.iter().copied().filter(|n| n / EACH == class).collect();
            let expected: Vec<_> = (class * EACH..(class + 1) * EACH).collect();
            assert!(of_class == expected, "class {class} came as {of_class:?}");
        }
    }
}

/// A frame is heard on its own channel alone. One that nobody listens for is lost, and those after it
/// come.
pub async fn channels_are_apart(provider: &impl Provider) {
    let (one, two) = pair(provider).await;
    let cluster = Arc::new(Recorder::default());
    two.transport.listen(Channel::Cluster, cluster.clone());
    for class in CLASSES {
        for channel in [Channel::Entities, Channel::Cluster, Channel::Journal] {
            let frame = Bytes::from(vec![channel as u8; 5]);
            one.transport.send(two.me(), channel, class, frame).expect("it was sent");
        }
    }
    for (heard, channel) in [(&two.heard, Channel::Journal), (&cluster, Channel::Cluster)] {
        let frames = heard.frames(3).await;
        assert!(frames.iter().all(|frame| frame[..] == [channel as u8; 5]), "{frames:?}");
    }
}

/// No frame of a session comes before its beginning or after its end, and all carry its number.
pub async fn up_comes_before_frames_and_down_after(provider: &impl Provider) {
    let (one, two) = pair(provider).await;
    let third = Node::start(provider, 3).await;
    third.transport.reach(&provider.address(2));
    third.heard.up(two.me(), 1).await;
    let session = two.heard.up(one.me(), 1).await;
    for number in 0..3000 {
        for class in CLASSES {
            one.send(&two, class, numbered(number, 300)).await;
        }
        if number % 100 == 0 {
            third.send(&two, Class::Data, numbered(number, 300)).await;
        }
    }
    provider.stop(1).await;
    two.heard.down(one.me(), session).await;
    // What comes from another peer now comes after anything late from the first.
    third.send(&two, Class::Data, numbered(7_000_000, 0)).await;
    two.heard
        .until(|events| frames_of(events).any(|f| number_of(f) == 7_000_000).then_some(()))
        .await;
    let events = two.heard.lock();
    let of_one = |event: &&Event| match event {
        Event::Up { peer, .. } | Event::Down { peer, .. } => *peer == one.me(),
        Event::Frame { from, .. } => *from == one.me(),
    };
    let events: Vec<_> = events.iter().filter(of_one).collect();
    let last = events.len() - 1;
    for (at, event) in events.into_iter().enumerate() {
        let (expected, number) = match event {
            Event::Up { session, .. } => (at == 0, session),
            Event::Down { session, .. } => (at == last, session),
            Event::Frame { session, .. } => (at != 0 && at != last, session),
        };
        assert!(expected, "event {at} of {last} is {event:?}");
        assert_eq!(*number, session, "event {at}");
    }
}

/// A peer that ended and was started again has another session; the first one's end came before.
pub async fn a_restarted_peer_gets_a_new_session(provider: &impl Provider) {
    let (one, two) = pair(provider).await;
    let first = one.heard.up(two.me(), 1).await;
    provider.stop(2).await;
    one.heard.down(two.me(), first).await;
    let refused =
        one.transport.send(two.me(), Channel::Journal, Class::Data, Bytes::from_static(b"lost"));
    if refused.is_err() {
        assert_eq!(refused, Err(SendError::NotConnected));
    }
    let again = Node::start(provider, 2).await;
    let second = one.heard.up(two.me(), 2).await;
    assert_ne!(first, second);
    again.heard.up(one.me(), 1).await;
    one.send(&again, Class::Data, numbered(1, 10)).await;
    again.send(&one, Class::Data, numbered(2, 10)).await;
    assert_eq!(number_of(&again.heard.frames(1).await[0]), 1);
    one.heard.frames(1).await;
    let late = Event::Frame { from: two.me(), session: second, frame: numbered(2, 10) };
    assert!(one.heard.lock().contains(&late), "the frame is of the second session");
    assert_eq!(one.transport.peers(), [two.me()]);
}

/// A peer that reads nothing makes the link full after a bounded number of bytes, class by class.
/// What was taken comes when it reads again.
pub async fn a_peer_that_does_not_read_fills_the_link(provider: &impl Provider) {
    const MOST: usize = 256 << 20;
    let (one, two) = pair(provider).await;
    provider.hold(2, true);
    let mut sent = 0;
    for (class, bytes) in [(Class::Bulk, 60_000), (Class::Data, 60_000), (Class::Control, 1000)] {
        let mut total = 0;
        loop {
            let frame = numbered(sent, bytes);
            match one.transport.send(two.me(), Channel::Journal, class, frame) {
                Ok(()) => (sent, total) = (sent + 1, total + bytes),
                Err(SendError::Full) => break,
                Err(error) => panic!("{class:?} after {total} bytes: {error}"),
            }
            assert!(total <= MOST, "{class:?} took {total} bytes for a peer that reads nothing");
            tokio::task::yield_now().await;
        }
        let least = if class == Class::Control { 60 << 10 } else { 1 << 20 };
        assert!(total >= least, "{class:?} was full after {total} bytes");
    }
    provider.hold(2, false);
    let frames = two.heard.frames(sent as usize).await;
    let mut numbers: Vec<_> = frames.iter().map(number_of).collect();
    numbers.sort_unstable();
    assert!(numbers == (0..sent).collect::<Vec<_>>(), "something of what was taken is missing");
    for class in CLASSES {
        one.send(&two, class, numbered(sent, 10)).await;
    }
    two.heard.frames(sent as usize + 3).await;
}

/// Nothing is sent to whom there is no link, nor to another incarnation of a peer.
pub async fn an_unknown_peer_is_not_connected(provider: &impl Provider) {
    let (one, two) = pair(provider).await;
    for stranger in [Member::new(9, 1), Member::new(two.me().node.0, 2), one.me()] {
        for class in CLASSES {
            let sent = one.transport.send(stranger, Channel::Journal, class, Bytes::new());
            assert_eq!(sent, Err(SendError::NotConnected), "{stranger}");
        }
    }
    assert_eq!(one.transport.peers(), [two.me()]);
}

/// Frames of Data and Bulk may have up to the limit, at least 64 MiB, and no byte more; or none.
pub async fn the_longest_frames_fit_and_no_longer(provider: &impl Provider) {
    let (one, two) = pair(provider).await;
    let limit = one.transport.max_frame_bytes();
    assert!(limit >= 64 << 20, "{limit}");
    for class in [Class::Data, Class::Bulk] {
        let frame = Bytes::from(vec![class as u8; limit + 1]);
        let sent = one.transport.send(two.me(), Channel::Journal, class, frame.clone());
        assert_eq!(sent, Err(SendError::TooLarge { bytes: limit + 1, limit }));
        for length in [0, 1, limit, 0] {
            one.send(&two, class, frame.slice(..length)).await;
        }
        two.heard.frames(4).await;
        let heard = std::mem::take(&mut *two.heard.lock());
        let lengths: Vec<_> = frames_of(&heard).map(Bytes::len).collect();
        assert_eq!(lengths, [0, 1, limit, 0]);
        let intact = frames_of(&heard).all(|frame| frame.iter().all(|b| *b == class as u8));
        assert!(intact, "{class:?} came changed");
    }
}

/// A Control frame overtakes Bulk frames that were sent before it. Not every time, for they may be
/// through before anybody can overtake them: on a busy machine, often.
pub async fn bulk_does_not_hold_up_control(provider: &impl Provider) {
    const ROUNDS: u64 = 50;
    let (one, two) = pair(provider).await;
    let (mut overtaken, mut count) = (0, 0);
    for round in 0..ROUNDS {
        // What the last round took may not have been paid back yet.
        one.send(&two, Class::Bulk, numbered(1000, 60_000)).await;
        let mut bulk = 1;
        while one
            .transport
            .send(two.me(), Channel::Journal, Class::Bulk, numbered(1000 + bulk, 60_000))
            .is_ok()
        {
            bulk += 1;
        }
        one.send(&two, Class::Control, numbered(round, 0)).await;
        count += bulk as usize + 1;
        let frames = two.heard.frames(count).await;
        let last = number_of(&frames[count - 1]);
        overtaken += u64::from(last >= 1000);
    }
    assert!(overtaken >= ROUNDS / 10, "Control came last in {} rounds", ROUNDS - overtaken);
}

/// A new receiver of a channel hears at once who is up, and the old one hears nothing any more.
pub async fn a_new_receiver_is_told_who_is_up(provider: &impl Provider) {
    let (one, two) = pair(provider).await;
    let session = two.heard.up(one.me(), 1).await;
    one.send(&two, Class::Data, numbered(1, 0)).await;
    two.heard.frames(1).await;
    let newer = Arc::new(Recorder::default());
    two.transport.listen(Channel::Journal, newer.clone());
    assert_eq!(newer.up(one.me(), 1).await, session);
    for class in CLASSES {
        one.send(&two, class, numbered(2, 0)).await;
    }
    newer.frames(3).await;
    assert_eq!(newer.lock()[0], Event::Up { peer: one.me(), session });
    assert_eq!(frames_of(&two.heard.lock()).count(), 1, "the old receiver hears no more");
    provider.stop(1).await;
    newer.down(one.me(), session).await;
}

/// Who forgets an address gives up the link that it asked for; both sides hear the end. It can be
/// asked for again.
pub async fn forgetting_gives_up_the_link(provider: &impl Provider) {
    let (one, two) = pair(provider).await;
    let (at_one, at_two) = (one.heard.up(two.me(), 1).await, two.heard.up(one.me(), 1).await);
    one.transport.forget(&provider.address(2));
    one.heard.down(two.me(), at_one).await;
    two.heard.down(one.me(), at_two).await;
    assert!(one.transport.peers().is_empty());
    let sent = one.transport.send(two.me(), Channel::Journal, Class::Control, Bytes::new());
    assert_eq!(sent, Err(SendError::NotConnected));
    one.transport.reach(&provider.address(2));
    assert_ne!(one.heard.up(two.me(), 2).await, at_one);
    two.heard.up(one.me(), 2).await;
    one.send(&two, Class::Data, numbered(1, 0)).await;
    two.heard.frames(1).await;
}

/// Two nodes that reach each other at the same time end with one session.
pub async fn both_reach_each_other_over_one_session(provider: &impl Provider) {
    let (one, two) = (Node::start(provider, 1).await, Node::start(provider, 2).await);
    one.transport.reach(&provider.address(2));
    two.transport.reach(&provider.address(1));
    for (node, peer) in [(&one, &two), (&two, &one)] {
        node.heard.up(peer.me(), 1).await;
    }
    // Until a frame has come through in both directions, again and again while sessions change.
    for number in 0.. {
        let mut through = true;
        for (node, peer) in [(&one, &two), (&two, &one)] {
            let (to, frame) = (peer.me(), numbered(number, 0));
            through &= node.transport.send(to, Channel::Journal, Class::Control, frame).is_ok();
        }
        let heard = |node: &Node| frames_of(&node.heard.lock()).any(|f| number_of(f) == number);
        for _ in 0..200 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            if heard(&one) && heard(&two) {
                break;
            }
        }
        if through && heard(&one) && heard(&two) {
            break;
        }
    }
    for (node, peer) in [(&one, &two), (&two, &one)] {
        assert_eq!(node.transport.peers(), [peer.me()]);
        let mut open = Vec::new();
        for event in node.heard.lock().iter() {
            match event {
                Event::Up { session, .. } => {
                    assert!(open.is_empty(), "{session} begins while {open:?} lasts");
                    open.push(*session);
                }
                Event::Down { session, .. } => assert_eq!(open.pop(), Some(*session)),
                Event::Frame { session, .. } => assert_eq!(open, [*session]),
            }
        }
        assert_eq!(open.len(), 1);
    }
}

/// An address where nobody is yet is reached when somebody comes.
pub async fn a_peer_is_reached_when_it_comes(provider: &impl Provider) {
    let two = Node::start(provider, 2).await;
    provider.stop(2).await;
    let one = Node::start(provider, 1).await;
    one.transport.reach(&provider.address(2));
    drop(two);
    let two = Node::start(provider, 2).await;
    one.heard.up(two.me(), 1).await;
    two.heard.up(one.me(), 1).await;
    two.send(&one, Class::Data, numbered(1, 0)).await;
    one.heard.frames(1).await;
}
