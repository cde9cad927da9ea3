//! The transport in memory passes the suite of its port.

use std::sync::Arc;

use duractor_journal::{
    Member, Transport,
    transport::{contract::Provider, memory::MemoryNetwork},
};

struct Memory(MemoryNetwork);

impl Provider for Memory {
    async fn start(&self, node: u32) -> Arc<dyn Transport> {
        self.0.start(Member::new(node, 1), &self.address(node))
    }

    async fn stop(&self, node: u32) {
        self.0.stop(&self.address(node));
    }

    fn address(&self, node: u32) -> String {
        format!("node-{node}:1")
    }

    fn hold(&self, node: u32, held: bool) {
        let address = self.address(node);
        if held { self.0.hold(&address) } else { self.0.release(&address) }
    }
}

duractor_journal::transport_contract!(Memory(MemoryNetwork::new()));
