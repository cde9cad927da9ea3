//! The core by itself: no actors, no journal, no runtime.

use duractor_journal::{Effect as TookEffect, RequestId};
use tokio::sync::oneshot;

use super::*;
use crate::{
    codec::{CodecError, Schema},
    command::Command,
    delivery::asked,
    effect::{Effect, Handle, Persist},
    intent::Options,
};

/// A sum; each event adds its first byte.
pub(crate) struct Sum;
pub(crate) struct Added(u8);

impl Event for Added {
    fn schemas() -> &'static [Schema] {
        &[Schema { name: "added", version: 1 }]
    }

    fn schema(&self) -> Schema {
        Self::schemas()[0]
    }

    fn encode(&self) -> Result<Bytes, CodecError> {
        Ok(Bytes::from(vec![self.0]))
    }

    fn decode(_: &str, _: u16, payload: &[u8]) -> Result<Vec<Self>, CodecError> {
        Ok(payload.iter().map(|by| Added(*by)).collect())
    }
}

macro_rules! command {
    ($name:ident, $reply:ty, $version:literal) => {
        impl Command for $name {
            type Reply = $reply;
            const NAME: &'static str = stringify!($name);
            const VERSION: u16 = $version;

            fn encode(&self) -> Result<Bytes, CodecError> {
                Ok(Bytes::new())
            }

            fn decode(_: u16, _: &[u8]) -> Result<Self, CodecError> {
                Err(CodecError::UnknownName { name: String::new() })
            }
        }
    };
}

pub(crate) struct Add(pub(crate) u8);
pub(crate) struct AddAndLeave(pub(crate) u8);
pub(crate) struct Get;
command!(Add, u64, 1);
command!(AddAndLeave, u64, 1);
command!(Get, u64, 1);

impl EventSourced for Sum {
    const KIND: &'static str = "sum";
    type State = u64;
    type Event = Added;
    type Commands = (Add, AddAndLeave, Get);

    fn apply(state: &mut u64, event: &Added) {
        assert_ne!(event.0, 13, "unlucky");
        *state += u64::from(event.0);
    }
}

impl Handle<Add> for Sum {
    fn handle(&self, _: &u64, add: Add, _: &Context) -> Effect<Self, u64> {
        Self::persist(Added(add.0)).reply(|sum| *sum)
    }
}

impl Handle<AddAndLeave> for Sum {
    fn handle(&self, _: &u64, add: AddAndLeave, _: &Context) -> Effect<Self, u64> {
        Self::persist(Added(add.0)).reply(|sum| *sum).passivate()
    }
}

impl Handle<Get> for Sum {
    fn handle(&self, sum: &u64, _: Get, _: &Context) -> Effect<Self, u64> {
        Effect::reply(*sum)
    }
}

/// The core and its callers.
struct Bench {
    core: Core<Sum>,
    rules: Rules<Sum>,
}

type Answer = oneshot::Receiver<Result<u64, AskError>>;

impl Bench {
    fn new() -> Self {
        let id = EntityId::new("sum", "one").unwrap();
        let core = Core::new(id, 0, Seq::ZERO, (Window::default(), Meta::default()));
        Self { core, rules: Rules::new(Arc::new(Sum), Limits::default()) }
    }

    fn command<C>(&mut self, command: C, options: Options) -> (Decision<Sum>, Answer)
    where
        C: Command<Reply = u64>,
        Sum: Handle<C>,
    {
        let (reply, answer) = oneshot::channel();
        let envelope = asked(command, options, reply);
        (self.core.command(&self.rules, Timestamp(7), envelope).0, answer)
    }

    fn add(&mut self, by: u8) -> (Draft, Answer) {
        let (Decision::Submit(draft), answer) = self.command(Add(by), Options::default()) else {
            panic!("it writes")
        };
        (draft, answer)
    }

    fn get(&mut self) -> Answer {
        self.command(Get, Options::default()).1
    }

    /// Answers what may be answered, and counts.
    fn release(&mut self) -> usize {
        let mut released = 0;
        while let Some(Released { held, error }) = self.core.release() {
            let mut envelope = held.envelope.unwrap();
            error.into_iter().for_each(|error| envelope.refuse(error));
            envelope.send();
            released += 1;
        }
        released
    }
}

fn value(answer: &mut Answer) -> u64 {
    answer.try_recv().unwrap().unwrap()
}

fn full() -> JournalError {
    JournalError::DiskFull { message: "planted".into() }
}

#[test]
fn reads_wait_for_what_they_saw_and_for_no_more() {
    let mut bench = Bench::new();
    let mut before = bench.get();
    assert_eq!((bench.release(), value(&mut before)), (1, 0), "nothing is under way");
    let (first, mut one) = bench.add(1);
    let mut read = bench.get();
    let (second, mut two) = bench.add(2);
    assert_eq!((first.expected, first.last), (Seq(0), Seq(1)));
    assert_eq!((second.expected, second.last), (Seq(1), Seq(2)));
    assert_eq!(bench.release(), 0);
    bench.core.resolve(Seq(1), Ok(()));
    assert_eq!(bench.release(), 2, "the first and the read after it");
    assert_eq!((value(&mut one), value(&mut read)), (1, 1));
    assert!(two.try_recv().is_err());
    bench.core.resolve(Seq(2), Ok(()));
    assert_eq!((bench.release(), value(&mut two)), (1, 3));
}

