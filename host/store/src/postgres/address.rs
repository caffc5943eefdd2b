//! Parses a store's url: its servers, in order, and how to connect to them.
//!
//! Why not only sqlx: it logs a warning for a parameter that it does not know, and continues. Here an unknown parameter is an
//! error that names it, so that no setting looks as if it were in force.

use std::path::PathBuf;
use std::str::FromStr;

use projector_config as config;
use projector_model::nearest;
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::fault::Setup;

/// The parameters that a url may have.
const KNOWN: [&str; 12] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "target_session_attrs",
];

/// Parameters of libpq that are not supported, and what to do instead.
const OTHERS: [(&str, &str); 8] = [
    ("connect_timeout", "leave it out: an attempt to connect ends after 10 s, and is repeated"),
    (
        "channel_binding",
        "leave it out: SCRAM is used without channel binding; sslmode=verify-full verifies the server",
    ),
    ("sslcrl", "leave it out: revocation lists are not read"),
    ("sslcrldir", "leave it out: revocation lists are not read"),
    ("sslpassword", "leave it out, and use an sslkey without a passphrase"),
    ("gssencmode", "leave it out: GSSAPI is not supported"),
    ("hostaddr", "write the address as the host"),
    ("pgbouncer", "leave it out: use the pooler's session mode"),
];

pub(super) struct Address {
    /// Tried in this order.
    pub(super) members: Vec<Member>,
    /// Whether a server that accepts no writes is not used at all.
    pub(super) writable_only: bool,
}

/// One server.
pub(super) struct Member {
    pub(super) options: PgConnectOptions,
    /// `host:port`, or the directory of its socket.
    pub(super) name: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Tls,
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

/// How the connection to a server is encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tls {
    /// Not at all: a Unix socket of this machine.
    Socket,
    Never,
    /// If the server has TLS.
    Prefer,
    /// By sqlx: the certificate is not checked, or checked against the authorities of the system.
    Required,
    /// By the host: the certificate is checked against the authorities of this file only. `any_name`: it may be for another
    /// host.
    Pinned {
        authorities: PathBuf,
        any_name: bool,
    },
}

impl Member {
    pub(super) fn role(&self) -> &str {
        self.options.get_username()
    }

    pub(super) fn database(&self) -> &str {
        self.options.get_database().unwrap_or_else(|| self.options.get_username())
    }

    /// Whether the connection stays on this machine.
    pub(super) fn is_on_this_machine(&self) -> bool {
        let address = self.host.parse::<std::net::IpAddr>();
        self.tls == Tls::Socket
            || self.host == "localhost"
            || address.is_ok_and(|address| address.is_loopback())
    }
}

impl Address {
    /// Reads the files of the url and the password (`${file:…}`) again.
    pub(super) fn of(settings: &config::Store) -> Result<Self, Setup> {
        let unreadable = |what: &str, error: config::TextError| {
            Setup::new(format!("the store's {what}: {error}"), "make the file readable to the host")
        };
        let url = settings.url.current().map_err(|error| unreadable("url", error))?;
        let password = settings.password.as_ref().map(|text| text.current()).transpose();
        Self::parse(&url, password.map_err(|error| unreadable("password", error))?.as_deref())
    }

    fn parse(url: &str, password: Option<&str>) -> Result<Self, Setup> {
        let wrong = |problem: &str, remedy: &str| Setup::new(format!("the store's url {problem}"), remedy);
        let (_, rest) = url.split_once("://").ok_or_else(|| wrong("has no scheme", "write postgres://…"))?;
        if rest.contains('#') {
            return Err(wrong("has a `#`", "write it as %23"));
        }
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = place.split_once('/').unwrap_or((place, ""));
        let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
        let mut given = Given { path, user, ..Given::default() };
        let mut hosts: Vec<String> = hosts.split(',').map(str::to_owned).collect();
        let mut ports: Vec<String> = Vec::new();
        let mut writable_only = false;
        for (name, value) in query.split('&').filter(|part| !part.is_empty()).map(parameter) {
            match &*name {
                "host" => hosts = value.split(',').map(|host| host.replace('/', "%2F")).collect(),
                "port" => ports = value.split(',').map(str::to_owned).collect(),
                "target_session_attrs" => {
                    writable_only = match &*value {
                        "any" => false,
                        "read-write" | "primary" => true,
                        other => {
                            return Err(wrong(
                                &format!("has target_session_attrs={other}"),
                                "the host writes: set it to read-write, primary or any",
                            ));
                        }
                    }
                }
                "sslmode" if value == "allow" => {
                    return Err(wrong(
                        "has sslmode=allow",
                        "set it to prefer, require, verify-ca or verify-full",
                    ));
                }
                "sslrootcert" => given.authorities = Some(value),
                "sslcert" => given.certificate = Some(value.into()),
                "sslkey" => given.key = Some(value.into()),
                known if KNOWN.contains(&known) || known.starts_with("options[") => {
                    given.has_password |= known == "password";
                    given.query.push((name, value));
                }
                unknown => return Err(unknown_parameter(unknown)),
            }
        }
        given.has_password |= user.contains(':');
        if given.has_password && password.is_some() {
            return Err(wrong(
                "has a password, and the store's settings have one beside it",
                "leave out the one in the url",
            ));
        }
        let members = hosts.iter().enumerate().map(|(at, host)| {
            let (host, own) = host_and_port(host);
            let port = own.or_else(|| {
                ports.get(at).or(ports.first()).map(String::as_str).filter(|port| !port.is_empty())
            });
            given.member(host, port, password)
        });
        Ok(Self { members: members.collect::<Result<_, _>>()?, writable_only })
    }
}

