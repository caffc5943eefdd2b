//! The trust policy: which components may run.
//!
//! The configuration may require that a lock file lists the component, that a team has signed it, or both. Two
//! checks:
//!
//! 1. [`TrustPolicy::approve`] compares the file's bytes with the lock file and the signature, before the host
//!    compiles the file or runs any code of it.
//! 2. [`Approval::confirm`] compares the name and version that the compiled component declares. A lock entry and a
//!    signature are for one name and one version, so neither can be used for another component.
//!
//! The first team or lock file that approves a name owns it: see [`projector_core::ownership`].

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use minisign_verify::{Error, Signature};
use projector_config::{Plugins, Team};
use projector_core::ownership::Signer;
use serde::{Deserialize, Deserializer};
use toml::Spanned;

/// What the configuration requires of a component before it may run.
#[derive(Debug, Clone, Default)]
pub struct TrustPolicy {
    lock: Option<Lock>,
    teams: BTreeMap<String, Team>,
}

/// The components that may run: the contents of a `plugins.lock`.
#[derive(Debug, Clone)]
pub struct Lock {
    path: String,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    name: String,
    version: String,
    sha256: String,
}

/// The approval of a file's bytes, for certain names and versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// The lock file's entries for the bytes; absent if there is no lock file.
    listed: Option<Listed>,
    /// Who signed the bytes; absent if no team is configured.
    signed: Option<Signed>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    lock: String,
    /// The names and versions that the lock file gives the bytes. At least one.
    entries: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Signed {
    team: String,
    name: String,
    version: String,
}

/// The command that signs a component whose name and version are not known yet.
const COMMAND: &str = "`minisign -Sm FILE.wasm -t 'projector name=NAME version=VERSION'`; `projector inspect FILE.wasm` shows both";

/// Why a component may not run, and what to do. The version that ran before continues.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error(
        "{lock} does not list the component. To let it run, add [[plugin]] name = NAME, version = VERSION, sha256 = \"{digest}\"; `projector inspect FILE.wasm` shows both"
    )]
    NotListed { lock: String, digest: String },
    #[error(
        "{lock} lists the component as {listed}, but the component declares that it is {name} {version}: correct the entry"
    )]
    ListedElsewhere { lock: String, listed: String, name: String, version: String },
    #[error(
        "the component is not signed, and `plugins.teams` requires a signature: put the signature beside the file, made by {COMMAND}"
    )]
    NotSigned,
    #[error(
        "the .minisig file is not a signature that this host can read ({reason}): sign the component again by {COMMAND}"
    )]
    Malformed { reason: String },
    #[error(
        "the component is signed with the key {key}, which no team of `plugins.teams` has ({teams}): let one of these teams sign it, or add the team that has the key"
    )]
    UnknownKey { key: String, teams: String },
    #[error(
        "the signature by {team} does not match the file: one of the two was changed or is of another build; copy both again, or sign the file by {COMMAND}"
    )]
    DoesNotMatch { team: String },
    #[error(
        "the signature by {team} has the trusted comment {bound:?}, which names no projection and version: sign the file by {COMMAND}"
    )]
    NotBound { team: String, bound: String },
    #[error(
        "the signature by {team} is for {bound:?}, but the component declares {expected:?}: sign the file by `{command}`"
    )]
    BoundElsewhere { team: String, bound: String, expected: String, command: String },
    #[error(
        "the team {team} may not sign {name} (it may sign {granted}): add {name} to `plugins.teams.{team}.projections`, or let another team sign the component"
    )]
    NotGranted { team: String, name: String, granted: String },
}

impl TrustPolicy {
    /// Reads the lock file. If the configuration has one, a missing file is an error: without it, every component
    /// would be permitted.
    pub fn load(config: &Plugins) -> Result<TrustPolicy, String> {
        let lock = config.lock.as_deref().map(Lock::read).transpose()?;
        Ok(TrustPolicy { lock, teams: config.teams.clone() })
    }

    /// Compares a file's bytes with the lock file and the signature. `digest`: the SHA-256 of the bytes, in lowercase
    /// hex. `signature`: the text of the `.minisig` file.
    pub fn approve(&self, digest: &str, bytes: &[u8], signature: Option<&str>) -> Result<Approval, Refused> {
        let listed = self.lock.as_ref().map(|lock| lock.entries_of(digest)).transpose()?;
        let signed = match self.teams.is_empty() {
            true => None,
            false => Some(self.signed(bytes, signature.ok_or(Refused::NotSigned)?)?),
        };
        Ok(Approval { listed, signed })
    }

