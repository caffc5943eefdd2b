//! Postgres: the read model's table, Kafka's offsets beside it, and one transaction a batch.

use anyhow::{Context, Result, ensure};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgPool, PgPoolOptions, PgTypeInfo};
use sqlx::{Encode, Postgres, Transaction, Type};

use crate::batch::Batch;
use crate::event::OrderRow;

/// One writes, the other reads the offsets of new partitions.
const CONNECTIONS: u32 = 2;

const TABLES: &str = r#"
create table if not exists order_search (
    order_id         text collate "C" primary key,
    customer_id      text collate "C" not null,
    customer_country text collate "C" not null,
    customer_email   text collate "C",
    customer_name    text collate "C",
    currency         text collate "C" not null,
    total_cents      bigint not null,
    items            jsonb not null,
    confirmed_at     timestamptz not null
);
create index if not exists order_search_customer on order_search (customer_id);
create index if not exists order_search_country on order_search (customer_country, confirmed_at);
create index if not exists order_search_items on order_search using gin (items jsonb_path_ops);
create table if not exists consumer_offset (
    topic       text not null,
    partition   integer not null,
    next_offset bigint not null,
    primary key (topic, partition)
);
"#;

const ADVANCE: &str = "
update consumer_offset as o set next_offset = u.next
  from unnest($1::text[], $2::int4[], $3::int8[], $4::int8[]) as u(topic, partition, expected, next)
 where o.topic = u.topic and o.partition = u.partition and o.next_offset = u.expected";

const COUNTRIES: &str = "
update order_search as o set customer_country = u.country
  from unnest($1::text[], $2::text[]) as u(customer_id, country)
 where o.customer_id = u.customer_id";

const PROFILES: &str = "
update order_search as o set customer_email = u.email, customer_name = u.name
  from unnest($1::text[], $2::text[], $3::text[]) as u(customer_id, email, name)
 where o.customer_id = u.customer_id";

const ORDERS: &str = "
insert into order_search
       (order_id, customer_id, customer_country, customer_email, customer_name, currency, total_cents, items,
        confirmed_at)
select order_id, customer_id, customer_country, customer_email, customer_name, currency, total_cents,
       items::jsonb, confirmed_at
  from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int8[], $8::text[],
              $9::timestamptz[])
    as u(order_id, customer_id, customer_country, customer_email, customer_name, currency, total_cents, items,
         confirmed_at)
    on conflict (order_id) do update
   set customer_id = excluded.customer_id, customer_country = excluded.customer_country,
       customer_email = excluded.customer_email, customer_name = excluded.customer_name,
       currency = excluded.currency, total_cents = excluded.total_cents, items = excluded.items,
       confirmed_at = excluded.confirmed_at";

#[derive(Clone)]
pub(crate) struct Store {
    pool: PgPool,
}

impl Store {
    /// With its tables, which are created if need be.
    pub(crate) async fn open(database: &str) -> Result<Store> {
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .connect(database)
            .await
            .context("cannot reach the database")?;
        sqlx::raw_sql(TABLES).execute(&pool).await.context("cannot create the tables")?;
        Ok(Store { pool })
    }

