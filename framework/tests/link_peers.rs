//! Peers that come, go and come back: what supervisors and followers hear, and how soon.

mod link_kit;

use std::{sync::Arc, time::Duration};

use duractor::link::{Links, Membership};
use duractor_journal::{
    Transport,
    transport::{Channel, Event},
};
use futures_util::StreamExt;
use link_kit::{Heard, Proxy, Site, wait_until};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::{sync::mpsc, time::Instant};

async fn hears(links: &Links) -> Arc<Heard> {
    let heard = Arc::new(Heard::default());
    links.listen(Channel::Cluster, heard.clone());
    heard
}

/// An actor that tells of the ends that it hears of.
struct Supervisor(mpsc::UnboundedSender<ractor::ActorId>);

struct Nothing;
impl ractor::Message for Nothing {}

impl Actor for Supervisor {
    type Msg = Nothing;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Nothing>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Nothing>,
        event: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorTerminated(actor, ..)
        | SupervisionEvent::ActorFailed(actor, _) = event
        {
            self.0.send(actor.get_id())?;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_supervisor_hears_of_the_loss_of_a_peer() {
    let site = Site::tls();
    let (one, two) = (site.start(1).await, site.start(2).await);
    let (sender, mut ends) = mpsc::unbounded_channel();
    let (supervisor, _) = Actor::spawn(None, Supervisor(sender), ()).await.unwrap();
    assert!(one.monitor(two.me(), &supervisor.get_cell()).is_none(), "there is no link yet");
    let heard = hears(&one).await;
    one.reach(&two.address().to_string());
    let session = heard.up(two.me()).await;

    let gateway = one.monitor(two.me(), &supervisor.get_cell()).unwrap();
    assert!(!gateway.get_id().is_local(), "it is the peer's");
    two.shutdown().await;
    assert_eq!(ends.recv().await, Some(gateway.get_id()));
    let down = Event::Down { peer: two.me(), session };
    heard.until(|events| events.contains(&down).then_some(())).await;
    supervisor.stop(None);
    one.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_hear_who_comes_goes_and_comes_back() {
    let site = Site::tls();
    let (one, two) = (site.start(1).await, site.start(2).await);
    let (peer, address) = (two.me(), two.address());
    let mut membership = one.membership();
    one.reach(&address.to_string());
    assert_eq!(membership.next().await, Some(Membership::PeerUp { peer }));
    let mut later = one.membership();
    assert_eq!(later.next().await, Some(Membership::PeerUp { peer }));
    two.shutdown().await;
    assert_eq!(membership.next().await, Some(Membership::PeerUnreachable { peer }));
    let mut config = site.config(2);
    config.listen = address;
    let again = Links::start(config).await.unwrap();
    assert_eq!(membership.next().await, Some(Membership::PeerBack { peer }));
    again.shutdown().await;
    one.shutdown().await;
    assert_eq!(membership.next().await, Some(Membership::PeerUnreachable { peer }));
    assert_eq!(membership.next().await, None);
}

/// A peer that is not gone, only silent: the connection stands, and nothing comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_peer_is_down_within_its_time() {
    let site = Site::tls();
    let (one, two) = (site.start(1).await, site.start(2).await);
    let heard = hears(&two).await;
    let proxy = Proxy::start(two.address()).await;
    one.reach(&proxy.address.to_string());
    let session = heard.up(one.me()).await;
    // Longer than the limit: a link in use stays.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(heard.events.lock().unwrap().len(), 1, "the link did not last");
    proxy.hold(true);
    let begun = Instant::now();
    let down = Event::Down { peer: one.me(), session };
    heard.until(|events| events.contains(&down).then_some(())).await;
    let took = begun.elapsed();
    println!("silence was noticed after {took:?}");
    assert!(took >= Duration::from_millis(300), "{took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    proxy.hold(false);
    wait_until("it is back", || two.peers() == [one.me()]).await;
    one.shutdown().await;
    two.shutdown().await;
}

/// Any of a link's connections that breaks ends the link, and it comes back by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_link_comes_back() {
    let site = Site::tls();
    let (one, two) = (site.start(1).await, site.start(2).await);
    let heard = hears(&one).await;
    let proxy = Proxy::start(two.address()).await;
    one.reach(&proxy.address.to_string());
    let mut session = heard.up(two.me()).await;
    for _ in 0..5 {
        proxy.cut();
        let before = session;
        session = heard
            .until(|events| match events.last() {
                Some(Event::Up { session, .. }) if *session != before => Some(*session),
                _ => None,
            })
            .await;
    }
    one.shutdown().await;
    two.shutdown().await;
}

/// A node that was started again while its peer still holds the old session replaces it at once, and
/// does not wait until the peer has noticed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_peer_replaces_its_stale_session() {
    let site = Site::tls();
    let mut config = site.config(1);
    config.silence_ms = 600_000;
    let one = Links::start(config).await.unwrap();
    let heard = hears(&one).await;
    let two = site.start(2).await;
    let proxy = Proxy::start(one.address()).await;
    two.reach(&proxy.address.to_string());
    let stale = heard.up(two.me()).await;
    // The old process is cut off without a word, and lives on: the connections never end.
    proxy.hold(true);
    let again = site.start(2).await;
    let begun = Instant::now();
    again.reach(&one.address().to_string());
    let fresh = heard
        .until(|events| match events {
            [.., Event::Down { session, .. }, Event::Up { session: fresh, .. }]
                if *session == stale =>
            {
                Some(*fresh)
            }
            _ => None,
        })
        .await;
    println!("replaced after {:?}", begun.elapsed());
    assert_ne!(fresh, stale);
    assert_eq!(one.peers(), [two.me()]);
    for links in [again, two, one] {
        links.shutdown().await;
    }
}

/// A node with its own address among the seeds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_reaches_itself_stops_trying() {
    let one = Site::tls().start(1).await;
    one.reach(&one.address().to_string());
    wait_until("it was refused", || !one.refusals().by_us.is_empty()).await;
    assert!(one.peers().is_empty());
    one.shutdown().await;
}
