//! The server as a child process: started, killed, started again on the same folder.

use std::{env, io, net::SocketAddr, path::Path, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

/// How long a server may take to start.
const START: Duration = Duration::from_secs(30);
/// How long a server may take to stop: it finishes requests, and hands over what it leads.
const STOP: Duration = Duration::from_secs(60);
/// What servers log unless `RUST_LOG` says otherwise: that a node is killed is no news here.
const LOG: &str = "warn,duractor::cluster=error,openraft=off,ractor_cluster=off";

/// A running server. Killed when dropped.
pub(crate) struct Server {
    child: Child,
    /// Open as long as the server is, which may write to it.
    _stdout: BufReader<ChildStdout>,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts this program's `serve` with these arguments, as this version of the application, and waits
    /// until it listens.
    pub(crate) async fn start(arguments: &[String], version: &str) -> Result<Self, String> {
        let program = env::current_exe().map_err(|error| error.to_string())?;
        let level = env::var("RUST_LOG").unwrap_or_else(|_| LOG.to_owned());
        let mut child = Command::new(program)
            .arg("serve")
            .args(arguments)
            .env("RUST_LOG", level)
            // As any setting, `node.version` may also come from the environment.
            .env("DURACTOR_NODE_VERSION", version)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("the server does not start: {error}"))?;
        let stdout = child.stdout.take().ok_or("the server has no output")?;
        let (mut stdout, mut line) = (BufReader::new(stdout), String::new());
        let read = timeout(START, stdout.read_line(&mut line)).await;
        read.map_err(|_| format!("the server is not up within {START:?}"))?
            .map_err(|error| error.to_string())?;
        let address = line.trim().strip_prefix("listening on http://");
        let address = address.and_then(|address| address.parse().ok());
        let address = address.ok_or("the server ended before it listened")?;
        Ok(Self { child, _stdout: stdout, address })
    }

    /// The service on a single node, on a free port.
    pub(crate) async fn start_alone(data: &Path) -> Result<Self, String> {
        let data = data.display().to_string();
        Self::start(&["--listen", "127.0.0.1:0", "--data", &data].map(str::to_owned), "1.0.0").await
    }

    /// Tells it to stop (SIGTERM), and waits until it has.
    pub(crate) async fn terminate(mut self) -> Result<(), String> {
        let id = self.child.id().ok_or("the server is gone")?.to_string();
        let told = Command::new("kill").args(["-TERM", &id]).status().await;
        if !told.map_err(|error| format!("no program `kill`: {error}"))?.success() {
            return Err(format!("process {id} cannot be told to stop"));
        }
        let ended = timeout(STOP, self.child.wait()).await;
        let ended = ended.map_err(|_| format!("process {id} does not stop within {STOP:?}"))?;
        match ended.map_err(|error| error.to_string())? {
            status if status.success() => Ok(()),
            status => Err(format!("process {id} stopped with {status}")),
        }
    }

    /// Kills it with SIGKILL, which no process can catch, and waits until it is gone.
    pub(crate) async fn kill(mut self) -> io::Result<()> {
        self.child.kill().await
    }
}
