//! `orders certs`: a CA and certificates for a cluster of one's own, and the nodes' configurations.

use std::{error::Error, fmt::Write, fs, net::SocketAddr, path::PathBuf};

use clap::Args;
use duractor::link::dev::DevCa;

/// A secure cluster on this machine.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// The folder for certificates and configurations; made if need be.
    #[arg(long, value_name = "DIR", default_value = "orders-cluster")]
    pub dir: PathBuf,
    /// The cluster's name. The certificates carry it: nodes of other clusters are refused.
    #[arg(long, value_name = "NAME", default_value = "orders")]
    pub cluster: String,
    /// How many nodes.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub nodes: u16,
    /// The first node's port for the others; the next ones follow.
    #[arg(long, value_name = "PORT", default_value_t = 7001)]
    pub first_port: u16,
}

/// Makes them and says where they are.
///
/// # Errors
/// A file cannot be written.
pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let port = |n: u16| options.first_port + n - 1;
    let addresses = (1..=options.nodes).map(|n| SocketAddr::from(([127, 0, 0, 1], port(n))));
    for config in write(options, &addresses.collect::<Vec<_>>())? {
        println!("{}", config.display());
    }
    Ok(())
}

/// Makes the certificates, and a configuration for each of the nodes that listen at these addresses.
/// Returns the configurations' files.
///
/// # Errors
/// A file cannot be written.
pub fn write(options: &Options, addresses: &[SocketAddr]) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let Options { dir, cluster, .. } = options;
    let ca = DevCa::create(dir.join("certs"), cluster)?;
    let quoted: Vec<_> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    let seeds = quoted.join(", ");
    let mut configs = Vec::new();
    for (number, address) in (1u32..).zip(addresses) {
        let files = ca.node(number)?;
        let mut text = format!("[node]\nnumber = {number}\n");
        writeln!(text, "data_dir = {:?}", dir.join(format!("node{number}")))?;
        writeln!(text, "\n[cluster]\nname = {cluster:?}\n\n[net]\nlisten = \"{address}\"")?;
        writeln!(text, "\n[tls]\nca = {:?}", files.ca)?;
        writeln!(text, "cert = {:?}\nkey = {:?}", files.certificate, files.key)?;
        writeln!(text, "\n[discovery]\nseeds = [{seeds}]")?;
        let path = dir.join(format!("node{number}.toml"));
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        configs.push(path);
    }
    Ok(configs)
}
