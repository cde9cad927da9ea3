//! stub
use std::sync::Arc;
use futures_util::future::BoxFuture;
use ractor::ActorCell;
use crate::{entity::EventSourced, shared::{Spawned, Startable}, slot::Slot};
impl<E: EventSourced> Startable for Slot<E> {
    fn spawn(self: Arc<Self>, _: ActorCell) -> BoxFuture<'static, Option<Spawned>> { Box::pin(async { None }) }
    fn ended(self: Arc<Self>, _: u32, _: String) {}
}
