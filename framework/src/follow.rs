//! Follows who owns the shards: claims those that this node leads, and stops the entities of those
//! that it does not lead any more.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use duractor_journal::{JournalError, Member, Ownership, Ownerships, ShardId, Term};
use futures_util::StreamExt;
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

#[cfg(feature = "planted")]
use crate::planted::{Planted, is};
use crate::{
    error::{AskError, has_stopped},
    hold::Hold,
    shared::{AnyKind, Shared, Told},
    task::AbortOnDrop,
};

/// How long the start of a node waits for what it knows of a shard, and for a claim. After that the
/// node is up and goes on trying.
const START: Duration = Duration::from_secs(2);
/// The first wait between two attempts to claim a shard; it doubles up to the second.
const RETRY_MIN: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_millis(500);
/// For so long entities of a shard that was lost wait to hear what became of their writes. Callers
/// are then told that it is not known.
const OUTCOME: Duration = Duration::from_secs(1);

/// For so long a hand-over waits for what is under way.
const HAND_OVER: Duration = Duration::from_secs(1);

/// Every kind of entity on a node.
pub(crate) type AllKinds = Arc<Vec<Arc<dyn AnyKind>>>;

/// Moves the shards' [`Hold`]s.
pub(crate) struct Follower {
    shared: Arc<Shared>,
    kinds: AllKinds,
    ownerships: Ownerships,
    told: mpsc::UnboundedReceiver<Told>,
    /// What the journal said last of each shard.
    last: Vec<Ownership>,
    /// Shards that are being handed over.
    handing: BTreeSet<ShardId>,
    /// The claim that goes on for each shard.
    claims: Vec<Option<AbortOnDrop>>,
}

impl Follower {
    /// Takes in who owns the shards now, and claims those that are this node's.
    ///
    /// # Errors
    /// A claim failed for a reason that is not one of time.
    pub(crate) async fn start(
        shared: Arc<Shared>,
        kinds: AllKinds,
    ) -> Result<Follower, JournalError> {
        let (teller, told) = mpsc::unbounded_channel();
        // It is set here alone.
        let _ = shared.follower.set(teller);
        let shards = shared.journal.shards();
        let ownerships = shared.journal.ownerships();
        let claims = (0..shards).map(|_| None).collect();
        let last = vec![Ownership::Other { leader: None }; usize::from(shards)];
        let handing = BTreeSet::new();
        let mut follower = Self { shared, kinds, ownerships, told, last, handing, claims };
        for _ in 0..shards {
            let next = timeout(START, follower.ownerships.next()).await;
            let Ok(Some((shard, ownership))) = next else { break };
            let Some(term) = follower.take(shard, ownership) else { continue };
            follower.claim_now(shard, term).await?;
        }
        Ok(follower)
    }

    /// The first claim of a shard that is this node's from the start: whoever started the node finds
    /// it ready.
    async fn claim_now(&mut self, shard: ShardId, term: Term) -> Result<(), JournalError> {
        match timeout(START, self.shared.journal.claim(shard)).await {
            Ok(Ok(epoch)) => {
                if let Some(hold) = self.hold(shard) {
                    hold.claimed(term, epoch);
                }
                Ok(())
            }
            Ok(Err(error)) if !is_passing(&error) => Err(error),
            _ => {
                self.claim(shard, term, RETRY_MIN);
                Ok(())
            }
        }
    }

    /// Follows until the task is dropped.
    pub(crate) async fn run(mut self) {
        let mut stopped = self.shared.journal.stopped();
        loop {
            tokio::select! {
                biased;
                why = &mut stopped => return self.shared.fail(&why.to_string()),
                Some(told) = self.told.recv() => self.hear(told),
                next = self.ownerships.next() => {
                    // At the end of the journal.
                    let Some((shard, ownership)) = next else { return };
                    if let Some(term) = self.take(shard, ownership) {
                        self.claim(shard, term, Duration::ZERO);
                    }
                }
            }
        }
    }

    fn hear(&mut self, told: Told) {
        match told {
            Told::Fenced { shard, term, epoch } => {
                self.ended(shard, epoch, None);
                self.claim(shard, term, RETRY_MIN);
            }
            Told::HandOver { shard, to, done } => self.hand_over(shard, to, done),
            Told::HandedOver { shard } => {
                self.handing.remove(&shard);
                let last = self.last[usize::from(shard.0)];
                if let Some(term) = self.change(shard, last) {
                    self.claim(shard, term, Duration::ZERO);
                }
            }
        }
    }

