//! `orders serve` runs the service; `orders demo` kills it under load and checks every order.

use std::{error::Error, net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::Parser;
use orders::demo;
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
    },
    /// Runs the service, sends it orders, kills it with SIGKILL meanwhile, and checks every order.
    Demo(demo::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
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
        Cli::Serve { data, listen } => {
            let ready = |address| println!("listening on http://{address}");
            orders::serve(&data, listen, ready).await?;
            Ok(ExitCode::SUCCESS)
        }
        Cli::Demo(options) => demo::run(&options).await,
    }
}
