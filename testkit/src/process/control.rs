//! The control connection, as the parent has it: requests with answers, many at a time.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{TcpStream, tcp::OwnedReadHalf},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use super::wire::{Answer, Hello, Numbered, Request, line};

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The node's process is gone. Whether it did anything is not known.
    #[error("the node is gone")]
    Gone,
    /// No answer came in time. It may still do what it was asked for.
    #[error("the node does not answer")]
    TimedOut,
    /// The node says so.
    #[error("{0}")]
    Refused(String),
    /// The answer is another than was expected: parent and node are of different builds.
    #[error("the node answered something else: {0}")]
    Strange(String),
}

/// Answers that are waited for; none any more where the node is gone.
type Waiting = Arc<Mutex<Option<Table>>>;

#[derive(Default)]
struct Table {
    next: u64,
    calls: BTreeMap<u64, oneshot::Sender<Answer>>,
}

/// A node that can be asked. Ends with its last owner.
pub struct Control {
    lines: mpsc::UnboundedSender<Vec<u8>>,
    waiting: Waiting,
    reading: JoinHandle<()>,
}

impl Control {
    /// Takes a connection that a node opened; returns when the node says that it is ready.
    ///
    /// # Errors
    /// The connection broke, or the other side is no node.
    pub async fn accept(stream: TcpStream) -> Result<(Self, Hello), CallError> {
        let strange = |error: &dyn std::fmt::Display| CallError::Strange(error.to_string());
        stream.set_nodelay(true).map_err(|error| strange(&error))?;
        let (read, mut write) = stream.into_split();
        let mut answers = BufReader::new(read).lines();
        let first = answers.next_line().await.ok().flatten().ok_or(CallError::Gone)?;
        let hello = serde_json::from_str(&first).map_err(|error| strange(&error))?;
        let (lines, mut queue) = mpsc::unbounded_channel::<Vec<u8>>();
        let waiting: Waiting = Arc::new(Mutex::new(Some(Table::default())));
        let reading = tokio::spawn(read_answers(answers, waiting.clone()));
        tokio::spawn(async move {
            while let Some(line) = queue.recv().await {
                if write.write_all(&line).await.is_err() {
                    return;
                }
            }
        });
        Ok((Self { lines, waiting, reading }, hello))
    }

    /// Asks, and waits for the answer at most so long.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call<T: DeserializeOwned>(
        &self,
        request: &Request,
        longest: Duration,
    ) -> Result<T, CallError> {
        let (tx, rx) = oneshot::channel();
        let id = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let table = waiting.as_mut().ok_or(CallError::Gone)?;
            table.next += 1;
            let id = table.next;
            table.calls.insert(id, tx);
            id
        };
        let strange = |error: serde_json::Error| CallError::Strange(error.to_string());
        let line = line(&Numbered { id, body: request }).map_err(strange)?;
        self.lines.send(line).map_err(|_| CallError::Gone)?;
        let answer = match timeout(longest, rx).await {
            Ok(answer) => answer.map_err(|_| CallError::Gone)?,
            Err(_) => {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                waiting.as_mut().and_then(|table| table.calls.remove(&id));
                return Err(CallError::TimedOut);
            }
        };
        serde_json::from_value(answer.map_err(CallError::Refused)?).map_err(strange)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

async fn read_answers(mut answers: Lines<BufReader<OwnedReadHalf>>, waiting: Waiting) {
    while let Ok(Some(line)) = answers.next_line().await {
        // A process that was killed may leave half a line.
        let Ok(Numbered { id, body }) = serde_json::from_str::<Numbered<Answer>>(&line) else {
            break;
        };
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(call) = waiting.as_mut().and_then(|table| table.calls.remove(&id)) {
            // Whoever asked may have stopped waiting.
            let _ = call.send(body);
        }
    }
    // All who wait hear that nothing comes any more.
    waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
}
