//! Names that no projection, table or column can have.

/// Names of projections whose schemas the host or the database uses itself.
pub(crate) const NAMES: &[&str] = &["projector", "public", "information-schema", "main", "temp"];

/// Words that Postgres or SQLite reserve. The host quotes every identifier, but readers would have to quote these too.
const WORDS: &str = "
    all analyse analyze and any array as asc asymmetric authorization between binary both case cast
    check collate collation column commit concurrently constraint create cross ctid current_catalog
    current_date current_role current_schema current_time current_timestamp current_user default
    deferrable delete desc distinct do drop else end except exists false fetch for foreign freeze from
    full grant group having ilike in index initially inner insert intersect into is isnull join
    lateral leading left like limit localtime localtimestamp natural not notnull null offset oid on
    only or order outer overlaps placing primary references returning right rowid select session_user
    set similar some symmetric system_user table tablesample tableoid then to trailing transaction
    true union unique update user using values variadic verbose when where window with xmax xmin cmax
    cmin
";

pub(crate) fn is_word(identifier: &str) -> bool {
    WORDS.split_whitespace().any(|word| word == identifier)
}
