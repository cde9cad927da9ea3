//! What the framework keeps of an entity, where a command is decided.

use duractor_journal::{NewEvent, Timestamp};

use super::{Core, Halt, Rules, crash, pipeline::What};
use crate::{
    entity::EventSourced,
    error::AskError,
    event::Event,
    intent::BoxEnvelope,
    meta::{Denied, Judgement, Reserved, Wish},
};

impl<E: EventSourced> Core<E> {
    /// Answers a command of the framework's that was carried out before, or cannot be.
    pub(super) fn answer_known(
        &self,
        rules: &Rules<E>,
        now: Timestamp,
        envelope: &mut BoxEnvelope<E>,
    ) -> Option<What> {
        let options = envelope.options();
        let origin = options.origin.as_ref()?;
        // Its sender asks again while the first one waits in the stash: that one is enough.
        if self.stash.iter().any(|stashed| stashed.options().origin == options.origin) {
            let (entity, waiting) = (self.context.entity.clone(), self.stash.len());
            envelope.refuse(AskError::Busy { entity, waiting });
            return Some(What::Read);
        }
        match self.meta.judge(origin, now, &rules.settings) {
            Judgement::New => {}
            Judgement::Repeat(reply) => {
                envelope.repeat(reply);
                return Some(What::Repeat);
            }
            Judgement::TooLate => {
                let entity = self.context.entity.clone();
                envelope.refuse(AskError::Forgotten { entity });
                return Some(What::Read);
            }
            Judgement::Full => {
                let (entity, limit) = (self.context.entity.clone(), rules.settings.senders);
                let what = "senders of deliveries";
                envelope.refuse(AskError::LimitReached { entity, what, limit });
                return Some(What::Read);
            }
        }
        None
    }

    /// The framework's events that come of the wishes.
    pub(super) fn grant(
        &self,
        rules: &Rules<E>,
        now: Timestamp,
        wishes: Vec<Wish>,
    ) -> Result<Vec<Reserved>, Halt> {
        if wishes.is_empty() {
            return Ok(Vec::new());
        }
        self.meta.grant(wishes, now, &rules.settings).map_err(|denied| match denied {
            Denied::Limit(what, limit) => self.limit(what, limit),
            Denied::Error(error) => Halt::Refuse(error),
        })
    }

    /// Takes in one event of the framework and adds it to the batch. Returns its bytes.
    pub(super) fn keep(
        &mut self,
        rules: &Rules<E>,
        now: Timestamp,
        event: Reserved,
        encoded: &mut Vec<NewEvent>,
    ) -> Result<usize, Halt> {
        let schema = event.schema();
        let payload = event.encode().map_err(crash)?;
        let bytes = payload.len();
        if bytes > rules.limits.max_payload_bytes {
            return Err(Halt::Crash(format!("{:?} has {bytes} bytes", schema.name)));
        }
        encoded.push(NewEvent::new(schema.name, schema.version, payload));
        self.meta.apply(event, now, &rules.settings);
        self.context.revision = self.seq().next();
        Ok(bytes)
    }
}
