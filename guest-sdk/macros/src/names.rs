//! The names in the descriptor that follow from names in Rust.

use syn::Ident;
use syn::ext::IdentExt;

/// The name of a field's column.
pub(crate) fn column(field: &Ident) -> String {
    field.unraw().to_string()
}

/// `OrderRow` as `order_row`.
pub(crate) fn snake(ident: &Ident) -> String {
    words(ident, '_')
}

/// `CountryOfOrders` as `country-of-orders`.
pub(crate) fn kebab(ident: &Ident) -> String {
    words(ident, '-')
}

fn words(ident: &Ident, between: char) -> String {
    let name = ident.unraw().to_string();
    let letters: Vec<char> = name.chars().collect();
    let mut text = String::with_capacity(name.len() + 8);
    for (at, letter) in letters.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| letters[at]);
        let begins_word = letter.is_uppercase()
            && before.is_some_and(|before| {
                // In `SKUSold` the `S` before `old` begins a word, but the `U` does not.
                !before.is_uppercase() || letters.get(at + 1).is_some_and(|after| after.is_lowercase())
            });
        if begins_word && before != Some('_') {
            text.push(between);
        }
        match letter {
            '_' => text.push(between),
            letter => text.extend(letter.to_lowercase()),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_begin_with_their_capitals() {
        let named = |name: &str| kebab(&syn::parse_str(name).unwrap());
        assert_eq!(named("CountryOfOrders"), "country-of-orders");
        assert_eq!(named("SKUSold"), "sku-sold");
        assert_eq!(named("OrderV2"), "order-v2");
        assert_eq!(named("Gone"), "gone");
        assert_eq!(named("odd_Name"), "odd-name");
    }
}
