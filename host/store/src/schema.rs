//! The host's own tables in a database, against the migrations that this program knows.
//!
//! Why: only a host that starts and `projector migrate` change these tables. Every other command reads their version
//! first, and explains what to do instead of failing in the middle.
//!
//! Invariants: reading the version changes nothing. A program continues beside a program of the next version, whose
//! migrations only add (`migrations/README.md`). Where a migration removes something, [`gate`] keeps the migration from
//! running while a host is live that may need it, and keeps such a host from starting later.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use serde::Serialize;
use sqlx::migrate::{Migration, Migrator};

use crate::error::StoreError;
use crate::fault::Setup;
use crate::hosts::HEARTBEAT_TIMEOUT;

/// Since this migration, hosts store the newest migration that they know, and the store has the oldest that they must know.
pub(crate) const NEEDS_SINCE: i64 = 16;

/// The SQLSTATE of [`gate`].
pub(crate) const HOSTS_ARE_BEHIND: &str = "PRJ01";

/// A migration that removes something begins with this, and the number of the migration that every live host must know.
const REQUIRES: &str = "-- requires: ";

/// A host that carries out the pending migrations takes at most this long for each.
const MOST_PER_MIGRATION: Duration = Duration::from_secs(2);
/// How often a command reads how far that host is.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Detects that a host carries out the pending migrations at this moment, so that a command waits for the host.
#[derive(Debug, Default)]
pub(crate) struct InProgress {
    last: Option<(i64, Instant)>,
}

impl InProgress {
    /// Whether to wait and read the schema again.
    pub(crate) fn continues(&mut self, found: &Schema) -> bool {
        let Some(version) = found.version.filter(|_| !found.pending.is_empty()) else { return false };
        match self.last {
            Some((last, since)) if last == version => since.elapsed() < MOST_PER_MIGRATION,
            _ => {
                self.last = Some((version, Instant::now()));
                true
            }
        }
    }
}

/// What a database has of the host's own tables: its migrations, against those of this program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Schema {
    /// The database, for a person.
    pub database: String,
    /// The newest migration that was carried out. Absent: no host has ever run on this database.
    pub version: Option<i64>,
    /// The newest migration that this program knows.
    pub known: i64,
    /// The migrations that are still to be carried out, in order.
    pub pending: Vec<Pending>,
    /// A program that does not know this migration cannot use the database.
    pub needs: i64,
    /// A migration that another build of Projector carried out under the number of one of this program's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed: Option<i64>,
}

/// A migration that is to be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pending {
    pub version: i64,
    pub description: Cow<'static, str>,
}

impl Schema {
    /// `carried_out`: the ledger, as numbers and checksums; `None`: there is none.
    pub(crate) fn of(
        migrator: &Migrator,
        database: String,
        carried_out: Option<Vec<(i64, Vec<u8>)>>,
        needs: i64,
    ) -> Self {
        let ledger = carried_out.unwrap_or_default();
        let checksum = |migration: &Migration| {
            ledger.iter().find(|(version, _)| *version == migration.version).map(|(_, checksum)| checksum)
        };
        let changed =
            |migration: &&Migration| checksum(migration).is_some_and(|it| **it != *migration.checksum);
        Self {
            database,
            version: ledger.iter().map(|(version, _)| *version).max(),
            known: newest(migrator),
            pending: (migrator.iter())
                .filter(|migration| checksum(migration).is_none())
                .map(|Migration { version, description, .. }| Pending {
                    version: *version,
                    description: description.clone(),
                })
                .collect(),
            needs,
            changed: migrator.iter().find(changed).map(|migration| migration.version),
        }
    }

