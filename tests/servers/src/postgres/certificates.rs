//! Certificates made for a test by openssl: an authority, and what it vouches for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::packages::{self, Need, program_in_path};

const OPENSSL: Need =
    Need { what: "openssl", debian_package: "openssl", is_met: || program_in_path("openssl").is_some() };

/// An authority, in a directory of its own.
pub struct Issuer {
    directory: PathBuf,
}

/// A certificate and its key, as PEM files.
pub struct Certificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Issuer {
    /// `directory` must exist.
    pub fn new(directory: &Path) -> Result<Issuer> {
        packages::ensure_installed(&[&OPENSSL])?;
        let authority = Issuer { directory: directory.to_owned() };
        openssl(&[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "30",
            "-subj",
            "/CN=authority",
            "-addext",
            "keyUsage=critical,keyCertSign",
            "-keyout",
            &authority.path("ca.key"),
            "-out",
            &authority.path("ca.pem"),
        ])?;
        Ok(authority)
    }

    /// Its certificate.
    pub fn certificate(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// Vouches for a server or a client: `names` as in `DNS:localhost,IP:127.0.0.1`. One that is for -1 days
    /// has expired.
    pub fn vouch(&self, file: &str, common_name: &str, names: &str, days: i32) -> Result<Certificate> {
        let (key, request, out) = (
            self.path(&format!("{file}.key")),
            self.path(&format!("{file}.csr")),
            self.path(&format!("{file}.pem")),
        );
        openssl(&[
            "req",
            "-new",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            &format!("/CN={common_name}"),
            "-keyout",
            &key,
            "-out",
            &request,
        ])?;
        let extensions = self.path(&format!("{file}.ext"));
        fs::write(&extensions, format!("subjectAltName={names}\nbasicConstraints=CA:FALSE\n"))?;
        // `x509` knows no past: an expired certificate is one of a `ca` database.
        let (index, serial, config) = (self.path("index.txt"), self.path("serial"), self.path("ca.cnf"));
        fs::write(&index, "")?;
        fs::write(self.path("index.txt.attr"), "unique_subject = no\n")?;
        fs::write(
            &serial,
            format!(
                "{:08x}\n",
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.subsec_nanos()
            ),
        )?;
        fs::write(
            &config,
            format!(
                "[ca]\ndefault_ca = own\n[own]\ndatabase = {index}\nserial = {serial}\nnew_certs_dir = {}\ndefault_md = sha256\npolicy = any\n[any]\ncommonName = supplied\n",
                self.directory.display()
            ),
        )?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() as i64;
        openssl(&[
            "ca",
            "-batch",
            "-notext",
            "-config",
            &config,
            "-cert",
            &self.path("ca.pem"),
            "-keyfile",
            &self.path("ca.key"),
            "-in",
            &request,
            "-out",
            &out,
            "-extfile",
            &extensions,
            "-startdate",
            &date(now - 10 * 86_400),
            "-enddate",
            &date(now + i64::from(days) * 86_400),
        ])?;
        Ok(Certificate { certificate: out.into(), key: key.into() })
    }

    fn path(&self, file: &str) -> String {
        self.directory.join(file).display().to_string()
    }
}

/// As openssl writes it: `YYYYMMDDHHMMSSZ`, of seconds since 1970.
fn date(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 0000-03-01, in eras of 400 years.
    let day = days + 719_468;
    let (era, of_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let (month, date) = (if month < 10 { month + 3 } else { month - 9 }, of_year - (153 * month + 2) / 5 + 1);
    let year = year + era * 400 + i64::from(month <= 2);
    format!("{year:04}{month:02}{date:02}{:02}{:02}{:02}Z", rest / 3_600, rest / 60 % 60, rest % 60)
}

fn openssl(arguments: &[&str]) -> Result<()> {
    let output = Command::new("openssl").args(arguments).output().context("cannot run openssl")?;
    ensure!(
        output.status.success(),
        "openssl {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_the_calendars() {
        assert_eq!(date(0), "19700101000000Z");
        assert_eq!(date(951_782_399), "20000228235959Z");
        assert_eq!(date(951_782_400), "20000229000000Z");
    }
}
