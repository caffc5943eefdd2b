//! What could not be projected, as it was kept, and the books that must close all the same.

use super::status::Counters;
use super::{Platform, Projection, ReadModel, eventually};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeadLetter {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) headers: serde_json::Value,
    pub(crate) kind: String,
    pub(crate) code: String,
    pub(crate) detail: String,
}

impl DeadLetter {
    /// `kind (code)`.
    pub(crate) fn verdict(&self) -> String {
        format!("{} ({})", self.kind, self.code)
    }
}

/// A projection's dead letters, in the order of the log.
pub(crate) fn dead_letters(read_model: &ReadModel, projection: &str) -> Vec<DeadLetter> {
    let (schema, hex): (_, fn(&str) -> String) = match read_model {
        ReadModel::Postgres { .. } => ("projector.", |column| format!("encode({column}, 'hex')")),
        // SQLite's own makes an empty text of null.
        ReadModel::Sqlite { .. } => {
            ("projector_", |column| format!("case when {column} is not null then lower(hex({column})) end"))
        }
    };
    let (key, payload) = (hex("key"), hex("payload"));
    let rows = read_model.query(&format!(
        "select topic, cast(partition as text), cast(\"offset\" as text), {key}, {payload},
           cast(headers as text), kind, code, detail
         from {schema}dead_letter as letter
         where generation_id in (select id from {schema}generation where projection = '{projection}')
         order by letter.topic, letter.partition, letter.\"offset\""
    ));
    let bytes = |cell: &Option<String>| cell.as_ref().map(|digits| hex::decode(digits).unwrap());
    let text = |cell: &Option<String>| cell.clone().expect("it is never null");
    rows.iter()
        .map(|row| DeadLetter {
            topic: text(&row[0]),
            partition: text(&row[1]).parse().unwrap(),
            offset: text(&row[2]).parse().unwrap(),
            key: bytes(&row[3]),
            payload: bytes(&row[4]),
            headers: serde_json::from_str(&text(&row[5])).unwrap(),
            kind: text(&row[6]),
            code: text(&row[7]),
            detail: text(&row[8]),
        })
        .collect()
}

/// The rows of a readers' view, sorted, all columns as text.
pub(crate) fn rows(
    read_model: &ReadModel,
    projection: &str,
    table: &str,
    columns: &[&str],
) -> Vec<Vec<Option<String>>> {
    let between = if matches!(read_model, ReadModel::Postgres { .. }) { "." } else { "__" };
    let columns: Vec<String> = columns.iter().map(|column| format!("cast(\"{column}\" as text)")).collect();
    let mut rows =
        read_model.query(&format!("select {} from {projection}{between}{table}", columns.join(", ")));
    rows.sort();
    rows
}

impl Platform {
    /// Waits until a projection is through with everything in the log.
    #[track_caller]
    pub(crate) fn until_through(&self, projection: &str) -> Projection {
        eventually(&format!("{projection} is through with its topics"), || {
            let mut status = self.status()?;
            let status = status.remove(projection).ok_or("it is not installed")?;
            if let Some(trouble) = &status.halted {
                panic!("{projection} stands still: {trouble:?}");
            }
            if status.fresh { Ok(status) } else { Err(format!("{} events behind", status.lag)) }
        })
    }
}

/// Every event was read once, what became of it was counted, and so many of them are dead letters.
#[track_caller]
pub(crate) fn assert_closed(projection: &Projection, read: usize, ignored: usize, dead: usize) {
    let [read, ignored, dead] = [read, ignored, dead].map(|events| events as u64);
    let applied = read - ignored - dead;
    let name = &projection.name;
    assert_eq!(
        projection.counters,
        Counters { read, applied, ignored, parked: 0, waiting: 0, dead, skipped: 0 },
        "{name}: the counters"
    );
    assert_eq!(projection.dead_letters, dead, "{name}: dead letters");
    assert_eq!(projection.ignored_by_code.values().sum::<u64>(), ignored, "{name}: ignored by code");
    for partition in &projection.partitions {
        let Counters { read, applied, ignored, parked, waiting, dead, skipped } = partition.counters;
        assert_eq!(
            read,
            applied + ignored + parked + waiting + dead + skipped,
            "{name}: the books of {partition:?} are open"
        );
    }
}