    fn signed(&self, bytes: &[u8], text: &str) -> Result<Signed, Refused> {
        let malformed = |error: Error| Refused::Malformed { reason: error.to_string() };
        let signature = Signature::decode(text).map_err(malformed)?;
        let mut mismatch = None;
        for (team, Team { key, projections }) in &self.teams {
            match key.verify(bytes, &signature, false) {
                Ok(()) => {}
                Err(Error::UnexpectedKeyId) => continue,
                // Another team's key may have the same id, because the id is not part of what is signed.
                Err(Error::InvalidSignature) => {
                    mismatch = mismatch.or(Some(team));
                    continue;
                }
                Err(Error::UnexpectedAlgorithm) => {
                    let reason = "it has minisign's legacy format: use minisign 0.10 or newer, or -H".into();
                    return Err(Refused::Malformed { reason });
                }
                Err(error) => return Err(malformed(error)),
            }
            let bound = signature.trusted_comment();
            // The name of a projection has no space, so the first " version=" ends it.
            let parts = bound.strip_prefix("projector name=").and_then(|rest| rest.split_once(" version="));
            let Some((name, version)) = parts else {
                return Err(Refused::NotBound { team: team.clone(), bound: bound.to_owned() });
            };
            if let Some(granted) = projections
                && !granted.iter().any(|granted| **granted == *name)
            {
                let granted = match granted.as_slice() {
                    [] => "nothing".to_owned(),
                    granted => granted.iter().map(|name| &**name).collect::<Vec<_>>().join(", "),
                };
                return Err(Refused::NotGranted { team: team.clone(), name: name.to_owned(), granted });
            }
            return Ok(Signed { team: team.clone(), name: name.to_owned(), version: version.to_owned() });
        }
        Err(match mismatch {
            Some(team) => Refused::DoesNotMatch { team: team.clone() },
            None => Refused::UnknownKey {
                key: key_id(text),
                teams: self.teams.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
            },
        })
    }
}

impl Approval {
    /// The projection for which the bytes are approved. Known before the component is compiled.
    pub fn projection(&self) -> Option<&str> {
        let signed = self.signed.as_ref().map(|signed| &*signed.name);
        let listed = || self.listed.as_ref()?.entries.first().map(|(name, _)| &**name);
        signed.or_else(listed)
    }

    /// Who signed or listed the component. An error if it was approved for other names and versions than it declares.
    pub fn confirm(&self, name: &str, version: &str) -> Result<Signer, Refused> {
        if let Some(Listed { lock, entries }) = &self.listed
            && !entries.iter().any(|entry| (&*entry.0, &*entry.1) == (name, version))
        {
            let listed: Vec<String> =
                entries.iter().map(|(name, version)| format!("{name} {version}")).collect();
            return Err(Refused::ListedElsewhere {
                lock: lock.clone(),
                listed: listed.join(", "),
                name: name.to_owned(),
                version: version.to_owned(),
            });
        }
        let listed = self.listed.is_some();
        let Some(signed) = &self.signed else {
            return Ok(if listed { Signer::Lock } else { Signer::Nobody });
        };
        if (&*signed.name, &*signed.version) != (name, version) {
            let expected = comment(name, version);
            return Err(Refused::BoundElsewhere {
                team: signed.team.clone(),
                bound: comment(&signed.name, &signed.version),
                command: format!("minisign -Sm FILE.wasm -t {}", quoted(&expected)),
                expected,
            });
        }
        Ok(Signer::Team { name: signed.team.clone(), listed })
    }
}

/// The trusted comment that a signature must have.
fn comment(name: &str, version: &str) -> String {
    format!("projector name={name} version={version}")
}

