//! What the network promises, and what its faults do.

use std::sync::Mutex as StdMutex;

use duractor_journal::transport::Event;
use tokio::time::sleep;

use super::*;
use crate::env::run_sim;

#[derive(Default)]
struct Heard(StdMutex<Vec<Event>>);

impl Receiver for Heard {
    fn event(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

impl Heard {
    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn frames(&self) -> Vec<u8> {
        let events = self.take();
        let frame = |event: &Event| match event {
            Event::Frame { frame, .. } => Some(frame[0]),
            _ => None,
        };
        events.iter().filter_map(frame).collect()
    }
}

struct Host {
    transport: Arc<dyn Transport>,
    heard: Arc<Heard>,
}

impl Host {
    fn send(&self, to: u32, class: Class, byte: u8) -> Result<(), SendError> {
        let frame = Bytes::from(vec![byte; 10]);
        self.transport.send(Member::new(to, 1), Channel::Journal, class, frame)
    }
}

fn host(net: &SimNetwork, node: u32, of: u32) -> Host {
    let transport = net.start(Member::new(node, 1));
    let heard = Arc::new(Heard::default());
    transport.listen(Channel::Journal, heard.clone());
    (1..=of).for_each(|n| transport.reach(&SimNetwork::address(NodeId(n))));
    Host { transport, heard }
}

async fn ms(ms: u64) {
    sleep(Duration::from_millis(ms)).await;
}

async fn pair(config: NetConfig) -> (Arc<SimNetwork>, Host, Host) {
    let net = SimNetwork::new(7, config);
    let hosts = (host(&net, 1, 2), host(&net, 2, 2));
    ms(100).await;
    (net, hosts.0, hosts.1)
}

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

#[test]
fn a_session_begins_once_and_frames_keep_their_order_in_a_class() {
    run_sim(1, async |_| {
        let (_net, a, b) = pair(NetConfig { jitter_us: 50_000, ..NetConfig::default() }).await;
        assert!(
            matches!(a.heard.take()[..], [Event::Up { peer, .. }] if peer == Member::new(2, 1))
        );
        assert!(
            matches!(b.heard.take()[..], [Event::Up { peer, .. }] if peer == Member::new(1, 1))
        );
        assert_eq!(a.transport.peers(), [Member::new(2, 1)]);
        for n in 0..50 {
            a.send(2, if n < 25 { Class::Bulk } else { Class::Control }, n).unwrap();
        }
        ms(1_000).await;
        let frames = b.heard.frames();
        let of = |control: bool| {
            frames.iter().copied().filter(|n| (*n >= 25) == control).collect::<Vec<_>>()
        };
        assert_eq!((of(false), of(true)), ((0..25).collect(), (25..50).collect()));
        assert_ne!(frames, (0..50).collect::<Vec<_>>(), "classes overtake each other");
    });
}

#[test]
fn nobody_else_can_be_sent_to() {
    run_sim(1, async |_| {
        let (_net, a, _b) = pair(NetConfig::default()).await;
        assert_eq!(a.send(3, Class::Data, 0), Err(SendError::NotConnected));
        let other = a.transport.send(
            Member::new(2, 2),
            Channel::Journal,
            Class::Data,
            Bytes::from_static(b"x"),
        );
        assert_eq!(other, Err(SendError::NotConnected), "another incarnation");
    });
}

#[test]
fn a_short_cut_delays_and_a_long_one_ends_the_session() {
    run_sim(1, async |_| {
        let (net, a, b) = pair(NetConfig::default()).await;
        b.heard.take();
        net.cut(ONE, TWO);
        a.send(2, Class::Data, 1).unwrap();
        ms(300).await;
        assert!(b.heard.take().is_empty());
        net.mend(ONE, TWO);
        ms(10).await;
        assert_eq!(b.heard.frames(), [1]);

        net.cut(ONE, TWO);
        a.send(2, Class::Data, 2).unwrap();
        ms(1_000).await;
        assert!(matches!(b.heard.take()[..], [Event::Down { .. }]));
        assert_eq!(a.send(2, Class::Data, 3), Err(SendError::NotConnected), "the other told it");
        net.mend(ONE, TWO);
        ms(100).await;
        assert!(matches!(b.heard.take()[..], [Event::Up { .. }]), "what waited is lost");
        a.send(2, Class::Data, 4).unwrap();
        ms(10).await;
        assert_eq!(b.heard.frames(), [4]);
    });
}

#[test]
fn a_killed_process_is_noticed_at_once_and_a_crashed_machine_by_its_silence() {
    run_sim(1, async |_| {
        let (net, a, b) = pair(NetConfig::default()).await;
        for (stop, at_once) in [(Stop::Killed, true), (Stop::Crashed, false)] {
            b.heard.take();
            let sender = if at_once { &a } else { &host(&net, 1, 2) };
            ms(100).await;
            b.heard.take();
            net.stop(ONE, stop);
            assert_eq!(sender.send(2, Class::Data, 0), Err(SendError::NotConnected));
            assert!(sender.transport.peers().is_empty());
            ms(10).await;
            let heard = b.heard.take();
            assert_eq!(matches!(heard[..], [Event::Down { .. }]), at_once, "{stop:?} {heard:?}");
            ms(700).await;
            assert_eq!(b.heard.take().len(), usize::from(!at_once));
        }
    });
}

#[test]
fn a_restarted_process_replaces_its_session() {
    run_sim(1, async |_| {
        let (net, a, b) = pair(NetConfig::default()).await;
        net.stop(ONE, Stop::Crashed);
        let again = host(&net, 1, 2);
        ms(100).await;
        let heard = b.heard.take();
        assert!(
            matches!(heard[..], [Event::Up { session: x, .. }, Event::Down { session: y, .. }, Event::Up { session: z, .. }]
                if x == y && y != z),
            "{heard:?}"
        );
        assert_eq!(a.send(2, Class::Data, 1), Err(SendError::NotConnected), "the process is dead");
        again.send(2, Class::Data, 2).unwrap();
        ms(10).await;
        assert_eq!(b.heard.frames(), [2]);
    });
}

#[test]
fn nothing_reaches_or_leaves_a_frozen_node_until_it_goes_on() {
    run_sim(1, async |_| {
        let (net, a, b) = pair(NetConfig::default()).await;
        a.heard.take();
        b.heard.take();
        net.freeze(TWO);
        a.send(2, Class::Data, 1).unwrap();
        b.send(1, Class::Data, 2).unwrap();
        ms(200).await;
        assert!(a.heard.take().is_empty() && b.heard.take().is_empty());
        net.thaw(TWO);
        ms(10).await;
        assert_eq!((a.heard.frames(), b.heard.frames()), (vec![2], vec![1]));
        net.freeze(TWO);
        ms(1_000).await;
        assert!(matches!(a.heard.take()[..], [Event::Down { .. }]));
        assert!(b.heard.take().is_empty());
        net.thaw(TWO);
        ms(100).await;
        assert!(matches!(b.heard.take()[..], [Event::Down { .. }, Event::Up { .. }]));
    });
}

#[test]
fn the_window_is_bounded() {
    run_sim(1, async |_| {
        let (net, a, b) = pair(NetConfig { window_bytes: 25, ..NetConfig::default() }).await;
        net.freeze(TWO);
        let sent: Vec<_> = (0..4).map(|n| a.send(2, Class::Data, n)).collect();
        assert_eq!(sent, [Ok(()), Ok(()), Err(SendError::Full), Err(SendError::Full)]);
        a.send(2, Class::Bulk, 9).unwrap();
        net.thaw(TWO);
        ms(10).await;
        a.send(2, Class::Data, 5).unwrap();
        ms(10).await;
        let mut frames = b.heard.frames();
        frames.sort_unstable();
        assert_eq!(frames, [0, 1, 5, 9]);
    });
}

#[test]
fn a_raw_network_loses_and_doubles_frames_and_keeps_sessions() {
    run_sim(1, async |_| {
        let raw = NetConfig { loss: 0.2, duplicate: 0.2, ..NetConfig::default() };
        let (net, a, b) = pair(raw).await;
        b.heard.take();
        (0..100).for_each(|n| a.send(2, Class::Data, n).unwrap());
        net.cut(ONE, TWO);
        net.cut(TWO, ONE);
        ms(1_000).await;
        assert!(b.heard.take().is_empty(), "the cut swallowed them");
        net.mend(ONE, TWO);
        net.mend(TWO, ONE);
        (0..100).for_each(|n| a.send(2, Class::Data, n).unwrap());
        ms(1_000).await;
        let frames = b.heard.frames();
        let distinct: std::collections::BTreeSet<_> = frames.iter().collect();
        assert!(distinct.len() < 95 && frames.len() > distinct.len() + 5, "{frames:?}");
    });
}

#[test]
fn a_hook_strikes_right_after_a_control_frame() {
    run_sim(1, async |_| {
        let (net, a, b) = pair(NetConfig::default()).await;
        b.heard.take();
        let stop = Arc::downgrade(&net);
        net.after_control(ONE, 2, move || {
            if let Some(net) = stop.upgrade() {
                net.stop(ONE, Stop::Crashed);
            }
        });
        for class in [Class::Control, Class::Data, Class::Control] {
            a.send(2, class, 1).unwrap();
        }
        assert_eq!(a.send(2, Class::Control, 2), Err(SendError::NotConnected));
        ms(10).await;
        assert_eq!(b.heard.frames(), [1, 1, 1]);
    });
}

#[test]
fn runs_of_a_seed_are_equal() {
    let run = |seed| {
        run_sim(1, async |_| {
            let config = NetConfig { loss: 0.1, duplicate: 0.1, ..NetConfig::default() };
            let net = SimNetwork::new(seed, config);
            let hosts: Vec<_> = (1..=3).map(|node| host(&net, node, 3)).collect();
            for round in 0..200_u32 {
                ms(3).await;
                let _ = hosts[(round % 3) as usize].send((round + 1) % 3 + 1, Class::Data, 1);
                if round % 50 == 20 {
                    net.break_session(NodeId(1), NodeId(round / 50 % 2 + 2));
                }
            }
            (net.trace_hash(), net.counts())
        })
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).0, run(2).0);
    assert!(run(1).1.sessions_lost > 2);
}
