//! Certificates for development: a CA and one certificate for each node, in a folder.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! use duractor::link::dev::DevCa;
//!
//! let ca = DevCa::create(dir.path(), "shop")?;
//! let files = ca.node(1)?;
//! assert!(files.certificate.ends_with("node-1.pem"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The certificates never expire and the CA's key lies beside them: good enough for tests and for
//! machines of one's own. In production, use the CA that you have, and give each node a certificate
//! with the name `duractor://CLUSTER/node/N` as a URI, for both server and client authentication.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use duractor_journal::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::{
    tls::TlsFiles,
    who::{Certified, is_name},
};

/// Why a development certificate was not made.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// A file cannot be written or read.
    #[error("{}: {error}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The cluster's name cannot be in a certificate.
    #[error("a cluster's name is 1 to 64 of a-z A-Z 0-9 - _ ., and {0:?} is not")]
    Cluster(String),
    /// The client's name cannot be in a certificate.
    #[error("a client's name is 1 to 64 of a-z A-Z 0-9 - _ ., and {0:?} is not")]
    Client(String),
    /// The certificate cannot be made.
    #[error("no certificate was made: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// A certificate authority for development.
pub struct DevCa {
    dir: PathBuf,
    cluster: String,
    issuer: Issuer<'static, KeyPair>,
}

impl DevCa {
    /// Makes a CA: `ca.pem` and `ca.key` in `dir`, which is made where it does not exist. A folder
    /// that has them already is opened, so that nodes can be added later.
    ///
    /// # Errors
    /// [`DevError`]. Files of a new CA may be there in part.
    pub fn create(dir: impl Into<PathBuf>, cluster: &str) -> Result<Self, DevError> {
        let dir = dir.into();
        if !is_name(cluster) {
            return Err(DevError::Cluster(cluster.to_owned()));
        }
        fs::create_dir_all(&dir).map_err(|error| file_error(&dir, error))?;
        let key_path = dir.join("ca.key");
        let key = match fs::read_to_string(&key_path) {
            Ok(pem) => KeyPair::from_pem(&pem)?,
            Err(_) => {
                let key = KeyPair::generate()?;
                let certificate = ca_params().self_signed(&key)?;
                write(&dir.join("ca.pem"), &certificate.pem(), false)?;
                write(&key_path, &key.serialize_pem(), true)?;
                key
            }
        };
        let issuer = Issuer::new(ca_params(), key);
        Ok(Self { dir, cluster: cluster.to_owned(), issuer })
    }

    /// Makes a node's certificate and key: `node-N.pem` and `node-N.key`, the latter for its owner's
    /// eyes only (mode 0600).
    ///
    /// # Errors
    /// [`DevError`].
    pub fn node(&self, node: u32) -> Result<TlsFiles, DevError> {
        let name = Certified::node(&self.cluster, NodeId(node));
        let usages = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&name, &format!("node {node}"), &usages, self.files(node))
    }

    /// Makes a client's certificate and key: `client-NAME.pem` and `client-NAME.key`. With them a
    /// process may ask the cluster's entities, and is nobody's peer: they are fit for no server. Any
    /// number of processes may use the same.
    ///
    /// # Errors
    /// [`DevError`]; [`DevError::Client`] where the name is not 1 to 64 of `a-z A-Z 0-9 - _ .`.
    pub fn client(&self, name: &str) -> Result<TlsFiles, DevError> {
        if !is_name(name) {
            return Err(DevError::Client(name.to_owned()));
        }
        let files = self.paths(&format!("client-{name}"));
        let certified = Certified::client(&self.cluster, name);
        let usages = [ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&certified, &format!("client {name}"), &usages, files)
    }

    fn sign(
        &self,
        name: &Certified,
        common: &str,
        usages: &[ExtendedKeyUsagePurpose],
        files: TlsFiles,
    ) -> Result<TlsFiles, DevError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common);
        params.subject_alt_names = vec![SanType::URI(name.uri().try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages.to_vec();
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        write(&files.certificate, &certificate.pem(), false)?;
        write(&files.key, &key.serialize_pem(), true)?;
        Ok(files)
    }

    /// Where a node's files are.
    #[must_use]
    pub fn files(&self, node: u32) -> TlsFiles {
        self.paths(&format!("node-{node}"))
    }

    fn paths(&self, whose: &str) -> TlsFiles {
        TlsFiles {
            ca: self.dir.join("ca.pem"),
            certificate: self.dir.join(format!("{whose}.pem")),
            key: self.dir.join(format!("{whose}.key")),
        }
    }
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Duractor development CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn write(path: &Path, text: &str, private: bool) -> Result<(), DevError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    if private {
        use std::os::unix::fs::OpenOptionsExt;
        // A file that is there keeps its mode, so it must not be there.
        let _ = fs::remove_file(path);
        options.mode(0o600);
    }
    #[cfg(not(unix))]
    let _ = private;
    let mut file = options.open(path).map_err(|error| file_error(path, error))?;
    file.write_all(text.as_bytes()).map_err(|error| file_error(path, error))
}

fn file_error(path: &Path, error: std::io::Error) -> DevError {
    DevError::File { path: path.to_owned(), error }
}