impl Lock {
    fn read(path: &Path) -> Result<Lock, String> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            format!("the lock file {shown} cannot be read: {error}; create it, or correct `plugins.lock` in the configuration. An empty lock file permits no component")
        })?;
        Lock::parse(&shown, &text)
    }

    /// Parses a lock file's text. `path` is only used in errors.
    pub fn parse(path: &str, text: &str) -> Result<Lock, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Written {
            #[serde(default)]
            plugin: Vec<WrittenEntry>,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct WrittenEntry {
            name: Spanned<String>,
            version: String,
            #[serde(deserialize_with = "sha256")]
            sha256: String,
        }
        let invalid = |message: &str, start: usize| {
            let line = text[..start.min(text.len())].matches('\n').count() + 1;
            format!("{path}:{line}: {message}; write [[plugin]] with name, version and sha256, each a string")
        };
        let written: Written = toml::from_str(text)
            .map_err(|error| invalid(error.message(), error.span().map_or(0, |span| span.start)))?;
        let mut entries: Vec<Entry> = Vec::with_capacity(written.plugin.len());
        for WrittenEntry { name, version, sha256 } in written.plugin {
            let start = name.span().start;
            let entry = Entry { name: name.into_inner(), version, sha256 };
            if entries.iter().any(|other| (&other.name, &other.version) == (&entry.name, &entry.version)) {
                let message =
                    format!("{} {} is listed twice: a version is one component", entry.name, entry.version);
                return Err(invalid(&message, start));
            }
            entries.push(entry);
        }
        Ok(Lock { path: path.to_owned(), entries })
    }

    /// The lock file's entries for the bytes with this SHA-256.
    fn entries_of(&self, digest: &str) -> Result<Listed, Refused> {
        let of_digest = self.entries.iter().filter(|entry| entry.sha256 == digest);
        let entries: Vec<_> = of_digest.map(|entry| (entry.name.clone(), entry.version.clone())).collect();
        match entries.is_empty() {
            true => Err(Refused::NotListed { lock: self.path.clone(), digest: digest.to_owned() }),
            false => Ok(Listed { lock: self.path.clone(), entries }),
        }
    }
}

fn sha256<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let written = String::deserialize(deserializer)?;
    match written.len() == 64 && written.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(written.to_ascii_lowercase()),
        false => Err(serde::de::Error::custom(format!(
            "{written:?} is not a SHA-256, which has 64 hex digits: `sha256sum FILE.wasm` prints it"
        ))),
    }
}

/// The id of the key that a signature names, as minisign shows it.
fn key_id(signature: &str) -> String {
    let line = signature.lines().nth(1).unwrap_or_default();
    let id = BASE64.decode(line.trim()).ok().and_then(|bytes| bytes.get(2..10)?.try_into().ok());
    id.map_or_else(|| "(none)".to_owned(), |id| format!("{:016X}", u64::from_le_bytes(id)))
}