/// What all servers of a url have in common.
#[derive(Default)]
struct Given<'u> {
    user: &'u str,
    path: &'u str,
    query: Vec<(String, String)>,
    has_password: bool,
    authorities: Option<String>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Given<'_> {
    fn member(&self, host: &str, port: Option<&str>, password: Option<&str>) -> Result<Member, Setup> {
        let user = if self.user.is_empty() { String::new() } else { format!("{}@", self.user) };
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let query: Vec<String> =
            self.query.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        let url = format!("postgres://{user}{host}{port}/{}?{}", self.path, query.join("&"));
        let mut options = PgConnectOptions::from_str(&url).map_err(|error| {
            let text = match &error {
                sqlx::Error::Configuration(source) => source.to_string(),
                error => error.to_string(),
            };
            Setup::new(format!("the store's url cannot be used: {text}"), "correct it")
        })?;
        if let Some(bare) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            options = options.host(bare);
        }
        if let Some(password) = password {
            options = options.password(password);
        }
        if options.get_application_name().is_none() {
            options = options.application_name("projector");
        }
        options = options
            // Not sent as a startup parameter: poolers refuse parameters that they do not know.
            .extra_float_digits(None)
            .statement_cache_capacity(1_000)
            .log_statements(tracing::log::LevelFilter::Off)
            .log_slow_statements(tracing::log::LevelFilter::Off, std::time::Duration::from_secs(1));
        let socket = options.get_socket().map(|socket| socket.display().to_string());
        let socket =
            socket.or_else(|| Some(options.get_host().to_owned()).filter(|host| host.starts_with('/')));
        let (host, port) = (options.get_host().to_owned(), options.get_port());
        let name = match &socket {
            Some(directory) => directory.clone(),
            None if host.contains(':') => format!("[{host}]:{port}"),
            None => format!("{host}:{port}"),
        };
        let tls = if socket.is_some() { Tls::Socket } else { self.tls(options.get_ssl_mode())? };
        for (is_set, option) in [(&self.certificate, true), (&self.key, false)] {
            let Some(file) = is_set else { continue };
            options = match option {
                true => options.ssl_client_cert(file),
                false => options.ssl_client_key(file),
            };
        }
        if self.certificate.is_some() != self.key.is_some() {
            return Err(Setup::new(
                "the store's url has one of sslcert and sslkey",
                "set both: the certificate, and its key",
            ));
        }
        let (certificate, key) = (self.certificate.clone(), self.key.clone());
        Ok(Member { options, name, host, port, tls, certificate, key })
    }

    fn tls(&self, mode: PgSslMode) -> Result<Tls, Setup> {
        let from_environment = || std::env::var("PGSSLROOTCERT").ok();
        let authorities = self.authorities.clone().or_else(from_environment);
        let pointless = |mode: &str| {
            Setup::new(
                format!("the store's url has sslrootcert with sslmode={mode}, which checks no certificate"),
                "set sslmode=verify-full",
            )
        };
        match (mode, authorities.as_deref()) {
            (PgSslMode::Disable | PgSslMode::Allow, Some(_)) => Err(pointless("disable")),
            (PgSslMode::Prefer, Some(_)) => Err(pointless("prefer")),
            (PgSslMode::Disable | PgSslMode::Allow, None) => Ok(Tls::Never),
            (PgSslMode::Prefer, None) => Ok(Tls::Prefer),
            (PgSslMode::VerifyFull, Some("system")) | (_, None) => Ok(Tls::Required),
            (_, Some("system")) => Err(Setup::new(
                "the store's url has sslrootcert=system with a weaker sslmode",
                "set sslmode=verify-full: everyone can get a certificate of a public authority",
            )),
            // As in libpq: `require` with authorities means `verify-ca`.
            (mode, Some(file)) => {
                Ok(Tls::Pinned { authorities: file.into(), any_name: !matches!(mode, PgSslMode::VerifyFull) })
            }
        }
    }
}