    /// Where to read on; a partition that was never read begins at 0.
    pub(crate) async fn offsets(&self, partitions: &[(String, i32)]) -> Result<Vec<((String, i32), i64)>> {
        let (topics, numbers): (Vec<&str>, Vec<i32>) =
            partitions.iter().map(|(topic, number)| (topic.as_str(), *number)).unzip();
        sqlx::query(
            "insert into consumer_offset select u.topic, u.partition, 0
               from unnest($1::text[], $2::int4[]) as u(topic, partition) on conflict do nothing",
        )
        .bind(&topics)
        .bind(&numbers)
        .execute(&self.pool)
        .await?;
        let rows: Vec<(String, i32, i64)> = sqlx::query_as(
            "select o.topic, o.partition, o.next_offset from consumer_offset as o
               join unnest($1::text[], $2::int4[]) as u(topic, partition) using (topic, partition)",
        )
        .bind(&topics)
        .bind(&numbers)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|(topic, partition, next)| ((topic, partition), next)).collect())
    }

    /// Writes rows and offsets, in one transaction. Returns how many statements wrote rows.
    pub(crate) async fn write(&self, batch: &Batch) -> Result<u64> {
        let mut tx = self.pool.begin().await?;
        advance(&mut tx, batch).await?;
        let mut statements = 0;
        if !batch.countries.is_empty() {
            let (customers, countries): (Vec<&str>, Vec<&str>) = batch
                .countries
                .iter()
                .map(|(customer, country)| (customer.as_str(), country.as_str()))
                .unzip();
            sqlx::query(COUNTRIES).bind(customers).bind(countries).execute(&mut *tx).await?;
            statements += 1;
        }
        if !batch.profiles.is_empty() {
            let profiles = || batch.profiles.values();
            sqlx::query(PROFILES)
                .bind(profiles().map(|profile| profile.customer_id.as_str()).collect::<Vec<_>>())
                .bind(profiles().map(|profile| profile.email.as_str()).collect::<Vec<_>>())
                .bind(profiles().map(|profile| profile.name.as_str()).collect::<Vec<_>>())
                .execute(&mut *tx)
                .await?;
            statements += 1;
        }
        if !batch.orders.is_empty() {
            upsert(&mut tx, &batch.orders).await?;
            statements += 1;
        }
        tx.commit().await?;
        Ok(statements)
    }
}

/// Compares and sets the offsets: what somebody else has moved is not written over.
async fn advance(tx: &mut Transaction<'static, Postgres>, batch: &Batch) -> Result<()> {
    let advances = || batch.offsets.values();
    let moved = sqlx::query(ADVANCE)
        .bind(advances().map(|advance| advance.topic.as_str()).collect::<Vec<_>>())
        .bind(batch.offsets.keys().map(|(_, partition)| *partition).collect::<Vec<_>>())
        .bind(advances().map(|advance| advance.expected).collect::<Vec<_>>())
        .bind(advances().map(|advance| advance.next).collect::<Vec<_>>())
        .execute(&mut **tx)
        .await?
        .rows_affected();
    ensure!(
        moved == batch.offsets.len() as u64,
        "another instance moved the offsets; start again to read on from there"
    );
    Ok(())
}

async fn upsert(tx: &mut Transaction<'static, Postgres>, orders: &[OrderRow]) -> Result<()> {
    sqlx::query(ORDERS)
        .bind(orders.iter().map(|row| row.order_id.as_str()).collect::<Vec<_>>())
        .bind(orders.iter().map(|row| row.customer_id.as_str()).collect::<Vec<_>>())
        .bind(orders.iter().map(|row| row.customer_country.as_str()).collect::<Vec<_>>())
        .bind(orders.iter().map(|row| row.customer_email.as_deref()).collect::<Vec<_>>())
        .bind(orders.iter().map(|row| row.customer_name.as_deref()).collect::<Vec<_>>())
        .bind(orders.iter().map(|row| row.currency.as_str()).collect::<Vec<_>>())
        .bind(orders.iter().map(|row| row.total_cents).collect::<Vec<_>>())
        .bind(orders.iter().map(|row| row.items.as_str()).collect::<Vec<_>>())
        .bind(orders.iter().map(|row| Timestamp(row.confirmed_at)).collect::<Vec<_>>())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Microseconds since 1970, sent as Postgres stores them: since 2000.
struct Timestamp(i64);

const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

impl Type<Postgres> for Timestamp {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("timestamptz")
    }
}

impl PgHasArrayType for Timestamp {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("timestamptz[]")
    }
}

impl Encode<'_, Postgres> for Timestamp {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        <i64 as Encode<'_, Postgres>>::encode(self.0 - POSTGRES_EPOCH, buffer)
    }
}
