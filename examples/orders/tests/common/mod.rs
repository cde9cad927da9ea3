//! A server in this process, and a client of raw bytes.

use std::net::SocketAddr;

use duractor::Node;
use orders::{http::router, invoices::Book, kinds, leader::who_leads, shop};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

pub(crate) struct Service {
    pub(crate) node: Node,
    folder: TempDir,
    address: SocketAddr,
    server: JoinHandle<()>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) json: Value,
    head: String,
}

impl Service {
    pub(crate) async fn start() -> Self {
        Self::open(tempfile::tempdir().unwrap()).await
    }

    pub(crate) async fn restart(self) -> Self {
        Self::open(self.stop().await).await
    }

    pub(crate) async fn stop(self) -> TempDir {
        self.server.abort();
        self.node.shutdown().await;
        self.folder
    }

    async fn open(folder: TempDir) -> Self {
        let node = kinds(Node::builder(folder.path())).leader_handler(who_leads(1));
        let node = node.start().await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let book = Book::new(folder.path().join("invoices.txt"));
        let app = router(node.clone()).merge(shop::routes(node.clone(), Some(book)));
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { node, folder, address, server }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.raw(&format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await
    }

    pub(crate) async fn post(&self, path: &str, key: Option<&str>, body: Value) -> Reply {
        self.send("POST", path, key, &body.to_string()).await
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: &str,
    ) -> Reply {
        let key = key.map(|key| format!("idempotency-key: {key}\r\n")).unwrap_or_default();
        let length = body.len();
        self.raw(&format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
             {key}content-length: {length}\r\n\r\n{body}"
        ))
        .await
    }

    /// Sends a request as it is; it must ask for the connection to be closed.
    pub(crate) async fn raw(&self, request: &str) -> Reply {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let dated = |line: &&str| !line.starts_with("date:");
        let head: Vec<_> = head.lines().filter(dated).collect();
        let json = serde_json::from_str(body).unwrap_or_else(|_| panic!("no JSON: {answer}"));
        Reply { status, json, head: head.join("\n") }
    }
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Status and code of an error, which must have a message too.
pub(crate) fn code(reply: &Reply) -> (u16, &str) {
    let error = &reply.json["error"];
    assert!(!error["message"].as_str().unwrap().is_empty());
    (reply.status, error["code"].as_str().unwrap())
}
