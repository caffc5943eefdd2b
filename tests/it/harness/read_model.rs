//! The database that hosts write, seen with a reader's eyes.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use projector_test_servers::{Database, Postgres};
use serde_json::Value;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ColumnIndex, ConnectOptions, Connection, Decode, Type};

use super::Rows;
use super::compare::Row;
use super::views::{CUSTOMERS, Kind, ORDERS, SALES, View};

pub(crate) enum ReadModel {
    Postgres {
        url: String,
    },
    /// A file in the platform's directory.
    Sqlite {
        file: OnceLock<PathBuf>,
    },
}

/// A partition's checkpoint: topic and partition, and the next offset.
pub(crate) type Checkpoints = BTreeMap<(String, i32), i64>;

impl ReadModel {
    /// A database of its own on the server that all tests share.
    pub(crate) fn postgres() -> ReadModel {
        ReadModel::on(Postgres::shared())
    }

    /// A database of its own on a server of the test's.
    pub(crate) fn on(server: &Database) -> ReadModel {
        ReadModel::Postgres { url: server.create_unique_database("it").unwrap() }
    }

    pub(crate) fn sqlite() -> ReadModel {
        ReadModel::Sqlite { file: OnceLock::new() }
    }

    /// What the configuration says.
    pub(super) fn url_in(&self, directory: &Path) -> String {
        match self {
            ReadModel::Postgres { url } => url.clone(),
            ReadModel::Sqlite { file } => {
                let file = file.get_or_init(|| directory.join("readmodel.db"));
                format!("sqlite://{}", file.display())
            }
        }
    }

    pub(crate) fn orders(&self) -> Rows {
        self.dump(&ORDERS)
    }

    pub(crate) fn customers(&self) -> Rows {
        self.dump(&CUSTOMERS)
    }

    pub(crate) fn sales(&self) -> Rows {
        self.dump(&SALES)
    }

    /// What is committed now, without asking the host. Empty before the projection's first read.
    pub(crate) fn checkpoints(&self, projection: &str) -> Checkpoints {
        let sql = |generation: &str, checkpoint: &str| {
            format!(
                "select topic, cast(partition as text), cast(next_offset as text) from {checkpoint}
                 where generation_id in (select id from {generation} where projection = '{projection}' and role = 'live')"
            )
        };
        let rows = match self {
            ReadModel::Postgres { .. } => self.query(&sql("projector.generation", "projector.checkpoint")),
            ReadModel::Sqlite { .. } => self.query(&sql("projector_generation", "projector_checkpoint")),
        };
        let text = |cell: &Option<String>| cell.clone().expect("none of these is null");
        rows.iter()
            .map(|row| ((text(&row[0]), text(&row[1]).parse().unwrap()), text(&row[2]).parse().unwrap()))
            .collect()
    }

    fn dump(&self, view: &View) -> Rows {
        let postgres = matches!(self, ReadModel::Postgres { .. });
        let columns: Vec<String> = view
            .columns
            .iter()
            .map(|(column, kind)| match (kind, postgres) {
                (Kind::Timestamp, true) => format!("(extract(epoch from {column}) * 1000000)::bigint::text"),
                (Kind::Date, false) => format!("date({column} * 86400, 'unixepoch')"),
                _ => format!("cast({column} as text)"),
            })
            .collect();
        let between = if postgres { "." } else { "__" };
        let sql = format!("select {} from {}{between}{}", columns.join(", "), view.schema, view.table);
        let mut rows = Rows::new();
        for cells in self.query(&sql) {
            let row: Row = view
                .columns
                .iter()
                .zip(&cells)
                .map(|((column, kind), cell)| {
                    let value = match (kind, cell) {
                        (_, None) => Value::Null,
                        (Kind::Json, Some(text)) => {
                            serde_json::from_str(text).expect("the column holds JSON")
                        }
                        (_, Some(text)) => Value::from(text.as_str()),
                    };
                    (*column, value)
                })
                .collect();
            let key: Vec<&str> = cells[..view.key].iter().flatten().map(String::as_str).collect();
            assert!(rows.insert(key.join(" "), row).is_none(), "{} has {key:?} twice", view.table);
        }
        rows
    }

    /// Runs one statement, each column of whose rows is text.
    pub(crate) fn query(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let sql = AssertSqlSafe(sql.to_owned());
        block_on(async {
            match self {
                ReadModel::Postgres { url } => {
                    let mut connection = PgConnection::connect(url).await.unwrap();
                    let rows = sqlx::query(sql).fetch_all(&mut connection).await.unwrap();
                    connection.close().await.unwrap();
                    rows.iter().map(texts).collect()
                }
                ReadModel::Sqlite { file } => {
                    let file = file.get().expect("a platform has it");
                    let mut connection: SqliteConnection =
                        SqliteConnectOptions::new().filename(file).read_only(true).connect().await.unwrap();
                    let rows = sqlx::query(sql).fetch_all(&mut connection).await.unwrap();
                    rows.iter().map(texts).collect()
                }
            }
        })
    }

    /// Runs statements that write, as a person with a database client would.
    pub(crate) fn execute(&self, sql: &str) {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        block_on(async {
            match self {
                ReadModel::Postgres { url } => {
                    let mut connection = PgConnection::connect(url).await.unwrap();
                    sql.execute(&mut connection).await.unwrap();
                }
                ReadModel::Sqlite { file } => {
                    let file = file.get().expect("a platform has it");
                    let options = SqliteConnectOptions::new().filename(file);
                    let mut connection: SqliteConnection =
                        options.busy_timeout(super::PATIENCE).connect().await.unwrap();
                    sql.execute(&mut connection).await.unwrap();
                }
            }
        });
    }
}

fn texts<R: sqlx::Row>(row: &R) -> Vec<Option<String>>
where
    usize: ColumnIndex<R>,
    for<'r> Option<String>: Decode<'r, R::Database>,
    Option<String>: Type<R::Database>,
{
    (0..row.len()).map(|column| row.get(column)).collect()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}