    /// Whether this program can use the database as it is. The error says what to do.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        self.check_known()?;
        let Self { database, known, .. } = self;
        match self.version {
            None => Err(self.unused()),
            Some(version) if !self.pending.is_empty() => Err(StoreError::Setup(Setup::new(
                format!(
                    "the host's own tables in {database} are at version {version}, and this program needs version {known}"
                ),
                "start a host of this version (`projector run`) or run `projector migrate`; hosts of the version before continue meanwhile. `projector migrate --dry-run` shows what would be changed",
            ))),
            Some(_) => Ok(()),
        }
    }

    /// The error that no host has ever run on this database.
    pub fn unused(&self) -> StoreError {
        StoreError::Setup(Setup::new(
            format!("no host has ever run on {}", self.database),
            "start one (`projector run`), or have `projector migrate` make the host's own tables",
        ))
    }

    /// Whether this program may use the database after the pending migrations.
    pub fn check_known(&self) -> Result<(), StoreError> {
        let Self { database, known, needs, .. } = self;
        if needs > known {
            return Err(StoreError::Setup(Setup::new(
                format!(
                    "the host's own tables in {database} need a program that knows version {needs}, and this program knows version {known}"
                ),
                "use a newer version of Projector",
            )));
        }
        match self.changed {
            None => Ok(()),
            Some(changed) => Err(StoreError::Setup(Setup::new(
                format!(
                    "another build of Projector created the host's own tables in {database}: its migration {changed} differs from that of this program"
                ),
                "use that build, or another database",
            ))),
        }
    }

    /// A hint for operators where the database can be used.
    pub fn notice(&self) -> Option<String> {
        let Self { database, known, .. } = self;
        let version = self.version.filter(|version| version > known)?;
        Some(format!(
            "the host's own tables in {database} are at version {version}, and this program knows version {known}: it does not show what is new; use the newer program"
        ))
    }
}

/// The newest migration of a program.
pub(crate) fn newest(migrator: &Migrator) -> i64 {
    migrator.iter().map(|migration| migration.version).max().unwrap_or_default()
}

/// The migration that every live host must know before this one is carried out. `None`: it only adds.
pub(crate) fn requires(sql: &str) -> Option<i64> {
    sql.strip_prefix(REQUIRES)?.lines().next()?.trim().parse().ok()
}

