//! TLS with certificates from PEM files; SIGHUP reads them again, so that a renewed certificate needs no restart.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::ServerConfig;

/// Where certificate and key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, then those that signed it (PEM).
    pub certificate: PathBuf,
    /// Its private key (PEM: PKCS #8, PKCS #1 or SEC1).
    pub key: PathBuf,
}

/// TLS with the certificate of the moment.
#[derive(Debug, Clone)]
pub struct Tls {
    files: TlsFiles,
    current: Arc<RwLock<Arc<ServerConfig>>>,
}

impl Tls {
    /// Read the files.
    pub fn open(files: TlsFiles) -> Result<Self> {
        let current = Arc::new(RwLock::new(read(&files)?));
        Ok(Self { files, current })
    }

    /// Read the files again. On an error the old certificate stays.
    pub fn reload(&self) -> Result<()> {
        let config = read(&self.files)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// For the next connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn read(files: &TlsFiles) -> Result<Arc<ServerConfig>> {
    let failed = |path: &Path, message: String| Error::Tls { path: path.to_path_buf(), message };
    let text = |path: &Path| std::fs::read(path).map_err(|e| failed(path, e.to_string()));
    let chain = CertificateDer::pem_slice_iter(&text(&files.certificate)?).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|e| failed(&files.certificate, format!("no PEM certificate: {e}")))?;
    if chain.is_empty() {
        return Err(failed(&files.certificate, "there is no certificate in it (`-----BEGIN CERTIFICATE-----`)".into()));
    }
    let key = PrivateKeyDer::from_pem_slice(&text(&files.key)?).map_err(|e| failed(&files.key, format!("no PEM private key: {e}")))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| failed(&files.certificate, e.to_string()))?;
    let mut config =
        builder.with_no_client_auth().with_single_cert(chain, key).map_err(|e| failed(&files.certificate, format!("it cannot be used: {e}")))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