    /// Stops what the shard runs here. What is under way hears what became of it, as this node leads on
    /// until all has ended; commands that come meanwhile wait, until the next owner is known.
    fn hand_over(&mut self, shard: ShardId, to: Member, done: oneshot::Sender<()>) {
        self.handing.insert(shard);
        if let Some(slot) = self.claims.get_mut(usize::from(shard.0)) {
            *slot = None;
        }
        if let Some(epoch) = self.hold(shard).and_then(|hold| hold.leaving(to)) {
            self.ended(shard, epoch, None);
        }
        let shared = self.shared.clone();
        tokio::spawn(async move {
            if let Some(shard) = shared.shard(shard)
                && timeout(HAND_OVER, shard.hold.empty()).await.is_err()
            {
                tracing::warn!(shard = %shard.hold.shard(), "handed over with work under way");
            }
            // Whoever stopped waiting does not need it.
            let _ = done.send(());
        });
    }

    fn hold(&self, shard: ShardId) -> Option<&Hold> {
        self.shared.shard(shard).map(|shard| &shard.hold)
    }

    /// Takes in what the journal says. Returns the leadership under which the shard is to be claimed, if
    /// so.
    fn take(&mut self, shard: ShardId, ownership: Ownership) -> Option<Term> {
        *self.last.get_mut(usize::from(shard.0))? = ownership;
        // What is being handed over is not taken back before that is over, and what waits for the next
        // owner waits until that one is known.
        let known = matches!(ownership, Ownership::Other { leader: Some(_) });
        if !known && self.handing.contains(&shard) { None } else { self.change(shard, ownership) }
    }

    fn change(&mut self, shard: ShardId, ownership: Ownership) -> Option<Term> {
        let hold = self.hold(shard)?;
        match ownership {
            Ownership::Mine { term } => {
                let ended = hold.mine(term).ok()?;
                if let Some(epoch) = ended {
                    self.ended(shard, epoch, None);
                }
                Some(term)
            }
            #[cfg(feature = "planted")]
            Ownership::Other { .. } if is(Planted::StopForgotten) => None,
            Ownership::Other { leader } => {
                let ended = hold.other(leader);
                let error = AskError::NotOwner { shard, leader };
                self.claims[usize::from(shard.0)] = None;
                match ended {
                    Some(epoch) => {
                        tracing::info!(%shard, leader = leader.map(tracing::field::display), "the shard is not ours any more");
                        self.ended(shard, epoch, Some(&error));
                    }
                    // Commands may have waited for the claim.
                    None => self.evict(shard, Some(&error)),
                }
                None
            }
        }
    }

    /// Stops the entities of an epoch.
    fn ended(&self, shard: ShardId, epoch: Term, refuse: Option<&AskError>) {
        self.evict(shard, refuse);
        let (shared, kinds) = (self.shared.clone(), self.kinds.clone());
        tokio::spawn(async move {
            sleep(OUTCOME).await;
            if let Some(shard) = shared.shard(shard) {
                shard.hold.give_up_on(epoch);
            }
            kinds.iter().for_each(|kind| kind.evict(shard, None));
        });
    }

    fn evict(&self, shard: ShardId, refuse: Option<&AskError>) {
        for kind in self.kinds.iter() {
            kind.evict(shard, refuse);
        }
    }

    /// Claims the shard, and tries again as long as the leadership lasts.
    fn claim(&mut self, shard: ShardId, term: Term, after: Duration) {
        let shared = self.shared.clone();
        let task = tokio::spawn(async move {
            sleep(after).await;
            claim(&shared, shard, term).await;
        });
        self.claims[usize::from(shard.0)] = Some(AbortOnDrop::new(&task));
    }
}

async fn claim(shared: &Shared, shard: ShardId, term: Term) {
    let Some(hold) = shared.shard(shard).map(|shard| &shard.hold) else { return };
    let mut pause = RETRY_MIN;
    #[cfg(feature = "planted")]
    planted_early(hold, term);
    loop {
        match shared.journal.claim(shard).await {
            Ok(epoch) => {
                #[cfg(feature = "planted")]
                planted_made_good(hold, term, epoch);
                if hold.claimed(term, epoch) {
                    tracing::info!(%shard, %term, %epoch, "the shard is ours");
                }
                return;
            }
            Err(error) if has_stopped(&error) => return shared.fail(&error.to_string()),
            Err(error) => tracing::debug!(%shard, %term, %error, "not claimed yet"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// The planted bug that entities are run before the claim, under the epoch that it will most likely have.
#[cfg(feature = "planted")]
fn planted_early(hold: &Hold, term: Term) {
    if is(Planted::HostedEarly) && term.0 > 0 {
        hold.claimed(term, term);
    }
}

/// It had another one.
#[cfg(feature = "planted")]
fn planted_made_good(hold: &Hold, term: Term, epoch: Term) {
    if is(Planted::HostedEarly) && term != epoch {
        let _ = hold.fenced(term);
    }
}

/// Whether it may be otherwise in a moment, without anybody's help.
fn is_passing(error: &JournalError) -> bool {
    matches!(
        error,
        JournalError::NotLeader { .. }
            | JournalError::OutcomeUnknown { .. }
            | JournalError::Unavailable { .. }
            | JournalError::Busy { .. }
    )
}