/// Runs on Postgres before a migration that removes something, in its transaction. It fails with `HOSTS_ARE_BEHIND`, and
/// the names of the hosts, while hosts are live that do not know `migration`. After it, no such host starts.
pub fn gate(migration: i64) -> String {
    let timeout = HEARTBEAT_TIMEOUT.as_secs();
    format!(
        "do $$ declare behind text; begin
           select string_agg(name, ', ' order by name) into behind from projector.host
             where knows < {migration} and seen_at > now() - interval '{timeout} seconds';
           if behind is not null then
             raise exception using errcode = '{HOSTS_ARE_BEHIND}', message = behind;
           end if;
           update projector.store set needs = greatest(needs, {migration});
         end $$;"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrations::{POSTGRES, SQLITE};

    /// Older migrations were written when all hosts had to stop for a new version.
    const FIRST_UNDER_THE_RULE: i64 = 12;

    /// A migration's statements, in lowercase, without comments, each on one line.
    fn statements(sql: &str) -> Vec<String> {
        let bare: Vec<&str> = sql.lines().map(|line| line.split("--").next().unwrap_or_default()).collect();
        let words = |statement: &str| {
            let words = statement.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
            words.replace(" if exists ", " ").replace(" if not exists ", " ")
        };
        bare.join("\n").split(';').map(words).filter(|statement| !statement.is_empty()).collect()
    }

    /// The word after these, without what follows a name.
    fn named_after<'s>(statement: &'s str, words: &str) -> Option<&'s str> {
        statement.split_once(words)?.1.split([' ', ',', '(']).next()
    }

    /// A statement that may break a program of the version before. `None`: none that can be seen in the text.
    fn takes_away(sql: &str) -> Option<String> {
        let all = statements(sql);
        let made = |table: &str| all.iter().any(|it| named_after(it, "create table ") == Some(table));
        let has = |words: String| all.iter().any(|it| it.contains(&words));
        all.iter().find_map(|statement| {
            let is = |words: &str| statement.contains(words);
            let at_once = ["drop column", " rename column ", "set not null", "truncate ", "drop view", "drop schema"];
            let dropped_table = named_after(statement, "drop table ");
            let dropped_constraint = named_after(statement, "drop constraint ");
            let unique_on = statement.starts_with("create unique index")
                .then(|| named_after(statement, " on "))
                .flatten();
            let altered = named_after(statement, "alter table ").filter(|table| !made(table));
            let wrong = at_once.iter().any(|words| is(words))
                || is(" alter column ") && is(" type ")
                // In SQLite, a check is changed by creating the table again under the same name.
                || dropped_table.is_some_and(|table| !has(format!(" rename to {table}")))
                || dropped_table.is_none() && is(" rename to ") && altered.is_some()
                    && !named_after(statement, " rename to ").is_some_and(|table| has(format!("drop table {table}")))
                // A constraint may be replaced by a wider one.
                || dropped_constraint.is_some_and(|name| !has(format!("add constraint {name} ")))
                || dropped_constraint.is_none() && altered.is_some()
                    && named_after(statement, "add constraint ").is_some_and(|name| !has(format!("drop constraint {name}")))
                || altered.is_some() && is("add column") && is("not null") && !is("default")
                || unique_on.is_some_and(|table| !made(table));
            wrong.then(|| statement.clone())
        })
    }

    #[test]
    fn migrations_only_add_or_wait_until_all_hosts_know() {
        for (migrator, kind) in [(&POSTGRES, "postgres"), (&SQLITE, "sqlite")] {
            let ruled: Vec<&Migration> =
                migrator.iter().filter(|migration| migration.version >= FIRST_UNDER_THE_RULE).collect();
            assert!(!ruled.is_empty());
            for migration in ruled {
                let Migration { version, sql, .. } = migration;
                let sql = sql.as_str();
                match requires(sql) {
                    Some(known) => assert!(
                        (NEEDS_SINCE..*version).contains(&known),
                        "{kind}/{version} requires {known}, which is no earlier migration of its rule"
                    ),
                    None => {
                        assert!(!sql.starts_with(REQUIRES), "{kind}/{version}: the number cannot be read");
                        assert_eq!(
                            takes_away(sql),
                            None,
                            "{kind}/{version} may break hosts of the version before: see migrations/README.md"
                        );
                    }
                }
                assert!(!sql.to_lowercase().contains("concurrently"), "{kind}/{version} is one transaction");
            }
        }
    }

    #[test]
    fn a_migration_that_takes_something_away_is_seen() {
        for sql in [
            "alter table a drop column b;",
            "alter table a rename column b to c;",
            "alter table a rename to b;",
            "drop table a;",
            "alter table a alter column b set not null;",
            "alter table a alter column b type text;",
            "alter table a add column b text not null;",
            "alter table a add constraint c check (b > 0);",
            "alter table a drop constraint c;",
            "create unique index i on a (b);",
        ] {
            assert!(takes_away(sql).is_some(), "{sql}");
        }
        for sql in [
            "alter table a add column b text;",
            "alter table a add column b bigint not null default 0;",
            "create table a (b text not null);\ncreate unique index i on a (b);",
            "alter table a drop constraint c; alter table a add constraint c check (b in ('x', 'y'));",
            "create table a_new (b text); insert into a_new select * from a; drop table a; alter table a_new rename to a;",
            "drop index i; create index i on a (b); -- drop table a",
        ] {
            assert_eq!(takes_away(sql), None, "{sql}");
        }
        assert_eq!(requires("-- requires: 17\ndrop table a;"), Some(17));
        assert_eq!(requires("-- requires: nothing\n"), None);
    }

    #[test]
    fn each_state_of_a_database_has_its_error() {
        let ledger = || -> Vec<(i64, Vec<u8>)> {
            POSTGRES.iter().map(|it| (it.version, it.checksum.to_vec())).collect()
        };
        let schema = |ledger, needs| Schema::of(&POSTGRES, "a database".into(), ledger, needs);
        let error = |schema: &Schema| schema.check().err().map(|error| error.to_string()).unwrap_or_default();
        let current = schema(Some(ledger()), 0);
        assert_eq!((error(&current), current.notice()), (String::new(), None));
        assert!(error(&schema(None, 0)).contains("no host has ever run on a database"));
        let mut older = ledger();
        let last = older.pop().unwrap().0;
        let older = schema(Some(older), 0);
        assert_eq!(older.pending.iter().map(|it| it.version).collect::<Vec<_>>(), [last]);
        assert!(error(&older).contains("projector migrate"));
        let newer: Vec<_> = ledger().into_iter().chain([(9_999, Vec::new())]).collect();
        let newer = schema(Some(newer), 0);
        assert!(error(&newer).is_empty() && newer.notice().unwrap().contains("at version 9999"));
        assert!(error(&schema(Some(ledger()), 9_999)).contains("use a newer version"));
        let other: Vec<_> = ledger().into_iter().map(|(version, _)| (version, vec![1])).collect();
        assert!(error(&schema(Some(other), 0)).contains("another build"));
    }
}
