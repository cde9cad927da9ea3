//! The world outside of a cluster: another system that is called, and may fail.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::sleep;

use super::world::World;
use crate::rng::Rng;

/// How often calls of an [`Endpoint`] go wrong; none does unless set.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Unreliable {
    /// This part of the calls fails before it reaches the other system.
    pub refused: f64,
    /// This part of the calls is carried out, and its answer is lost.
    pub lost: f64,
    /// This part of the calls is carried out twice.
    pub doubled: f64,
    /// A call takes up to so long.
    pub slow: Duration,
}

/// Another system, as an HTTP service or a queue: it has a handler for calls, remembers what it was asked,
/// and is as [`Unreliable`] as it is told to be. Cheap to clone; it outlives the nodes.
///
/// ```
/// use duractor_testkit::sim::{Endpoint, Sim, Unreliable, World};
///
/// let sim = Sim::new(|node, _: &World| node);
/// sim.run(7, async |world: World| {
///     let faults = Unreliable { lost: 0.5, ..Unreliable::default() };
///     let mailer = Endpoint::new(&world, faults, |mail: &String| mail.len());
///     while mailer.call("hello".to_owned()).await.is_err() {}
///     assert!(mailer.received().len() >= 1, "at least once");
/// })
/// .passed();
/// ```
pub struct Endpoint<Q, A> {
    inner: Arc<Other<Q, A>>,
}

struct Other<Q, A> {
    faults: Unreliable,
    state: Mutex<State<Q>>,
    handle: Box<dyn Fn(&Q) -> A + Send + Sync>,
}

struct State<Q> {
    rng: Rng,
    received: Vec<Q>,
    down: bool,
}

impl<Q, A> Clone for Endpoint<Q, A> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

/// A call came to nothing, as far as its caller knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallFailed {
    /// It did not reach the other system.
    Refused,
    /// It may have been carried out.
    TimedOut,
}

impl fmt::Display for CallFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CallFailed::Refused => "the other system refused the call",
            CallFailed::TimedOut => "the other system did not answer",
        })
    }
}

impl std::error::Error for CallFailed {}

impl<Q: Clone + Send + 'static, A: Send + 'static> Endpoint<Q, A> {
    /// Another system that answers so.
    pub fn new(
        world: &World,
        faults: Unreliable,
        handle: impl Fn(&Q) -> A + Send + Sync + 'static,
    ) -> Self {
        let state = State { rng: world.rng(), received: Vec::new(), down: false };
        Self {
            inner: Arc::new(Other { faults, state: Mutex::new(state), handle: Box::new(handle) }),
        }
    }

    /// Calls it.
    ///
    /// # Errors
    /// As its faults are drawn, and while it is [down](Self::set_down).
    pub async fn call(&self, question: Q) -> Result<A, CallFailed> {
        let Unreliable { refused, lost, doubled, slow } = self.inner.faults;
        let (before, after, refused, lost, doubled) = {
            let State { rng, down, .. } = &mut *self.lock();
            let most = slow.as_millis() as u64 + 1;
            let times = (rng.below(most), rng.below(most));
            let refused = rng.chance(refused) || *down;
            (times.0, times.1, refused, rng.chance(lost), rng.chance(doubled))
        };
        sleep(Duration::from_millis(before)).await;
        if refused {
            return Err(CallFailed::Refused);
        }
        let answer = (self.inner.handle)(&question);
        if doubled {
            // Its answer reaches nobody.
            (self.inner.handle)(&question);
            self.lock().received.push(question.clone());
        }
        self.lock().received.push(question);
        sleep(Duration::from_millis(after)).await;
        if lost { Err(CallFailed::TimedOut) } else { Ok(answer) }
    }

    /// Everything that reached it, in order; what was doubled is there twice.
    #[must_use]
    pub fn received(&self) -> Vec<Q> {
        self.lock().received.clone()
    }

    /// Whether it refuses every call from now on.
    pub fn set_down(&self, down: bool) {
        self.lock().down = down;
    }

    fn lock(&self) -> MutexGuard<'_, State<Q>> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