/// Cause: an entity joined a round of confirmations that had not begun yet, and joined it again for a
/// later read; the end of the round was taken for the first time it joined alone. Consequence: the
/// later read waited until another read of the entity came, or its caller gave up. Fix: what counts
/// is the last time.
#[test]
fn a_round_that_was_joined_twice_covers_both_reads() {
    let mut bench = Bench::new();
    bench.core.pipeline().confirm_reads();
    let mut one = bench.get();
    bench.core.pipeline().asked(7);
    let mut two = bench.get();
    bench.core.pipeline().asked(7);
    assert_eq!(bench.release(), 0);
    bench.core.pipeline().confirmed(7, Ok(()));
    assert_eq!((bench.release(), value(&mut one), value(&mut two)), (2, 0, 0));
}

#[test]
fn a_refusal_before_earlier_commits_does_not_take_them_along() {
    let mut bench = Bench::new();
    let (_, mut one) = bench.add(1);
    let (_, mut two) = bench.add(2);
    let mut read = bench.get();
    bench.core.resolve(Seq(2), Err(full()));
    assert_eq!(bench.release(), 0, "the first is still under way");
    assert!(bench.core.pipeline().failed().is_none());
    bench.core.resolve(Seq(1), Ok(()));
    assert_eq!((bench.release(), value(&mut one)), (3, 1));
    let refused = two.try_recv().unwrap().unwrap_err();
    assert!(matches!(refused, AskError::Journal(JournalError::DiskFull { .. })), "{refused}");
    let aborted = read.try_recv().unwrap().unwrap_err();
    assert!(matches!(aborted, AskError::Aborted { effect: TookEffect::None, .. }), "{aborted}");
    assert!(bench.core.pipeline().failed().is_some());
    assert!(!bench.core.has_room(&bench.rules.settings), "no command is handled any more");
}

#[test]
fn a_repeat_of_what_is_lost_under_way_is_of_unknown_effect() {
    let mut bench = Bench::new();
    let options =
        || Options { request_id: Some(RequestId::new("r").unwrap()), ..Options::default() };
    let (Decision::Submit(draft), mut first) = bench.command(Add(1), options()) else {
        panic!("it writes")
    };
    assert!(draft.request.is_some_and(|request| request.id.as_str() == "r"));
    let (Decision::Held, mut repeat) = bench.command(Add(1), options()) else {
        panic!("it is known")
    };
    let lost = JournalError::FailedUnderWay { cause: "planted".into() };
    bench.core.resolve(Seq(1), Err(lost));
    assert_eq!(bench.release(), 2);
    for answer in [&mut first, &mut repeat] {
        assert_eq!(answer.try_recv().unwrap().unwrap_err().effect(), TookEffect::Unknown);
    }
}

#[test]
fn what_may_be_under_way_is_bounded_by_bytes_too() {
    let mut bench = Bench::new();
    let settings = EntitySettings::default().max_in_flight(100).max_in_flight_bytes(2);
    assert!(bench.core.has_room(&settings));
    bench.add(1);
    assert!(bench.core.has_room(&settings), "one byte is under way");
    bench.add(1);
    assert!(!bench.core.has_room(&settings));
    bench.core.resolve(Seq(1), Ok(()));
    assert!(bench.core.has_room(&settings));
}

#[test]
fn an_apply_that_panics_ends_the_incarnation() {
    let mut bench = Bench::new();
    let (decision, _) = bench.command(Add(13), Options::default());
    let Decision::Crashed(_, reason) = decision else { panic!("it panics") };
    assert!(reason.contains("unlucky"), "{reason}");
}

#[test]
fn a_snapshot_has_the_state_of_its_moment() {
    let mut bench = Bench::new();
    bench.rules.settings = EntitySettings::default().snapshot_every(2);
    for by in 1..=3 {
        bench.add(by);
    }
    for seq in 1..=3 {
        bench.core.resolve(Seq(seq), Ok(()));
    }
    let mut images = Vec::new();
    while let Some(Released { held, .. }) = bench.core.release() {
        images.push(held.snapshot);
    }
    let Some(image) = &images[1] else { panic!("after the second event") };
    assert!(images[0].is_none() && images[2].is_none());
    let (state, _, _) = image::decode(&Sum, &bench.rules.settings, 1, image).unwrap();
    assert_eq!(state, 3, "without the third event, which was handled before this was committed");
}

#[test]
fn an_image_is_decoded_whole_or_not_at_all() {
    let settings = EntitySettings::default();
    let mut window = Window::default();
    let answered = Answered {
        id: RequestId::new("r").unwrap(),
        seq: Seq(5),
        at: Timestamp(7),
        reply: Bytes::from_static(b"reply"),
    };
    window.insert(answered.clone(), &settings);
    let image = image::encode(&300u64, &window, &Meta::default()).unwrap();
    let (state, kept, _) = image::decode(&Sum, &settings, 1, &image).unwrap();
    assert_eq!((state, kept.iter().collect::<Vec<_>>()), (300, vec![&answered]));
    for cut in 0..image.len() {
        assert!(image::decode(&Sum, &settings, 1, &image[..cut]).is_err(), "cut at {cut}");
    }
    let longer = [&image[..], &[0]].concat();
    assert!(image::decode(&Sum, &settings, 1, &longer).is_err());
    assert!(image::decode(&Sum, &settings, 2, &image).is_err(), "no upgrade is written");
}

/// On users' disks: never change the expectation.
#[test]
fn an_image_is_golden() {
    let settings = EntitySettings::default();
    let mut window = Window::default();
    let (id, reply) = (RequestId::new("r").unwrap(), Bytes::from_static(&[9]));
    window.insert(Answered { id, seq: Seq(5), at: Timestamp(7), reply }, &settings);
    let image = image::encode(&300u64, &window, &Meta::default()).unwrap();
    assert_eq!(&image[..], [1, 1, 1, b'r', 5, 7, 1, 9, 0xac, 0x02]);
}
