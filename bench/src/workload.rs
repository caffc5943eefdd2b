//! What is measured: histories of orders and customers, and how they get into the topics.

use std::time::{Duration, UNIX_EPOCH};

use clap::ValueEnum;
use projector_workload::{Customers, Mix, Popularity, Shape, Workload};

/// The end of every history, so that a seed gives the same bytes on every day.
const NOW: Duration = Duration::from_secs(1_760_000_000);

/// Part of the events that change a customer's country, in the workloads that mix.
const CHANGES_PERCENT: u32 = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// Orders, nearly all of them new.
    CatchUp,
    /// Orders, 80 % of which were confirmed before; a few again and again, by Zipf's law.
    ZipfUpdates,
    /// 95 % orders and 5 % changes of a customer's country; in the end a customer has about 5 orders.
    #[value(name = "mix-5")]
    Mix5,
    /// The same, but in the end a customer has about 500 orders.
    #[value(name = "mix-500")]
    Mix500,
}

/// How events get to a contender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// All of them are in the topics before it starts.
    Backlog,
    /// They are published while it runs, so that it is never more than about so many events behind,
    /// and always has enough to do.
    ///
    /// A consumer that is far behind is sent as many bytes of every partition, and so gets all of a
    /// small topic long before it is through with a large one: from a backlog, the few changes would
    /// all come first, and nothing would be mixed.
    Paced { behind: u64 },
}

impl Kind {
    pub(crate) const ALL: [Kind; 4] = [Kind::CatchUp, Kind::ZipfUpdates, Kind::Mix5, Kind::Mix500];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::CatchUp => "catch-up",
            Kind::ZipfUpdates => "zipf-updates",
            Kind::Mix5 => "mix-5",
            Kind::Mix500 => "mix-500",
        }
    }

    pub(crate) fn describe(self) -> &'static str {
        match self {
            Kind::CatchUp => "orders, 98 % of them new; all in the topic beforehand",
            Kind::ZipfUpdates => {
                "orders, 80 % of them confirmed before (Zipf, exponent 1); all in the topic beforehand"
            }
            Kind::Mix5 => {
                "95 % orders, 5 % country changes, about 5 orders a customer at the end; published meanwhile"
            }
            Kind::Mix500 => {
                "95 % orders, 5 % country changes, about 500 orders a customer at the end; published meanwhile"
            }
        }
    }

    /// How many events it has where the others have `events`.
    pub(crate) fn events(self, events: usize) -> usize {
        match self {
            // Each of its changes touches hundreds of rows.
            Kind::Mix500 => events / 4,
            _ => events,
        }
    }

    pub(crate) fn delivery(self) -> Delivery {
        match self {
            Kind::CatchUp | Kind::ZipfUpdates => Delivery::Backlog,
            Kind::Mix5 | Kind::Mix500 => Delivery::Paced { behind: 6_000 },
        }
    }

    pub(crate) fn workload(self, seed: u64, events: usize) -> Workload {
        let events = self.events(events);
        let mut workload = Workload::new(seed, events, UNIX_EPOCH + NOW);
        let (country_changes, shape) = match self {
            Kind::CatchUp => (0, Shape::default()),
            Kind::ZipfUpdates => {
                (0, Shape { confirmed_again: 0.8, popularity: Popularity::Zipf, ..Shape::default() })
            }
            Kind::Mix5 => (CHANGES_PERCENT, shared_by_customers_of(5, events)),
            Kind::Mix500 => (CHANGES_PERCENT, shared_by_customers_of(500, events)),
        };
        workload.mix = Mix { orders: 100 - country_changes, country_changes, profile_updates: 0 };
        workload.shape = shape;
        workload
    }
}

/// Of so many events, each customer has about `orders` orders.
fn shared_by_customers_of(orders: usize, events: usize) -> Shape {
    Shape { customers: Customers::Fixed((events / orders).max(1)), ..Shape::default() }
}
