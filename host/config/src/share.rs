//! A share of a whole: a number from 0 to 1.

use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// A number from 0 to 1. Any other number is an error.
pub(super) struct Share(pub(super) f64);

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let share = f64::deserialize(deserializer)?;
        match (0.0..=1.0).contains(&share) {
            true => Ok(Self(share)),
            false => Err(Error::custom(format!("{share} is not a share: write a number from 0.0 to 1.0"))),
        }
    }
}

/// For `#[serde(deserialize_with)]`.
pub(super) fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Share::deserialize(deserializer).map(|Share(share)| share)
}
