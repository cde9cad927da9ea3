//! Tuples of commands: which commands an entity takes, and how one that arrives as bytes is read.

use std::any::{Any, TypeId};

use bytes::Bytes;

use crate::{
    codec::Schema,
    command::Command,
    delivery::{Away, away},
    effect::Handle,
    entity::{CommandSet, EventSourced},
    error::AskError,
    intent::{BoxEnvelope, Options},
};

/// A command's bytes, with what its caller said beside them.
pub(crate) struct Raw {
    pub(crate) version: u16,
    pub(crate) payload: Bytes,
    pub(crate) options: Options,
    pub(crate) reply: Away,
}

/// Reads a command. Where it cannot be read, its caller has heard so.
pub(crate) type Door<E> = fn(Raw) -> Option<BoxEnvelope<E>>;

fn read<E: Handle<C>, C: Command>(raw: Raw) -> Option<BoxEnvelope<E>> {
    let Raw { version, payload, options, reply } = raw;
    match C::decode(version, &payload) {
        Ok(command) => Some(away::<E, C>(command, options, reply)),
        Err(error) => {
            reply.send(Err(AskError::Codec(error)));
            None
        }
    }
}

/// The door for a command of this name.
pub(crate) fn door<E: EventSourced>(name: &str) -> Option<Door<E>> {
    E::Commands::door(name)?.downcast::<Door<E>>().ok().map(|door| *door)
}

macro_rules! command_sets {
    ($($command:ident)*) => {
        impl<E, $($command),*> CommandSet<E> for ($($command,)*)
        where
            $($command: Command, E: Handle<$command>,)*
        {
            fn contains(command: TypeId) -> bool {
                [$(TypeId::of::<$command>()),*].contains(&command)
            }

            fn schemas() -> Vec<Schema> {
                vec![$($command::schema()),*]
            }

            fn door(name: &str) -> Option<Box<dyn Any>> {
                $(if name == $command::NAME {
                    return Some(Box::new(read::<E, $command> as Door<E>));
                })*
                None
            }
        }
    };
}

/// Sets of each size up to that of the list.
macro_rules! command_sets_up_to {
    ($first:ident $($rest:ident)*) => {
        command_sets!($first $($rest)*);
        command_sets_up_to!($($rest)*);
    };
    () => {};
}

command_sets_up_to!(A B C D F G H I J K L M N O P Q R S T U V W X Y);
