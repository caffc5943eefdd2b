//! What is sold, to whom and where.

/// Stock keeping unit, price in cents, and how often it is bought compared with the others.
pub(crate) const ARTICLES: [(&str, i64, u32); 24] = [
    ("yoga-mat", 3_495, 6),
    ("yoga-block", 1_190, 4),
    ("yoga-strap", 890, 3),
    ("meditation-cushion", 4_250, 2),
    ("foam-roller", 2_499, 4),
    ("kettlebell-8kg", 3_900, 3),
    ("kettlebell-16kg", 6_900, 2),
    ("jump-rope", 1_250, 5),
    ("resistance-band", 1_590, 6),
    ("running-shoes", 11_995, 4),
    ("trail-shoes", 13_995, 2),
    ("running-socks", 1_295, 8),
    ("head-torch", 3_990, 2),
    ("water-bottle", 1_890, 9),
    ("thermos", 2_990, 4),
    ("day-pack", 7_990, 3),
    ("tent-2p", 24_900, 1),
    ("sleeping-bag", 15_900, 1),
    ("sleeping-mat", 8_900, 2),
    ("camping-stove", 5_490, 1),
    ("bike-light", 2_790, 4),
    ("bike-lock", 4_590, 3),
    ("swim-goggles", 1_990, 3),
    ("microfibre-towel", 1_490, 5),
];

/// Country, and its customers compared with the others'.
pub(crate) const COUNTRIES: [(&str, u32); 12] = [
    ("DE", 30),
    ("FR", 14),
    ("NL", 9),
    ("AT", 8),
    ("GB", 8),
    ("US", 8),
    ("PL", 6),
    ("IT", 5),
    ("ES", 5),
    ("CH", 3),
    ("SE", 2),
    ("DK", 2),
];

pub(crate) const GIVEN_NAMES: [&str; 16] = [
    "Anna",
    "Björn",
    "Chloé",
    "Dávid",
    "Elif",
    "François",
    "Grażyna",
    "Henrik",
    "İpek",
    "Jürgen",
    "Katarína",
    "Łukasz",
    "Márta",
    "Noor",
    "Óscar",
    "Zoë",
];

pub(crate) const FAMILY_NAMES: [&str; 16] = [
    "Abt",
    "Bäcker",
    "de la Cruz",
    "Díaz",
    "Eriksson",
    "Fischer",
    "Grün",
    "Høj",
    "Kovács",
    "Lefèvre",
    "Müller",
    "Nowak",
    "O'Brien",
    "Rossi",
    "Șerban",
    "Weiß",
];

/// Where it is legal tender; elsewhere the shop asks for euros.
pub(crate) fn currency_in(country: &str) -> &'static str {
    match country {
        "US" => "USD",
        "GB" => "GBP",
        _ => "EUR",
    }
}