/// Quotes a text as one word of a shell: a component may declare any text as its version.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use minisign::KeyPair;

    use super::*;
    use projector_config::Config;
    use projector_core::ownership::may_take_over;

    const BYTES: &[u8] = b"a component";

    fn team(keys: &KeyPair, projections: Option<&[&str]>) -> Team {
        Team {
            key: minisign_verify::PublicKey::from_base64(&keys.pk.to_base64()).expect("a key"),
            projections: projections.map(|names| names.iter().map(|name| (*name).into()).collect()),
        }
    }

    fn keys() -> KeyPair {
        KeyPair::generate_unencrypted_keypair().expect("keys")
    }

    fn sign(keys: &KeyPair, bytes: &[u8], comment: &str) -> String {
        minisign::sign(Some(&keys.pk), &keys.sk, bytes, Some(comment), None).expect("signed").into_string()
    }

    fn trust(teams: impl IntoIterator<Item = (&'static str, Team)>) -> TrustPolicy {
        let teams = teams.into_iter().map(|(name, team)| (name.to_owned(), team)).collect();
        TrustPolicy { lock: None, teams }
    }

    /// Checks a component that declares itself as `orders` 1.2.0.
    fn check(trust: &TrustPolicy, signature: Option<&str>) -> Result<Signer, String> {
        let digest = projector_sandbox::digest(BYTES);
        let approval = trust.approve(&digest, BYTES, signature);
        approval
            .and_then(|approval| approval.confirm("orders", "1.2.0"))
            .map_err(|refused| refused.to_string())
    }

    fn signed_by(name: &str, listed: bool) -> Signer {
        Signer::Team { name: name.to_owned(), listed }
    }

    fn lock(entries: &[(&str, &str, &str)]) -> String {
        let entry = |(name, version, sha256): &(&str, &str, &str)| {
            format!("[[plugin]]\nname = \"{name}\"\nversion = \"{version}\"\nsha256 = \"{sha256}\"\n")
        };
        entries.iter().map(entry).collect()
    }

    #[test]
    fn every_component_may_run_if_nothing_is_configured() {
        assert_eq!(check(&TrustPolicy::default(), None), Ok(Signer::Nobody));
        assert_eq!(check(&TrustPolicy::default(), Some("whatever")), Ok(Signer::Nobody));
    }

    #[test]
    fn only_components_of_the_lock_file_may_run() {
        let digest = projector_sandbox::digest(BYTES);
        let text = lock(&[
            ("orders", "1.1.0", &"0".repeat(64)),
            ("orders", "1.2.0", &digest.to_uppercase()),
            ("sales", "1", &digest),
        ]);
        let trust = TrustPolicy {
            lock: Some(Lock::parse("plugins.lock", &text).expect("sound")),
            teams: BTreeMap::new(),
        };
        assert_eq!(check(&trust, None), Ok(Signer::Lock));
        let refused = |name: &str, version: &str, digest: &str| {
            let approval = trust.approve(digest, BYTES, None);
            approval.and_then(|approval| approval.confirm(name, version)).expect_err("refused").to_string()
        };
        let other = "f".repeat(64);
        let unlisted = refused("orders", "1.2.0", &other);
        assert!(unlisted.contains("does not list the component") && unlisted.contains(&other), "{unlisted}");
        for (name, version) in [("orders", "1.3.0"), ("orders", "1.1.0"), ("stock", "1")] {
            let elsewhere = refused(name, version, &digest);
            let says = format!(
                "lists the component as orders 1.2.0, sales 1, but the component declares that it is {name} {version}"
            );
            assert!(elsewhere.contains(&says), "{elsewhere}");
        }
    }

    /// The host needs the name before it compiles the component, to apply the projection's limits.
    #[test]
    fn an_approval_names_the_projection() {
        let (checkout, digest) = (keys(), projector_sandbox::digest(BYTES));
        let projection = |trust: &TrustPolicy, signature: Option<&str>| {
            let approval = trust.approve(&digest, BYTES, signature).expect("approved");
            approval.projection().map(str::to_owned)
        };
        assert_eq!(projection(&TrustPolicy::default(), None), None);
        let listed = lock(&[("orders", "1", &digest)]);
        let listed =
            TrustPolicy { lock: Some(Lock::parse("a", &listed).expect("sound")), teams: BTreeMap::new() };
        assert_eq!(projection(&listed, None).as_deref(), Some("orders"));
        let signature = sign(&checkout, BYTES, "projector name=sales version=1");
        let signed = trust([("checkout", team(&checkout, None))]);
        assert_eq!(projection(&signed, Some(&signature)).as_deref(), Some("sales"));
    }

    #[test]
    fn an_empty_lock_file_permits_no_component() {
        let lock = Some(Lock::parse("plugins.lock", "# none yet\n").expect("sound"));
        assert!(check(&TrustPolicy { lock, teams: BTreeMap::new() }, None).is_err());
    }

    #[test]
    fn an_invalid_lock_file_is_an_error_with_its_line() {
        let error = |text: &str| Lock::parse("a/plugins.lock", text).expect_err("an error");
        let sound = lock(&[("orders", "1", &"a".repeat(64))]);
        for (text, line, says) in [
            (lock(&[("orders", "1", "abc")]), 4, "is not a SHA-256"),
            (lock(&[("orders", "1", &"g".repeat(64))]), 4, "64 hex digits"),
            (format!("{sound}digest = \"\"\n"), 5, "digest"),
            (format!("{sound}[[plugins]]\n"), 5, "plugins"),
            (sound.replace("version = \"1\"", "version = 1"), 3, "string"),
            (sound.replace("version = \"1\"\n", ""), 1, "version"),
            (sound.replace("name = ", "name "), 2, ""),
            (format!("{sound}{sound}"), 6, "orders 1 is listed twice"),
        ] {
            let error = error(&text);
            assert!(error.starts_with(&format!("a/plugins.lock:{line}: ")), "{error}");
            assert!(error.contains(says) && error.contains("write [[plugin]]"), "{error}");
        }
    }

    #[test]
    fn a_team_signs_a_name_and_a_version() {
        let (checkout, sales) = (keys(), keys());
        let both = trust([("checkout", team(&checkout, None)), ("sales", team(&sales, None))]);
        let comment = "projector name=orders version=1.2.0";
        let signature = sign(&checkout, BYTES, comment);
        assert_eq!(check(&both, Some(&signature)), Ok(signed_by("checkout", false)));
        let signature = sign(&sales, BYTES, comment);
        assert_eq!(check(&both, Some(&signature)), Ok(signed_by("sales", false)));
    }

    #[test]
    fn a_component_without_a_sound_signature_is_refused() {
        let (checkout, stranger) = (keys(), keys());
        let trust = trust([("checkout", team(&checkout, None))]);
        let refused = |signature: Option<&str>| check(&trust, signature).expect_err("refused");
        let comment = "projector name=orders version=1.2.0";
        let command = "`minisign -Sm FILE.wasm -t 'projector name=NAME version=VERSION'`";

        let unsigned = refused(None);
        assert!(unsigned.contains("not signed") && unsigned.contains(command), "{unsigned}");
        for malformed in ["", "no signature", "a\nb\nc\nd\n"] {
            let malformed = refused(Some(malformed));
            assert!(malformed.contains("not a signature that") && malformed.contains(command), "{malformed}");
        }
        let by_stranger = refused(Some(&sign(&stranger, BYTES, comment)));
        let boxed = stranger.pk.to_box().expect("a box").into_string();
        let id = boxed.lines().next().and_then(|line| line.rsplit(' ').next()).expect("an id");
        assert!(by_stranger.contains(&format!("with the key {id}, ")), "{by_stranger}");
        assert!(by_stranger.contains("(checkout)"), "{by_stranger}");
        let of_another = refused(Some(&sign(&checkout, b"another component", comment)));
        assert!(of_another.contains("by checkout does not match the file"), "{of_another}");
    }

    #[test]
    fn a_signature_of_the_legacy_format_is_refused() {
        let checkout = keys();
        let trust = trust([("checkout", team(&checkout, None))]);
        let signature = sign(&checkout, BYTES, "projector name=orders version=1.2.0");
        // The algorithm "ED" signs the hash of the file, and the legacy algorithm "Ed" signs the file itself.
        let old = signature.replacen("\nRU", "\nRW", 1);
        assert_ne!(old, signature);
        let refused = check(&trust, Some(&old)).expect_err("refused");
        assert!(refused.contains("minisign's legacy format"), "{refused}");
    }

    #[test]
    fn a_signature_whose_trusted_comment_was_changed_is_refused() {
        let checkout = keys();
        let trust = trust([("checkout", team(&checkout, None))]);
        let of_old = sign(&checkout, BYTES, "projector name=orders version=1.1.0");
        let changed = of_old.replace("version=1.1.0", "version=1.2.0");
        let refused = check(&trust, Some(&changed)).expect_err("refused");
        assert!(refused.contains("does not match the file"), "{refused}");
    }

    #[test]
    fn a_signature_is_for_one_name_and_one_version() {
        let checkout = keys();
        let trust = trust([("checkout", team(&checkout, None))]);
        for bound in [
            "projector name=orders version=1.1.0",
            "projector name=order version=1.2.0",
            "projector name=orders version=1.2.0 ",
        ] {
            let refused = check(&trust, Some(&sign(&checkout, BYTES, bound))).expect_err("refused");
            let says = format!(
                "is for {bound:?}, but the component declares \"projector name=orders version=1.2.0\""
            );
            assert!(refused.contains(&says) && refused.contains("minisign -Sm"), "{refused}");
        }
        for bound in ["timestamp:1700000000\tfile:orders.wasm\thashed", "projector name=orders", ""] {
            let refused = check(&trust, Some(&sign(&checkout, BYTES, bound))).expect_err("refused");
            let says = format!("the trusted comment {bound:?}, which names no projection and version");
            assert!(refused.contains(&says), "{refused}");
        }
    }

    #[test]
    fn the_command_of_an_error_quotes_what_the_component_declares() {
        let checkout = keys();
        let trust = trust([("checkout", team(&checkout, None))]);
        let signature = sign(&checkout, BYTES, "projector name=orders version=1");
        let approval = trust.approve("", BYTES, Some(&signature)).expect("signed");
        let refused = approval.confirm("orders", "1'; rm -rf '/").expect_err("refused");
        let Refused::BoundElsewhere { command, .. } = refused else { panic!("{refused}") };
        assert_eq!(command, r"minisign -Sm FILE.wasm -t 'projector name=orders version=1'\''; rm -rf '\''/'");
    }

    #[test]
    fn a_team_may_only_sign_its_own_projections() {
        let checkout = keys();
        let signature = sign(&checkout, BYTES, "projector name=orders version=1.2.0");
        let granting = |names| check(&trust([("checkout", team(&checkout, Some(names)))]), Some(&signature));
        assert_eq!(granting(&["sales", "orders"]), Ok(signed_by("checkout", false)));
        let refused = granting(&["sales", "stock"]).expect_err("refused");
        assert!(refused.contains("checkout may not sign orders (it may sign sales, stock)"), "{refused}");
        assert!(granting(&[]).expect_err("refused").contains("(it may sign nothing)"));
    }

    #[test]
    fn the_lock_file_and_a_signature_may_both_be_required() {
        let checkout = keys();
        let digest = projector_sandbox::digest(BYTES);
        let with = |entries: &[(&str, &str, &str)]| TrustPolicy {
            lock: Some(Lock::parse("plugins.lock", &lock(entries)).expect("sound")),
            ..trust([("checkout", team(&checkout, None))])
        };
        let signature = sign(&checkout, BYTES, "projector name=orders version=1.2.0");
        let listed = with(&[("orders", "1.2.0", &digest)]);
        assert_eq!(check(&listed, Some(&signature)), Ok(signed_by("checkout", true)));
        assert!(check(&listed, None).is_err());
        assert!(check(&with(&[]), Some(&signature)).is_err());
    }

    #[test]
    fn a_name_belongs_to_its_first_signer() {
        let (checkout, sales) = (signed_by("checkout", false), signed_by("sales", true));
        for (owner, signer, is_allowed) in [
            (None, &Signer::Nobody, true),
            (None, &Signer::Lock, true),
            (None, &checkout, true),
            (Some("team:checkout"), &checkout, true),
            (Some("team:checkout"), &sales, false),
            (Some("team:checkout"), &Signer::Nobody, false),
            (Some("team:checkout"), &Signer::Lock, true),
            (Some("lock"), &Signer::Lock, true),
            (Some("lock"), &Signer::Nobody, false),
            (Some("lock"), &checkout, false),
            (Some("lock"), &sales, true),
            (Some("something newer"), &Signer::Lock, false),
        ] {
            assert_eq!(may_take_over(owner, signer).is_ok(), is_allowed, "{owner:?} {signer:?}");
        }
        let refused = may_take_over(Some("team:checkout"), &sales).expect_err("refused").to_string();
        assert!(
            refused.contains("belongs to team:checkout") && refused.contains("by team:sales"),
            "{refused}"
        );
        assert_eq!((checkout.owner(), Signer::Nobody.owner()), (Some("team:checkout".into()), None));
    }

    #[test]
    fn the_configured_lock_file_is_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("projector.toml");
        let text = "kafka.brokers = \"a:9092\"\nstore.url = \"sqlite://a.db\"\nplugins.directory = \".\"\n";
        let load = |text: &str| {
            std::fs::write(&path, text).expect("written");
            TrustPolicy::load(&Config::load(&path).expect("sound").plugins)
        };
        assert!(load(text).expect("no lock").lock.is_none());
        let named = format!("{text}plugins.lock = \"plugins.lock\"\n");
        assert!(load(&named).expect_err("it is not there").contains("cannot be read"));
        std::fs::write(directory.path().join("plugins.lock"), "").expect("written");
        assert!(load(&named).expect("a lock").lock.is_some());
        assert!(load(text).expect("a lock").lock.is_some());
        std::fs::write(directory.path().join("plugins.lock"), "[[plugin]]\nname = 1\n").expect("written");
        assert!(load(text).expect_err("unsound").contains("plugins.lock:2: "));
    }
}
