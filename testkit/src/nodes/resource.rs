//! Something outside of the cluster that singletons work on: it sees who they are.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::machines::Boot;

/// The resource.
#[derive(Default)]
pub(crate) struct Resource {
    inner: Mutex<BTreeMap<String, One>>,
}

/// What one singleton did.
#[derive(Default)]
struct One {
    /// The highest fencing token, and which process had it.
    highest: Option<(u64, Boot)>,
    /// Runs that have begun and not ended.
    running: BTreeMap<u64, Boot>,
    runs: u64,
    violation: Option<String>,
}

impl Resource {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, One>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A singleton begins to run in a process.
    pub(crate) fn begin(self: &Arc<Self>, name: &str, token: u64, boot: Boot) -> Run {
        let mut all = self.lock();
        let one = all.entry(name.to_owned()).or_default();
        one.runs += 1;
        let number = one.runs;
        if let Some(other) = one.running.values().find(|other| **other != boot) {
            one.violation.get_or_insert(format!(
                "W: singleton {name:?} begins in process {boot} while it runs in process {other}"
            ));
        }
        one.running.insert(number, boot);
        drop(all);
        let run = Run { resource: self.clone(), name: name.to_owned(), number, token, boot };
        run.work();
        run
    }

    /// What runs in the process ends here.
    pub(crate) fn stopped(&self, boot: Boot) {
        for one in self.lock().values_mut() {
            one.running.retain(|_, runs| *runs != boot);
        }
    }

    /// What must not have been.
    pub(crate) fn violation(&self) -> Option<String> {
        self.lock().values_mut().find_map(|one| one.violation.take())
    }

    /// How many runs there were.
    pub(crate) fn runs(&self) -> u64 {
        self.lock().values().map(|one| one.runs).sum()
    }

    /// Where a singleton runs now.
    pub(crate) fn runs_in(&self, name: &str) -> Option<Boot> {
        self.lock().get(name)?.running.values().next().copied()
    }
}

/// A run of a singleton; it ends when this is dropped.
pub(crate) struct Run {
    resource: Arc<Resource>,
    name: String,
    number: u64,
    token: u64,
    boot: Boot,
}

impl Run {
    /// Does something in the outside world.
    pub(crate) fn work(&self) {
        let mut all = self.resource.lock();
        let Some(one) = all.get_mut(&self.name) else { return };
        if !one.running.contains_key(&self.number) {
            // The process has ended: what it still does is not seen outside.
            return;
        }
        let mine = (self.token, self.boot);
        match one.highest {
            Some((token, boot)) if token > mine.0 || (token == mine.0 && boot != mine.1) => {
                one.violation.get_or_insert(format!(
                    "W: singleton {:?} works in process {} with token {}, after process {boot} \
                     with token {token}",
                    self.name, mine.1, mine.0
                ));
            }
            _ => one.highest = Some(mine),
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(one) = self.resource.lock().get_mut(&self.name) {
            one.running.remove(&self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_sees_who_is_not_alone_and_whose_token_is_old() {
        let resource = Arc::new(Resource::default());
        let first = resource.begin("a", 3, 1);
        let other = resource.begin("b", 1, 2);
        assert_eq!(resource.violation(), None);
        drop(resource.begin("a", 4, 2));
        assert!(resource.violation().expect("two run").contains("while it runs in process 1"));
        first.work();
        assert!(resource.violation().expect("fenced").contains("after process 2 with token 4"));
        drop((first, other));
        drop(resource.begin("a", 4, 2));
        assert_eq!(resource.violation(), None, "it starts again where it ran");
        drop(resource.begin("a", 4, 3));
        assert!(resource.violation().is_some(), "two have one token");
    }
}