fn unknown_parameter(name: &str) -> Setup {
    let problem = format!("the store's url has the parameter `{name}`, which is not supported");
    let remedy = match OTHERS.iter().find(|(other, _)| *other == name) {
        Some((_, remedy)) => (*remedy).to_owned(),
        None => match nearest(name, KNOWN.iter().copied()) {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => format!("the known parameters are {}", KNOWN.join(", ")),
        },
    };
    Setup::new(problem, remedy)
}

fn host_and_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        // The colons of an IPv6 address are in brackets.
        Some((host, port)) if !port.contains(']') => (host, Some(port).filter(|port| !port.is_empty())),
        _ => (host, None),
    }
}

fn parameter(part: &str) -> (String, String) {
    let (name, value) = part.split_once('=').unwrap_or((part, ""));
    (decoded(name), decoded(value))
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let code = match (first, after) {
            (b'%', [a, b, ..]) => {
                std::str::from_utf8(&[*a, *b]).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok())
            }
            _ => None,
        };
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        match Address::parse(url, None) {
            Ok(_) => panic!("{url} is accepted"),
            Err(setup) => setup.to_string(),
        }
    }

    fn names(url: &str) -> Vec<String> {
        let address = Address::parse(url, None).unwrap_or_else(|setup| panic!("{url}: {setup}"));
        address.members.into_iter().map(|member| member.name).collect()
    }

    #[test]
    fn a_url_may_name_several_servers() {
        let url = "postgres://me:p%40ss@a:5432,b:5433/db?target_session_attrs=read-write";
        assert_eq!(names(url), ["a:5432", "b:5433"]);
        let address = Address::parse(url, None).unwrap_or_else(|setup| panic!("{setup}"));
        assert!(address.writable_only);
        assert!(address.members.iter().all(|member| (member.role(), member.database()) == ("me", "db")));
        assert_eq!(names("postgres://me@[::1]:5433,c/db"), ["[::1]:5433", "c:5432"]);
        assert_eq!(names("postgres:///db?host=a,b&port=1,2&user=me"), ["a:1", "b:2"]);
        assert_eq!(names("postgres:///db?host=/run/postgresql&user=me"), ["/run/postgresql"]);
    }

    #[test]
    fn a_parameter_that_is_not_in_force_is_an_error_that_names_it() {
        for (parameter, says) in [
            ("connect_timeout=5", "10 s"),
            ("channel_binding=require", "leave it out"),
            ("sslcrl=x", "revocation"),
            ("sslmod=require", "did you mean `sslmode`?"),
            ("zzz=1", "the known parameters are"),
            ("target_session_attrs=standby", "the host writes"),
            ("sslmode=allow", "prefer"),
            ("sslmode=verify", "verify"),
            ("sslrootcert=/ca.pem", "sslmode=prefer"),
            ("sslmode=require&sslrootcert=system", "verify-full"),
            ("sslmode=require&sslcert=/c.pem", "set both"),
        ] {
            let name = parameter.split('=').next().unwrap_or_default();
            let text = refused(&format!("postgres://me:secret@a/db?{parameter}"));
            assert!(text.contains(name) || text.contains("ssl"), "{text}");
            assert!(text.contains(says) && !text.contains("secret"), "{parameter}: {text}");
        }
        assert!(refused("postgres://me@a:port/db").contains("port"));
        assert!(Address::parse("postgres://me:one@a/db", Some("two")).is_err());
        assert!(Address::parse("postgres://me@a/db", Some("two")).is_ok());
    }

    #[test]
    fn own_authorities_replace_those_of_the_system() {
        let tls = |query: &str| {
            let url = format!("postgres://me@a/db?{query}");
            Address::parse(&url, None).unwrap_or_else(|setup| panic!("{setup}")).members[0].tls.clone()
        };
        let pinned = |any_name| Tls::Pinned { authorities: "/ca.pem".into(), any_name };
        assert_eq!(tls("sslmode=verify-full&sslrootcert=%2Fca.pem"), pinned(false));
        assert_eq!(tls("sslmode=require&sslrootcert=/ca.pem"), pinned(true));
        assert_eq!(tls("sslmode=verify-full&sslrootcert=system"), Tls::Required);
        assert_eq!(tls("sslmode=verify-full"), Tls::Required);
        assert_eq!(tls(""), Tls::Prefer);
        assert_eq!(tls("sslmode=disable"), Tls::Never);
    }
}
