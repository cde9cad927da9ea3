//! One node process: start, kill, freeze, stop.

use std::{io, path::Path, process::ExitStatus, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use tokio::{net::TcpListener, process::Command, sync::Mutex, time::timeout};

use super::{
    Failure,
    control::{CallError, Control},
    wire::{Hello, NodeConfig, Request},
};

/// How long a node may take to open its data and its links.
const START: Duration = Duration::from_secs(60);
/// How long it may take to close them.
const STOP: Duration = Duration::from_secs(30);

/// A node process. It is killed when this is dropped.
pub struct Child {
    /// Who it is and where it listens.
    pub hello: Hello,
    /// Its process.
    pub pid: u32,
    control: Control,
    process: Mutex<tokio::process::Child>,
}

impl Child {
    /// Starts a node: `program node CONFIG`. Returns when it listens.
    ///
    /// # Errors
    /// It did not start, or ended before it was ready.
    pub async fn start(program: &Path, mut config: NodeConfig) -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        config.control = listener.local_addr()?.to_string();
        let mut process = Command::new(program)
            .arg("node")
            .arg(serde_json::to_string(&config)?)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let pid = process.id().ok_or("the node ended at once")?;
        let ready = async {
            let (stream, _) = listener.accept().await?;
            Ok::<_, Failure>(Control::accept(stream).await?)
        };
        let (control, hello) = tokio::select! {
            biased;
            ready = timeout(START, ready) => {
                ready.map_err(|_| format!("node {} is not ready after {START:?}", config.me))??
            }
            status = process.wait() => {
                return Err(format!("node {} ended by itself, with {}", config.me, status?).into());
            }
        };
        Ok(Self { hello, pid, control, process: Mutex::new(process) })
    }

    /// Asks the node.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call<T: DeserializeOwned>(
        &self,
        request: &Request,
        longest: Duration,
    ) -> Result<T, CallError> {
        self.control.call(request, longest).await
    }

    /// SIGKILL. Returns when the process is gone.
    ///
    /// # Errors
    /// The operating system refused.
    pub async fn kill(&self) -> io::Result<()> {
        self.process.lock().await.kill().await
    }

    /// SIGSTOP: the process stands still and keeps everything.
    ///
    /// # Errors
    /// The operating system refused; there is no such process any more.
    pub fn freeze(&self) -> io::Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT: it goes on.
    ///
    /// # Errors
    /// As [`freeze`](Self::freeze).
    pub fn thaw(&self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(kill_process(pid, signal)?)
    }

    /// Ends the node as its user would: journal and links are closed. Returns when it has ended.
    ///
    /// # Errors
    /// It did not close in time, or ended with an error.
    pub async fn stop(&self) -> Result<(), Failure> {
        // The answer may be lost in the end of the process, whose status tells better.
        let _ = self.call::<()>(&Request::Stop, STOP).await;
        let status = timeout(STOP, self.ended()).await.map_err(|_| "the node does not stop")??;
        if status.success() { Ok(()) } else { Err(format!("the node ended with {status}").into()) }
    }

    /// How the process ended, if it has.
    ///
    /// # Errors
    /// The operating system refused.
    pub async fn has_ended(&self) -> io::Result<Option<ExitStatus>> {
        self.process.lock().await.try_wait()
    }

    /// Waits for the end of the process.
    ///
    /// # Errors
    /// The operating system refused.
    pub async fn ended(&self) -> io::Result<ExitStatus> {
        self.process.lock().await.wait().await
    }
}
