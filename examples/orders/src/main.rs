//! `orders serve` runs the service; `orders demo` kills it under load and checks every order.

use std::{error::Error, net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::Parser;
use orders::{Outside, certs, demo};
use tracing_subscriber::EnvFilter;

/// Orders over HTTP, each a durable entity. No database.
#[derive(Parser)]
#[command(version)]
enum Cli {
    /// Runs the service until SIGTERM or Ctrl-C.
    Serve {
        /// The folder that holds everything; made if need be.
        #[arg(long, value_name = "DIR", default_value = "orders-data")]
        data: PathBuf,
        /// Where to listen; port 0 takes a free one.
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
        listen: SocketAddr,
        /// Be one node of a cluster: the TOML file with this node's configuration, which also says
        /// where its data are.
        #[arg(long, value_name = "FILE", conflicts_with = "data")]
        config: Option<PathBuf>,
        /// Make a new cluster, with this node as its first. Once, on one node.
        #[arg(long, requires = "config")]
        bootstrap: bool,
        #[command(flatten)]
        outside: Outside,
    },
    /// Makes certificates and configurations for a cluster on this machine.
    Certs(certs::Options),
    /// Runs the service, sends it orders, kills it with SIGKILL meanwhile, and checks every order.
    Demo(demo::Options),
}

/// What is logged unless `RUST_LOG` says otherwise. Libraries tell of a node that is down many times a
/// second, and Duractor tells it once.
const LOG: &str = "info,openraft=error,ractor_cluster=error";

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(Cli::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<ExitCode, Box<dyn Error>> {
    match cli {
        Cli::Serve { data, listen, config, bootstrap, outside } => {
            let ready = |address| println!("listening on http://{address}");
            match config {
                None => orders::serve(&data, listen, &outside, ready).await?,
                Some(config) => {
                    orders::serve_member(&config, bootstrap, listen, &outside, ready).await?;
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Cli::Certs(options) => {
            certs::run(&options)?;
            Ok(ExitCode::SUCCESS)
        }
        Cli::Demo(options) => demo::run(&options).await,
    }
}
