//! A certificate authority of the tests' own, made by the `openssl` command.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::packages::{self, Need};

const OPENSSL: Need = Need {
    what: "the openssl command",
    debian_package: "openssl",
    is_met: || packages::program_in_path("openssl").is_some(),
};

/// An authority that lives in a directory. Everything that it makes is PEM, in that directory.
pub struct Authority {
    directory: PathBuf,
}

/// A certificate for a client, with its key as it is and once more with a password.
pub struct ClientCertificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub encrypted_key: PathBuf,
    pub key_password: String,
}

impl Authority {
    /// A new authority in a directory, which is created.
    pub fn create(directory: &Path) -> Result<Authority> {
        packages::ensure_installed(&[&OPENSSL])?;
        fs::create_dir_all(directory)?;
        let authority = Authority { directory: directory.to_owned() };
        authority.openssl(
            "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN=projector-tests",
        )?;
        Ok(authority)
    }

    /// The authority's own certificate: what a client must trust.
    pub fn ca(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// A server's certificate for `localhost` and 127.0.0.1: one PEM file with key, certificate and CA, as
    /// Kafka wants its PEM keystores.
    pub fn server(&self) -> Result<PathBuf> {
        self.sign("server", "server", 30)?;
        let read = |file: &str| fs::read_to_string(self.directory.join(file));
        let keystore = self.directory.join("server-keystore.pem");
        fs::write(&keystore, [read("server.key")?, read("server.pem")?, read("ca.pem")?].concat())?;
        Ok(keystore)
    }

    /// A client's certificate. Its common name is the name of the Kafka user.
    pub fn client(&self, user: &str) -> Result<ClientCertificate> {
        self.client_for(user, 30)
    }

    /// One that expired yesterday.
    pub fn expired_client(&self, user: &str) -> Result<ClientCertificate> {
        self.client_for(user, -1)
    }

    fn client_for(&self, user: &str, days: i32) -> Result<ClientCertificate> {
        let file = format!("client-{user}");
        self.sign(&file, user, days)?;
        let key_password = format!("key-password-of-{user}");
        self.openssl(&format!(
            "pkcs8 -topk8 -in {file}.key -out {file}-encrypted.key -v2 aes-256-cbc -passout pass:{key_password}"
        ))?;
        Ok(ClientCertificate {
            certificate: self.directory.join(format!("{file}.pem")),
            key: self.directory.join(format!("{file}.key")),
            encrypted_key: self.directory.join(format!("{file}-encrypted.key")),
            key_password,
        })
    }

    /// `file.key` and `file.pem`.
    fn sign(&self, file: &str, common_name: &str, days: i32) -> Result<()> {
        fs::write(
            self.directory.join(format!("{file}.ext")),
            "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n",
        )?;
        self.openssl(&format!(
            "req -newkey rsa:2048 -nodes -keyout {file}.key -out {file}.csr -subj /CN={common_name}"
        ))?;
        self.openssl(&format!(
            "x509 -req -in {file}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days {days} -extfile {file}.ext -out {file}.pem"
        ))
    }

    fn openssl(&self, arguments: &str) -> Result<()> {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(&self.directory)
            .output()
            .context("cannot run openssl")?;
        ensure!(
            output.status.success(),
            "openssl {arguments}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}
