//! A certificate authority that lives as long as a test, made by `openssl`.

use std::fs;
use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A connection of a client.
pub(crate) type Stream = StreamOwned<ServerConnection, TcpStream>;

/// The authority. Its files are `ca.crt`, and `server.crt` and `server.key` for 127.0.0.1 and ::1.
#[derive(Clone)]
pub struct Authority {
    /// Where its files are.
    pub directory: PathBuf,
}

impl Authority {
    /// Makes the files in `directory`.
    pub fn new(directory: &Path) -> Self {
        fs::create_dir_all(directory).unwrap();
        let authority = Self { directory: directory.to_owned() };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        authority
            .openssl(&format!("req -x509 {key} -keyout ca.key -out ca.crt -subj /CN=test-authority -days 2"));
        authority.openssl(&format!("req {key} -keyout server.key -out server.csr -subj /CN=kubernetes"));
        fs::write(directory.join("names"), "subjectAltName=IP:127.0.0.1,IP:::1\n").unwrap();
        authority.openssl(
            "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt -days 2 -extfile names",
        );
        authority
    }

    fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        let output = command.args(arguments.split_whitespace()).current_dir(&self.directory).output();
        let output = output.unwrap_or_else(|error| panic!("openssl: {error}; install openssl"));
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// What a server with its certificate needs.
    pub fn server(&self) -> Arc<ServerConfig> {
        let certificate = CertificateDer::from_pem_file(self.directory.join("server.crt")).unwrap();
        let key = PrivateKeyDer::from_pem_file(self.directory.join("server.key")).unwrap();
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
        Arc::new(config.unwrap())
    }
}

pub(crate) fn accept(config: Arc<ServerConfig>, socket: TcpStream) -> io::Result<Stream> {
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    Ok(StreamOwned::new(connection, socket))
}
