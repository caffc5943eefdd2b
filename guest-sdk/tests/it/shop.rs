//! A projection that uses every feature of the SDK.

use std::borrow::Cow;

use projector_sdk::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Table)]
#[table(name = "article", index(shelf), index(contains(tags)))]
pub(crate) struct Article {
    #[key]
    pub article_id: Uuid,
    pub shelf: Option<String>,
    pub title: String,
    #[column(decimal(10, 2))]
    pub price: Decimal,
    #[column(decimal(6, 3))]
    pub weight: Option<Decimal>,
    pub tags: Json<Vec<String>>,
    pub picture: Option<Bytes>,
    pub in_stock: u32,
    pub ratio: f64,
    pub on_sale: bool,
    pub since: Date,
    pub changed_at: Timestamp,
}

/// The columns of the key are not the first columns, and the upserts list them in another order.
#[derive(Debug, Clone, PartialEq, Table)]
#[table(lineage)]
pub(crate) struct StockLevel {
    pub amount: i64,
    #[key]
    pub place: String,
    #[key]
    pub day: Date,
    pub lowest: Option<i64>,
    pub first_note: Option<String>,
    pub version: Option<i64>,
}

#[derive(Upsert)]
#[upsert(table = StockLevel)]
pub(crate) struct Moved {
    pub day: Date,
    #[operation(add)]
    pub amount: i64,
    #[operation(min)]
    pub lowest: i64,
    pub place: String,
    #[operation(set_if_null)]
    pub first_note: Option<String>,
}

#[derive(Upsert)]
#[upsert(table = StockLevel, once)]
pub(crate) struct Opened {
    pub place: String,
    pub day: Date,
    pub amount: i64,
}

#[derive(Upsert)]
#[upsert(table = StockLevel, guard = version)]
pub(crate) struct Counted {
    pub version: i64,
    pub place: String,
    pub day: Date,
    pub amount: i64,
}

#[derive(Delete)]
#[delete(table = StockLevel, by(place, day), guard = version)]
pub(crate) struct Closed {
    pub day: Date,
    pub version: i64,
    pub place: String,
}

#[derive(Update)]
#[update(table = Article, by(shelf), on_miss = "reject", name = "shelf-sale")]
pub(crate) struct ShelfOnSale {
    pub on_sale: bool,
    pub shelf: String,
}

#[derive(Delete)]
#[delete(table = Article, by(article_id))]
pub(crate) struct Dropped {
    pub article_id: Uuid,
}

#[derive(Clone, Lookup)]
#[lookup(table = Article, by(shelf), limit = 2)]
pub(crate) struct OnShelf {
    pub shelf: String,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct ArticleListed {
    pub id: Uuid,
    pub title: String,
    pub shelf: Option<String>,
    pub price: String,
    pub at: Timestamp,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(crate) enum Stock<'e> {
    Moved { place: Cow<'e, str>, day: Date, amount: i64, note: Option<Cow<'e, str>> },
    Opened { place: Cow<'e, str>, day: Date, amount: i64 },
    Counted { place: Cow<'e, str>, day: Date, amount: i64, version: i64 },
    Closed { place: Cow<'e, str>, day: Date, version: i64 },
}

#[derive(Deserialize)]
pub(crate) struct Question {
    pub shelf: String,
    pub place: String,
    pub day: Date,
    pub prefetch: bool,
    pub swallow: bool,
}

pub(crate) struct Shop;

#[projection(
    name = "shop",
    version = "7",
    revision = 3,
    ignores("no-news" = "nothing to do", "asked"),
    rejects("bad-price" = "the price is not a decimal")
)]
impl Shop {
    #[on("article.v1", writes(Article, Dropped))]
    fn article(event: Event<Option<ArticleListed>>, cx: &mut Context<Self>) -> Outcome {
        let Some(listed) = event.payload else {
            let key = event.key_str().and_then(|key| key.parse().ok());
            return match key {
                Some(article_id) => {
                    cx.write(Dropped { article_id });
                    Ok(())
                }
                None => cx.ignore("no-news", format!("{:?}", event.position)),
            };
        };
        cx.write(Article {
            article_id: listed.id,
            shelf: listed.shelf,
            title: listed.title,
            price: price(&listed.price)?,
            weight: None,
            tags: Json(event.headers.get_str("tag").map(str::to_owned).into_iter().collect()),
            picture: event.headers.get("picture").map(|bytes| Bytes(bytes.to_vec())),
            in_stock: 0,
            ratio: 0.5,
            on_sale: false,
            since: listed.at.date(),
            changed_at: event.timestamp_ms.map_or(listed.at, Timestamp::from_millis),
        });
        log::info(format!("{} is listed", listed.id));
        Ok(())
    }

    #[on("stock.v1", writes(Moved, Opened, Counted, Closed))]
    fn stock(event: Event<'_, Stock<'_>>, cx: &mut Context<Self>) -> Outcome {
        match event.payload {
            Stock::Moved { place, day, amount, note } => cx.write(Moved {
                place: place.into_owned(),
                day,
                amount,
                lowest: amount,
                first_note: note.map(Cow::into_owned),
            }),
            Stock::Opened { place, day, amount } => {
                cx.write(Opened { place: place.into_owned(), day, amount })
            }
            Stock::Counted { place, day, amount, version } => {
                cx.write(Counted { place: place.into_owned(), day, amount, version })
            }
            Stock::Closed { place, day, version } => {
                cx.write(Closed { place: place.into_owned(), day, version })
            }
        }
        Ok(())
    }

    #[on(
        "sale.v1",
        writes(ShelfOnSale),
        event_id(header = "x-event-id", window = "7d"),
        ordering_group = "shelf"
    )]
    #[on("sale.v2", writes(ShelfOnSale), event_id(field = "saleId", window = "36h"))]
    fn sale(event: Event<String>, cx: &mut Context<Self>) -> Outcome {
        cx.write(ShelfOnSale { shelf: event.payload, on_sale: true });
        Ok(())
    }

    #[on("cloud.v1", event_id(header = "ce_source", header = "ce_id", window = "1h"))]
    fn cloud(event: Event<String>, cx: &mut Context<Self>) -> Outcome {
        cx.ignore("asked", event.payload)
    }

    #[on("question.v1", reads(OnShelf, StockLevel, Article))]
    fn question(event: Event<Question>, cx: &mut Context<Self>) -> Outcome {
        let Question { shelf, place, day, prefetch, swallow } = event.payload;
        if prefetch {
            cx.prefetch::<StockLevel>((&place, &day));
            cx.prefetch_find(OnShelf { shelf: shelf.clone() });
        }
        let level = cx.get::<StockLevel>((place.as_str(), &day));
        let amount = if swallow { 0 } else { level?.map_or(-1, |level| level.amount) };
        let titles: Vec<_> = cx.find(OnShelf { shelf })?.into_iter().map(|article| article.title).collect();
        cx.ignore("asked", format!("{amount} {titles:?}"))
    }
}

/// A helper function without a context.
fn price(text: &str) -> Result<Decimal, Stop> {
    text.parse().map_err(|problem| Stop::reject("bad-price", problem))
}
