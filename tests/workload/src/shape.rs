//! What sets a history apart from the shop's usual one.

use rand::Rng;
use rand::rngs::StdRng;

/// How orders and customers hang together. The default is the shop's usual history.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// The part of the orders, from 0 to 1, that were confirmed before and are confirmed again, with
    /// other items.
    pub confirmed_again: f64,
    pub popularity: Popularity,
    pub customers: Customers,
}

/// Which of the earlier orders is confirmed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Popularity {
    /// Each is as likely as the others.
    Uniform,
    /// The n-th order with a probability in proportion to about 1/n (Zipf's law with exponent 1):
    /// a few orders are confirmed again and again, most of them hardly ever.
    Zipf,
}

/// Who orders, and whom the customers' own topics speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Customers {
    /// Somebody new now and then; early customers are busier than late ones.
    Growing,
    /// At most so many, at least one, and each as busy as the others.
    Fixed(usize),
}

impl Default for Shape {
    fn default() -> Shape {
        Shape { confirmed_again: 0.02, popularity: Popularity::Uniform, customers: Customers::Growing }
    }
}

impl Popularity {
    /// One of `orders` orders, of which there is at least one, counted from 0.
    pub(crate) fn draw(self, orders: usize, rng: &mut StdRng) -> usize {
        match self {
            Popularity::Uniform => rng.random_range(0..orders),
            Popularity::Zipf => {
                // Of ranks up to n, Zipf's law gives those up to r the share ln r / ln n.
                let rank = (orders as f64).powf(rng.random_range(0.0..1.0)) as usize;
                rank.clamp(1, orders) - 1
            }
        }
    }
}
